"""`lab.metrics`, and the production system's own names for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from novellus_lab import Lab, MetricsCollector
from novellus_lab.cli.options import log_of
from novellus_lab.errors import InvalidRequestError, UnknownModelError
from novellus_lab.monitoring.current import current_metrics
from novellus_lab.monitoring.period import period
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_error


@pytest.fixture
def lab(make_lab: Any) -> Any:
    replies: list[Any] = []

    def reply(request: Any) -> Any:
        return replies.pop(0) if replies else openai_chat_reply("Yes.")

    with ScriptedServer(reply) as llm:
        lab = make_lab(openai_model("gpt-4o", llm.url), retries={"max_attempts": 1})
        lab.replies = replies
        yield lab
        lab.close()


def test_a_call_just_made_is_in_the_metrics(lab: Lab) -> None:
    lab.complete("one", use_cache=False)
    assert lab.metrics("gpt-4o").requests.total == 1
    lab.complete("two")
    lab.complete("two")
    m = lab.metrics(model_id="gpt-4o", time_range="24h")
    assert (m.requests.total, m.calls.answered) == (3, 2)
    assert m.success_rate == 100
    assert m.cache.by_tier["memory"] == m.cache.hit_rate == 0.5
    assert m.latency.count == 2
    assert m.exact
    assert m.latency.avg >= m.provider_latency.avg > 0
    assert isinstance(m.cost.total, Decimal)
    assert m.cost.total == 2 * m.cost.saved_by_cache > 0
    assert lab.monitor.metrics(None, timedelta(hours=2)).requests.total == 3


def test_failures_are_counted_by_class(lab: Any) -> None:
    lab.replies += [openai_error(503, "down"), openai_chat_reply("Yes.")]
    with pytest.raises(Exception, match="gpt-4o"):
        lab.complete("one", use_cache=False)
    lab.complete("one", use_cache=False)
    m = lab.metrics("gpt-4o")
    assert m.success_rate == 50
    assert m.errors_by_class == {"ProviderUnavailableError": 1}


def test_it_is_a_mapping_too_and_shows_itself(lab: Lab) -> None:
    lab.complete("one")
    m = lab.metrics("gpt-4o")
    assert m["latency"]["avg"] == m.latency.avg
    assert set(m) >= {"success_rate", "latency", "cost", "cache", "tokens"}
    assert m.get("nothing") is None
    with pytest.raises(KeyError):
        m["nothing"]
    with pytest.raises(AttributeError):
        m.success_rate = 3  # type: ignore[misc]
    assert "1 requests" in repr(m)
    page = m._repr_html_()
    assert "success rate" in page
    assert "quantiles are exact" in page


async def test_the_production_systems_collector_gives_plain_dicts(lab: Lab) -> None:
    await lab.acomplete("one")
    metrics = await MetricsCollector(lab).get_model_metrics(model_id="gpt-4o", time_range="6h")
    assert type(metrics) is dict
    assert type(metrics["latency"]) is dict
    assert metrics["success_rate"] == 100
    assert metrics["latency"]["avg"] > 0
    assert metrics["cost"]["total"] > 0
    assert metrics == (await lab.monitor.ametrics("gpt-4o", "6h")).to_dict() | {
        "start": metrics["start"],
        "end": metrics["end"],
    }


def test_a_model_that_nobody_knows_is_refused_and_one_of_the_log_is_not(
    lab: Lab, make_lab: Any
) -> None:
    lab.complete("one")
    with pytest.raises(UnknownModelError, match="gpt-4o"):
        lab.metrics("gpt-4")
    later = make_lab(openai_model("another", "http://127.0.0.1:9"))
    assert (
        later.metrics("gpt-4o").requests.total == 0 or later.metrics("gpt-4o").requests.total == 1
    )
    assert later.metrics("another").success_rate is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gpt-4o", "tomorrow"), "time_range"),
        ((3,), "model_id"),
        (("gpt-4o", ("1h",)), "time_range"),
    ],
)
def test_bad_arguments_are_refused(lab: Lab, arguments: Any, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        lab.metrics(*arguments)
    with pytest.raises(InvalidRequestError, match=told):
        asyncio.run(lab.monitor.ametrics(*arguments))


def test_who_may_only_read_sees_what_others_rolled_up(lab: Lab, database: Any) -> None:
    lab.complete("one")
    assert lab.metrics("gpt-4o").calls.answered == 1
    lab.complete("two")
    lab.flush()
    only_reading = f"{database.conninfo} options='-c default_transaction_read_only=on'"
    with log_of(None, only_reading, None) as (reached, _, catalog):
        m = asyncio.run(current_metrics(reached.conninfo, catalog, "gpt-4o", period("1h")))
    assert m.calls.answered == 1
