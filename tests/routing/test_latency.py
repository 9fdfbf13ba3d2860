"""Forecasts of latency, tested by simulation."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.routing.latency import LatencyTracker, chances_of_least


def test_a_forecast_knows_what_size_does():
    """A model with 300 ms and 20 ms a token, seen at sizes of every kind."""
    tracker, random = LatencyTracker(), Random(1)
    for _ in range(300):
        tokens = random.choice([20, 60, 200, 600, 1500])
        ms = (300 + 20 * tokens) * math.exp(random.gauss(0, 0.2))
        tracker.observe("m", ms, input_tokens=50, output_tokens=tokens)
    for tokens in (20, 200, 1000):
        forecast = tracker.forecast("m", input_tokens=50, output_tokens=tokens)
        assert forecast.latency_ms == pytest.approx(300 + 20 * tokens, rel=0.3)
        assert forecast.sd_log < 0.1


def test_a_model_seen_with_long_answers_only_is_not_held_to_be_slow():
    tracker = LatencyTracker()
    for _ in range(30):
        tracker.observe("wordy", 8000, input_tokens=50, output_tokens=1000)
        tracker.observe("brief", 1500, input_tokens=50, output_tokens=50)
    at = {"input_tokens": 50, "output_tokens": 300}
    wordy, brief = tracker.forecast("wordy", **at), tracker.forecast("brief", **at)
    assert wordy.latency_ms < brief.latency_ms


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_its_uncertainty_is_that_of_what_it_says(spread):
    """Over many models, the truth lies within 90 % intervals most of the time."""
    random, inside, n = Random(3), 0, 400
    for _ in range(n):
        tracker = LatencyTracker()
        truth = random.gauss(math.log(1000), 1.0)
        for _ in range(8):
            tracker.observe("m", math.exp(random.gauss(truth, spread)), output_tokens=256)
        forecast = tracker.forecast("m", output_tokens=256)
        inside += abs(forecast.mean_log_ms - truth) <= 1.645 * forecast.sd_log
    assert 0.8 <= inside / n <= 0.99


def test_the_log_teaches_what_is_older_without_hiding_what_is_newer():
    tracker = LatencyTracker()
    for _ in range(10):
        tracker.observe("m", 100, output_tokens=256)
    for _ in range(10):
        tracker.observe("m", 2000, output_tokens=256, age_s=3600)
    assert tracker.forecast("m", output_tokens=256).latency_ms == pytest.approx(100, rel=0.3)


def test_an_unseen_model_says_so():
    tracker = LatencyTracker()
    assert tracker.latency_ms("m") is None
    assert tracker.ttft_ms("m") is None
    assert not tracker.forecast("m").seen


NORMAL = st.tuples(st.floats(-3, 3), st.floats(0.01, 2))


@given(st.lists(NORMAL, min_size=1, max_size=12))
def test_chances_are_probabilities(normals):
    chances = chances_of_least(*map(list, zip(*normals, strict=True)))
    assert math.isclose(sum(chances), 1.0, abs_tol=1e-9)
    assert min(chances) >= 0


@pytest.mark.parametrize(
    ("means", "sds"),
    [([0, 0.2], [0.3, 0.3]), ([0, 0.5, 1], [0.2, 0.6, 1.0]), ([0, 0, 0, 0], [0.1, 0.1, 1, 1])],
)
def test_chances_are_those_of_drawing(means, sds):
    random, n = Random(2), 40_000
    wins = [0] * len(means)
    for _ in range(n):
        draws = [random.gauss(m, s) for m, s in zip(means, sds, strict=True)]
        wins[draws.index(min(draws))] += 1
    for chance, won in zip(chances_of_least(means, sds), wins, strict=True):
        assert chance == pytest.approx(won / n, abs=0.06)
