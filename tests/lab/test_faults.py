"""Each row of the fault table (`benchmarks.faults`, `docs/faults.md`): the caller's end, and the log's."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from benchmarks.faults import cells, faults, meet

FAULTS = {fault.name: fault for fault in faults(retry_after_s=0.1, patience_s=0.6)}

RATE, DOWN = ("RateLimitError", 429), "ProviderUnavailableError"
OK = ("ok", None)
FREE = Decimal(0)
PAID = Decimal("0.02")
"""Of an answer with 10 tokens in and 5 out."""


@dataclass(frozen=True)
class Expected:
    got: str
    attempts: list[tuple[str, str, tuple[str, int | None]]]
    """Model, role, and how it ended."""
    cost_usd: Decimal | str | None = PAID
    """None: unknown; "estimated": known as far as we could count."""
    partial: str | None = None


def first(*ends, role="primary"):
    roles = [role, *["retry"] * len(ends)]
    return [("first", r, end) for r, end in zip(roles, ends, strict=False)]


def second(*ends):
    roles = ["failover", *["retry"] * len(ends)]
    return [("second", r, end) for r, end in zip(roles, ends, strict=False)]


ANSWER, STAND_IN = "'Good.' of first", "'Good.' of second"
HEDGED = [("first", "primary", ("CancelledError", None)), ("second", "hedge", OK)]
LOST = (DOWN, None)

EXPECTED = {
    "429 once, with retry-after": Expected(ANSWER, first(RATE, OK)),
    "429 always, without retry-after": Expected("RateLimitError", first(*[RATE] * 3), FREE),
    "429 always, without retry-after; another stands by": Expected(
        STAND_IN, first(*[RATE] * 3) + second(OK)
    ),
    "429, retry-after an hour": Expected("RateLimitError", first(RATE), FREE),
    "429, retry-after an hour; another stands by": Expected(STAND_IN, first(RATE) + second(OK)),
    "500 always": Expected(DOWN, first(*[(DOWN, 500)] * 3), FREE),
    "500 always; another stands by": Expected(STAND_IN, first(*[(DOWN, 500)] * 3) + second(OK)),
    "503 once": Expected(ANSWER, first((DOWN, 503), OK)),
    "hangs": Expected("DeadlineExceededError", first(("DeadlineExceededError", None)), None),
    "hangs, its timeout_s set; another stands by": Expected(
        STAND_IN, first(*[("ProviderTimeoutError", None)] * 3) + second(OK), None
    ),
    "hangs, hedged; another stands by": Expected(STAND_IN, HEDGED, "estimated"),
    "slow first byte": Expected(ANSWER, first(OK)),
    "slow first byte of a stream": Expected(ANSWER, first(OK), Decimal("0.014")),
    "slow first byte of a stream, hedged; another stands by": Expected(
        STAND_IN, HEDGED, "estimated"
    ),
    "connection reset before a stream's first token; another stands by": Expected(
        STAND_IN, first(*[LOST] * 3) + second(OK), None
    ),
    "connection reset in mid-stream; another stands by": Expected(
        DOWN, first(LOST), "estimated", partial="Go"
    ),
    "connection reset once, no stream": Expected(ANSWER, first(LOST, OK), None),
    "malformed JSON always": Expected(DOWN, first(*[(DOWN, 200)] * 3), None),
    "malformed JSON always; another stands by": Expected(
        STAND_IN, first(*[(DOWN, 200)] * 3) + second(OK), None
    ),
    "an answer without usage": Expected(ANSWER, first(OK), "estimated"),
    "an answer with senseless usage": Expected(ANSWER, first(OK), "estimated"),
    "DNS failure": Expected(DOWN, first(*[LOST] * 3), FREE),
    "DNS failure; another stands by": Expected(STAND_IN, first(*[LOST] * 3) + second(OK)),
    "one region down, first call": Expected(STAND_IN, first(*[LOST] * 3) + second(OK)),
    "one region down, third call": Expected(STAND_IN, [("second", "primary", OK)]),
    "all down": Expected(DOWN, first(*[LOST] * 3) + second(*[(DOWN, 503)] * 3), FREE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_becomes_of_a_call(make_lab, rows, name):
    expected, fault = EXPECTED[name], FAULTS[name]
    outcome = meet(fault, make_lab, rows)
    assert (outcome.got, outcome.partial) == (expected.got, expected.partial)
    request = outcome.request
    assert len(rows()) == fault.calls  # one row a call, whatever its end
    answered = "of" in expected.got
    assert request["status"] == ("ok" if answered else "error")
    assert request["error_class"] == (None if answered else expected.got)
    assert request["model"] == expected.attempts[-1][0]
    assert request["attempts"] == len(outcome.attempts)
    assert [
        (a["model_id"], a["role"], (a["error_class"] or a["status"], a["status_code"]))
        for a in outcome.attempts
    ] == expected.attempts
    costs = [a["cost_usd"] for a in outcome.attempts]
    assert request["cost_usd"] == (None if None in costs else sum(costs))
    if expected.cost_usd == "estimated":
        assert request["cost_usd"] > 0
        assert any(a["usage_estimated"] for a in outcome.attempts)
    else:
        assert request["cost_usd"] == expected.cost_usd
    assert all(a["cost_usd"] is not None or a["unpriced_reason"] for a in outcome.attempts)
    assert len(cells(outcome)) == 4
