"""The injected-fault benchmark injects what it says, and judges alarms by it."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from benchmarks import injected_faults
from benchmarks.injected_faults import FAULTS, MINUTES, Injected, Tally, Trace, plan, points


@pytest.fixture
def trace() -> Trace:
    rng = np.random.default_rng(0)
    size = 20 * 200
    return Trace(
        "made up",
        np.repeat(np.arange(20), 200),
        rng.integers(100, 2000, size),
        rng.integers(10, 400, size),
        np.full(size, 4),
        np.full(size, 2),
    )


def test_faults_are_apart_and_within_the_run(trace: Trace) -> None:
    for seed in range(20):
        planned = plan(trace, random.Random(seed))
        assert {one.fault for one in planned} == set(FAULTS)
        assert planned[0].first >= injected_faults.FIRST_FAULT
        assert planned[-1].end <= MINUTES
        for before, after in itertools.pairwise(planned):
            assert after.first - before.end >= injected_faults.GAP


def test_each_fault_shows_where_it_should(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injected_faults, "MINUTES", 400)
    for fault in FAULTS:
        now = Injected(fault, 100, 100 + min(fault.minutes, 30))
        series = list(points(trace, [now], np.random.default_rng(1)))
        calm = list(points(trace, [], np.random.default_rng(1)))

        def mean(rows, value, now=now) -> float:
            return float(np.mean([value(point) for point in rows[now.first : now.end]]))

        def ratio(value, series=series, calm=calm) -> float:
            return mean(series, value) / mean(calm, value)

        if fault.latency > 1 and not fault.gradual:
            assert ratio(lambda p: p.bucket.latency_ms) == pytest.approx(fault.latency, rel=0.1), (
                fault
            )
        if fault.errors:
            rate = mean(series, lambda p: p.bucket.errors / p.bucket.requests)
            assert rate == pytest.approx(0.01 + fault.errors, rel=0.2)
        if fault.traffic > 1:
            assert ratio(lambda p: p.bucket.requests) == pytest.approx(fault.traffic, rel=0.1)
        if fault.output > 1:
            assert ratio(lambda p: p.output_tokens) == pytest.approx(fault.output, rel=0.1)
        if fault.hits < 1:
            assert ratio(lambda p: p.hit_rate) == pytest.approx(fault.hits, rel=0.01)


def test_alarms_are_judged_by_the_plan() -> None:
    fault = FAULTS[0]
    first = injected_faults.FIRST_FAULT + 100
    tally = Tally({}, {})
    alarms = [(first + 4, "latency_ms"), (first + 9, "latency_ms"), (first + 900, "requests")]
    tally.add(alarms, [Injected(fault, first, first + fault.minutes)])
    assert tally.delays == {fault.name: [5]}
    assert (tally.right, tally.wrong) == (1, 1)
