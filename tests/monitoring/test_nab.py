"""The benchmark's scorer is NAB's own: it gives published detectors their published scores."""

from __future__ import annotations

import pytest

from benchmarks.nab.__main__ import DATA, main
from benchmarks.nab.corpus import Series, read_profiles, read_published, read_series
from benchmarks.nab.published import REPRODUCED
from benchmarks.nab.scoring import best_threshold, corpus_score, score_series

SERIES = read_series(DATA)
STANDARD, LOW_FALSE, LOW_MISSED = read_profiles(DATA)


def differing(name: str, series: list[Series]) -> list[str]:
    detector, threshold = REPRODUCED[name]
    published = read_published(DATA)[name]
    return [
        one.name
        for one in series
        if f"{score_series(one, detector(one), threshold, STANDARD).score:.12g}"
        != f"{published[one.name]:.12g}"
    ]


@pytest.mark.parametrize("name", REPRODUCED)
def test_published_scores_are_reproduced_to_their_last_digit(name: str) -> None:
    short = [one for one in SERIES if len(one.values) < 2000]
    assert len(short) == 7
    assert differing(name, short) == []


@pytest.mark.long
@pytest.mark.parametrize("name", REPRODUCED)
def test_all_published_scores_are(name: str) -> None:
    assert differing(name, SERIES) == []


def test_never_alarming_scores_0_and_perfection_100() -> None:
    silent = [(one, [0.0] * len(one.values)) for one in SERIES]
    perfect = []
    for one in SERIES:
        scores = [0.0] * len(one.values)
        for first, _ in one.windows:
            scores[first] = 1.0
        perfect.append((one, scores))
    for profile in (STANDARD, LOW_FALSE, LOW_MISSED):
        assert corpus_score(silent, profile, 0.5) == pytest.approx(0)
        assert corpus_score(perfect, profile) == pytest.approx(100)


def test_the_optimiser_finds_what_scoring_at_each_threshold_would() -> None:
    small = [one for one in SERIES if len(one.values) < 2000]
    scored = [
        (
            one,
            [
                round(0.5 + ((n * 7919 + len(one.name)) % 997) / 2000, 2)
                for n in range(len(one.values))
            ],
        )
        for one in small
    ]
    for profile in (STANDARD, LOW_FALSE, LOW_MISSED):
        threshold, total = best_threshold(scored, profile)
        candidates = sorted({score for _, scores in scored for score in scores} | {1.1})
        totals = {
            limit: sum(score_series(one, scores, limit, profile).score for one, scores in scored)
            for limit in candidates
        }
        assert total == pytest.approx(max(totals.values()))
        assert totals[threshold] == pytest.approx(total)


@pytest.mark.long
def test_the_benchmark_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DATA), "--sensitivity", "--by-series"]) == 0
    printed = capsys.readouterr().out
    assert "novellus adaptive" in printed
    assert "ARTime (published)" in printed
