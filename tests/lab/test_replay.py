"""A lab on recorded answers: priced, logged, labelled as replay, and fit for comparisons."""

from __future__ import annotations

from decimal import Decimal

from novellus_lab.providers.replay_data import MODELS, recorded_prompts, recordings

GPT4, MIXTRAL = MODELS
QUESTION = recorded_prompts(1)[0]
ENTRIES = [{"provider": "replay", "model_name": name} for name in MODELS]
AT_ONCE = {"providers": {"replay": {"options": {"time_scale": 0}}}}


def test_through_the_lab_it_is_priced_logged_and_labelled(make_lab, rows):
    lab = make_lab(*ENTRIES, **AT_ONCE)
    answers = [lab.complete(QUESTION, model_id=f"replay/{name}") for name in MODELS]
    stream = lab.stream(QUESTION, model_id=f"replay/{GPT4}", use_cache=False)
    list(stream)
    lab.flush()
    gpt4, recorded = answers[0], recordings()[" ".join(QUESTION.split())][GPT4]
    # GPT-4 Turbo: $10 and $30 a million.
    assert gpt4.cost == Decimal(recorded.input_tokens * 10 + recorded.output_tokens * 30) / 10**6
    assert stream.completion.cost == gpt4.cost
    assert answers[1].cost is not None
    assert 0 < answers[1].cost < gpt4.cost
    for answer in answers:
        assert answer.is_replay
        assert "replay" in repr(answer).lower()
        assert "replay" in answer._repr_html_().lower()
    for row in rows():
        assert row["provider"] == "replay"
        assert row["raw_usage"]["replay"] is True
        # What was waited for and what was drawn stand apart.
        assert row["raw_usage"]["simulated_latency_ms"] > 300
        assert row["raw_usage"]["time_scale"] == 0


def test_time_scale_is_the_share_that_is_waited_for(make_lab):
    lab = make_lab(*ENTRIES, providers={"replay": {"options": {"time_scale": 0.05}}})
    answer = lab.complete(QUESTION, model_id=f"replay/{MIXTRAL}")
    drawn_ms = answer.attempts[0].raw_usage["simulated_latency_ms"]
    assert answer.latency_ms >= drawn_ms * 0.05 * 0.95


def test_the_router_learns_from_what_was_drawn(make_lab):
    """Not from what was waited for: at `time_scale: 0` that is noise."""
    lab = make_lab(*ENTRIES, **AT_ONCE)
    for name in MODELS:
        lab.complete(QUESTION, model_id=f"replay/{name}")
    route = lab.complete(QUESTION, model_selection_strategy="least_latency", use_cache=False).route
    assert route.picked == f"replay/{MIXTRAL}"
    assert min(c.score for c in route.candidates) > 200


def test_drawn_faults_drive_failover(make_lab, rows):
    always = {**ENTRIES[0], "priority": 900, "params": {"error_rate": 1, "time_scale": 0}}
    lab = make_lab(always, ENTRIES[1], **AT_ONCE)
    answer = lab.complete(QUESTION, model_selection_strategy="priority")
    assert answer.model == f"replay/{MIXTRAL}"
    assert [a.role for a in answer.attempts] == ["primary", "retry", "retry", "failover"]
    lab.flush()
    assert rows()[0]["cost_usd"] == answer.cost  # faults cost nothing
