"""Recorded answers: real texts, tokens and prices, latencies as stated."""

from __future__ import annotations

import asyncio
import math
import statistics

import pytest

from novellus_lab.errors import (
    BadRequestError,
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
    UnsupportedParameterError,
)
from novellus_lab.providers.base import Call, ProviderConfig
from novellus_lab.providers.replay import PACES, ReplayProvider
from novellus_lab.providers.replay_data import MODELS, recorded_prompts, recordings

GPT4 = MODELS[0]
QUESTION = recorded_prompts(1)[0]


def provider(**options) -> ReplayProvider:
    return ReplayProvider(ProviderConfig("replay", options={"time_scale": 0, **options}))


def call(question=QUESTION, model=GPT4, **more) -> Call:
    return Call(model=model, messages=[{"role": "user", "content": question}], **more)


async def drain(stream):
    return [delta async for delta in stream]


@pytest.mark.parametrize("model", MODELS)
async def test_the_recorded_text_and_its_tokens_are_given_whole_and_streamed(model):
    recorded = recordings()[" ".join(QUESTION.split())][model]
    reply = await provider().complete(call(model=model))
    assert reply.content == recorded.content
    assert reply.usage.input_tokens == recorded.input_tokens
    assert reply.usage.output_tokens == recorded.output_tokens
    assert not reply.usage.estimated
    deltas = await drain(provider().stream(call(model=model)))
    assert "".join(d.content for d in deltas) == recorded.content
    assert deltas[-1].reply == reply


@pytest.mark.parametrize("model", MODELS)
async def test_latencies_are_distributed_as_stated(model):
    """Quantiles of the first token against the lognormal's, within five standard errors."""
    replay, pace, n = provider(), PACES[model], 3000
    prompts = recorded_prompts(1000)
    ttft, per_token = [], []
    for k in range(n):
        raw = (await replay.complete(call(prompts[k % 1000], model))).raw_usage
        ttft.append(raw["simulated_ttft_ms"])
        rest_ms = raw["simulated_latency_ms"] - raw["simulated_ttft_ms"]
        per_token.append(rest_ms / raw["completion_tokens"])
    for drawn, median, sigma in (
        (ttft, pace.ttft_median_ms, pace.sigma),
        (per_token, pace.token_median_ms, pace.sigma / 2),
    ):
        normal = statistics.NormalDist()
        ordered = sorted(drawn)
        for q in (0.1, 0.5, 0.9):
            z = normal.inv_cdf(q)
            got = (math.log(ordered[int(q * n)]) - math.log(median)) / sigma
            standard_error = math.sqrt(q * (1 - q) / n) / normal.pdf(z)
            assert abs(got - z) < 5 * standard_error


async def test_draws_repeat_with_the_seed_and_differ_from_call_to_call():
    async def latencies(**options):
        replay = provider(**options)
        return [(await replay.complete(call())).simulated_latency_ms for _ in range(5)]

    first = await latencies(seed=3)
    assert first == await latencies(seed=3)
    assert first != await latencies(seed=4)
    assert len(set(first)) == 5
    assert (await provider().complete(call(seed=1))) != (await provider().complete(call(seed=2)))


@pytest.mark.parametrize(
    ("rates", "share", "errors"),
    [
        ({"error_rate": 0.3}, 0.3, {ProviderUnavailableError}),
        ({"rate_limit_rate": 0.2}, 0.2, {RateLimitError}),
        ({"error_rate": 0.2, "rate_limit_rate": 0.2}, 0.4, {ProviderUnavailableError, RateLimitError}),
    ],
)  # fmt: skip
async def test_faults_come_as_often_as_they_should(rates, share, errors):
    replay, n, failed = provider(**rates), 2000, []
    prompts = recorded_prompts(1000)
    for k in range(n):
        try:
            await replay.complete(call(prompts[k % 1000]))
        except (ProviderUnavailableError, RateLimitError) as error:
            failed.append(type(error))
    assert set(failed) == errors
    assert abs(len(failed) / n - share) < 5 * math.sqrt(share * (1 - share) / n)


async def test_what_a_recording_can_not_honour_is_named_or_refused():
    reply = await provider().complete(call(temperature=0.5, max_tokens=9, stop=("x",), top_p=0.5))
    assert sorted(reply.dropped_params) == ["max_tokens", "stop", "temperature", "top_p"]
    tool = {"type": "function", "function": {"name": "f"}}
    for needed in ({"tools": [tool]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(UnsupportedParameterError):
            await provider().complete(call(**needed))
        with pytest.raises(UnsupportedParameterError):
            await drain(provider().stream(call(**needed)))
        dropped = await provider().complete(call(**needed, on_unsupported="drop"))
        assert dropped.dropped_params == tuple(needed)


@pytest.mark.parametrize("wrong", [{"time_scale": -1}, {"error_rate": 2}, {"error_rate": "often"}])
async def test_a_wrong_option_is_named(wrong):
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        await provider(**wrong).complete(call())


async def test_what_was_never_recorded_is_said_plainly():
    reply = await provider().complete(call("What is the meaning of life?"))
    assert "replay provider" in reply.content
    assert "OPENAI_API_KEY" in reply.content
    assert reply.usage.estimated
    with pytest.raises(BadRequestError, match="no recordings of 'gpt-9'"):
        await provider().complete(call(model="gpt-9"))


def test_waiting_for_a_recording_can_be_cancelled():
    async def main():
        slow = ReplayProvider(ProviderConfig("replay", options={"time_scale": 100}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.complete(call()), 0.05)

    asyncio.run(main())
