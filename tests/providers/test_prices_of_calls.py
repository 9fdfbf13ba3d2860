"""What a call through the lab costs where the answer says more than tokens."""

from __future__ import annotations

from decimal import Decimal

import pytest

from novellus_lab import Lab
from tests.loopback import Scripted, ScriptedServer

ADVICE = {
    "input_tokens": 1000, "output_tokens": 100, "service_tier": "standard",
    "iterations": [
        {"type": "message", "input_tokens": 1000, "output_tokens": 100},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2000,
         "output_tokens": 50},
    ],
}  # fmt: skip


def claude(usage):
    content = [{"type": "text", "text": "Hello"}]
    return Scripted(
        body={"id": "m", "model": "claude-sonnet-4-5-20250929", "content": content,
              "stop_reason": "end_turn", "usage": usage}
    )  # fmt: skip


@pytest.fixture
def lab_with(database, tmp_path):
    labs = []

    def make(**model):
        lab = Lab(
            config={"models": [model]}, database_url=database.conninfo, home=tmp_path / "home"
        )
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        lab.close()


def test_what_an_advisor_did_is_priced_as_that_models(lab_with):
    with ScriptedServer(claude(ADVICE)) as server:
        lab = lab_with(provider="anthropic", model_name="claude-sonnet-4-5", base_url=server.url)
        reply = lab.complete("Hi")
    # 3 and 15 dollars a million for Sonnet 4.5, 5 and 25 for Opus 4.8
    own, advisor = Decimal("0.0045"), Decimal("0.01125")
    assert reply.cost == own + advisor
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (1000, 100)
    (attempt,) = reply.attempts
    assert sum(line.cost_usd for line in attempt.price.lines) == reply.cost
    assert len(attempt.price.lines) == 4


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"iterations": [{"type": "advisor_message", "model": "a-model-to-come", "input_tokens": 9}]},
         "a-model-to-come"),
        ({"inference_geo": "us"}, "inference_geo us"),
        ({"speed": "fast"}, "fast"),
    ],
)  # fmt: skip
def test_what_has_no_known_price_makes_the_cost_unknown_not_low(lab_with, more, why):
    with ScriptedServer(claude({"input_tokens": 9, "output_tokens": 9, **more})) as server:
        lab = lab_with(provider="anthropic", model_name="claude-sonnet-4-5", base_url=server.url)
        reply = lab.complete("Hi")
    assert reply.cost is None
    assert why in reply.attempts[0].price.reason


def test_embeddings_whose_tokens_nobody_counted_are_estimated_not_free(lab_with):
    with ScriptedServer(Scripted(body={"embeddings": [{"values": [1.0, 0.5]}]})) as server:
        lab = lab_with(
            provider="google",
            model_name="gemini-embedding-001",
            base_url=server.url,
            capabilities=["embedding"],
        )
        assert list(lab.embed("a text of some words")) == [1.0, 0.5]
        lab.flush()
        (row,) = lab.requests("1h").to_dicts()
    assert row["input_tokens"] > 3
    assert row["cost_usd"] > 0
