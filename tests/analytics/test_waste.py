"""Every provider call has one end, and all of them add up to what was spent."""

from __future__ import annotations

from decimal import Decimal

from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.log_columns import ATTEMPTS
from novellus_lab.analytics.waste import waste
from novellus_lab.ids import uuid7


def asked(by=None, **filters):
    return Question(ATTEMPTS, None, by, None, "UTC", filters)


def test_each_call_is_told_by_what_became_of_it(mirror, log):
    usd = iter(Decimal(2**n) / 1000 for n in range(20))
    requests = {name: uuid7() for name in ("plain", "tried", "lost", "race", "left", "steps")}
    log(*({"id": id, "tags": {"case": name}} for name, id in requests.items()))

    def call(request, number, role="primary", status="ok", **more):
        return {
            "request_id": requests[request], "number": number, "role": role, "status": status,
            "cost_usd": next(usd), **more,
        }  # fmt: skip

    log(
        call("plain", 1),  # 1
        call("tried", 1, status="error", error_class="RateLimitError"),  # 2
        call("tried", 2, "retry", "error"),  # 4
        call("tried", 3, "failover", model_id="n"),  # 8
        call("lost", 1, status="error"),  # 16
        call("lost", 2, "retry", "error"),  # 32
        call("race", 1, status="cancelled"),  # 64
        call("race", 2, "hedge"),  # 128
        call("left", 1, status="cancelled"),  # 256
        call("steps", 1),  # 512
        call("steps", 2, "failover"),  # 1024
        call("steps", 3, "shadow"),  # 2048
        call("steps", 4, "judge", "error"),  # 4096
        {**call("plain", 2, "shadow"), "cost_usd": None},
        table="ai_request_attempts",
    )
    frame = waste(mirror, asked())
    assert {row["went"]: row["cost_usd"] * 1000 for row in frame.to_dicts()} == {
        "answer": 1 + 8 + 128 + 1024, "retried": 2 + 4 + 16, "failed": 32, "hedged": 64,
        "cancelled": 256, "escalated": 512, "shadow": 2048, "judge": 4096,
    }  # fmt: skip
    assert frame["cost_usd"].sum() == Decimal(2**13 - 1) / 1000
    assert abs(frame["share_of_cost"].sum() - 1) < 1e-12
    [unpriced] = frame.filter(went="shadow")["unpriced"]
    assert unpriced == 1
    by_case = waste(mirror, asked(["tag:case"], model="m", tag={"case": ["tried", "race"]}))
    assert [(r["tag:case"], r["went"]) for r in by_case.to_dicts()] == [
        ("race", "answer"), ("race", "hedged"), ("tried", "retried"),
    ]  # fmt: skip
    assert by_case.filter(went="retried")["share_of_cost"].to_list() == [1.0]


def test_no_calls_no_waste(mirror):
    assert waste(mirror, asked("model")).height == 0
