"""Another threshold of the semantic cache, played on a log that calls made."""

from __future__ import annotations

import pytest

from novellus_lab.errors import InvalidRequestError
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply

PYTHON, SAME, NEAR = "What is Python?", "Tell me about Python programming", "How does Python work?"
OTHER = "Which river flows through Vienna?"


@pytest.fixture
def lab(make_lab):
    """A miss, a hit, three misses that asked the semantic cache, and one that did not."""
    with ScriptedServer(openai_chat_reply("Yes.")) as server:
        lab = make_lab(openai_model("m", server.url), openai_model("n", server.url))
        for prompt in (PYTHON, SAME, NEAR, OTHER):
            lab.complete(prompt, use_semantic_cache=True, tags={"team": prompt[:3]})
        lab.complete("Explain rivers", use_semantic_cache=False)
        lab.flush()
        yield lab


def one(frame):
    [row] = frame.to_dicts()
    return row


def test_a_higher_threshold_makes_misses_of_hits(lab):
    now = one(lab.analytics.what_if(semantic_threshold=0.85))
    assert (now["requests"], now["hits"], now["would_hits"], now["not_known"]) == (5, 1, 1, 1)
    assert now["difference_usd"] == 0
    assert now["difference_low_usd"] is None  # nothing varied
    none = one(lab.analytics.what_if(semantic_threshold=1))
    served = lab.sql("SELECT uncached_cost_usd FROM requests WHERE cache = 'semantic'").fetchall()
    assert (none["would_hits"], none["difference_usd"]) == (0, served[0][0])
    assert none["would_hits_low"] < 0.5 < none["hits"]


def test_a_lower_threshold_makes_hits_of_misses_that_were_near(lab):
    row = one(lab.analytics.what_if(semantic_threshold=0.01))
    assert row["would_hits"] > 1
    assert row["difference_usd"] < 0
    assert row["would_usd"] == row["cost_usd"] + row["difference_usd"]
    assert row["difference_low_usd"] < row["difference_usd"] < row["difference_high_usd"]
    by_team = lab.analytics.what_if(semantic_threshold=0.01, by="tag:team")
    assert by_team["would_hits"].sum() == row["would_hits"]
    assert by_team["difference_usd"].sum() == row["difference_usd"]
    # The first question found an empty cache: no threshold makes a hit of it.
    assert by_team.filter(**{"tag:team": "Wha"})["would_hits"].to_list() == [0]


def test_a_sample_stands_for_all_and_groups_without_one_are_not_known(lab):
    row = one(lab.analytics.what_if(semantic_threshold=0.01, sample=1))
    assert row["sampled"] == 1
    by_team = lab.analytics.what_if(semantic_threshold=0.01, sample=1, by="tag:team")
    assert by_team["would_hits"].null_count() == 2
    none = lab.analytics.what_if(semantic_threshold=0.5, model="nobody")
    assert one(none)["requests"] == 0


@pytest.mark.parametrize(
    "wrong", [{"semantic_threshold": 1.5}, {"semantic_threshold": 1, "sample": 0}]
)
def test_what_can_not_be(lab, wrong):
    with pytest.raises(InvalidRequestError, match="must be from"):
        lab.analytics.what_if(**wrong)


async def test_the_twin(lab):
    frame = await lab.analytics.awhat_if(semantic_threshold=0.9)
    assert frame["requests"].to_list() == [5]
