"""Recorded answers in place of live models: for a first look, for notebooks, for A/B practice.

Texts, token counts and prices are those of real calls; latencies are drawn, from a distribution
that is stated here (`PACES`). It never calls anyone.

Two latencies, never mixed: the log's `latency_ms` is what the caller waited, as everywhere, and that
is a tenth of what was drawn (`time_scale`), so that a notebook is lively. What was drawn is in
`raw_usage` as `simulated_latency_ms` and `simulated_ttft_ms`, beside `"replay": true`. Compare those
when you compare two replayed models or strategies; the router's own `least_latency` does.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from novellus_lab.errors import (
    BadRequestError,
    InvalidRequestError,
    ProviderUnavailableError,
    RateLimitError,
)
from novellus_lab.providers.base import Provider, ProviderConfig, reject_or_drop
from novellus_lab.providers.replay_data import MODELS, Recording, folded, recordings
from novellus_lab.tokens import estimate_message_tokens, estimate_tokens
from novellus_lab.types import Delta, Reply, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from novellus_lab.providers.base import Call

DEFAULT_TIME_SCALE = 0.1
"""Drawn times are waited for at a tenth, so that a notebook is lively."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Lognormal latencies: time to the first token, then one time for each token of an answer.

    `sigma` is that of the first token's logarithm; the time per token varies half as much.

    Orders of magnitude as published measurements of these two models had them in early 2024: GPT-4
    Turbo about 25 to 40 tokens a second, hosted Mixtral about 60 to 100. They make a plausible
    demonstration, not a benchmark of anybody.
    """

    ttft_median_ms: float
    token_median_ms: float
    sigma: float = 0.35


PACES = {
    "gpt-4-1106-preview": Pace(ttft_median_ms=650, token_median_ms=30),
    "mixtral-8x7b-instruct": Pace(ttft_median_ms=250, token_median_ms=12),
}

_PIECE = re.compile(r"\s*\S+|\s+$")


class ReplayProvider(Provider):
    """Serves `datasets/gsm8k_replay.jsonl.gz`.

    A recorded answer is what it is: temperature, max_tokens, stop and the like are left out and
    named in `dropped_params`; tools and `response_format`, without which an answer is of no use, are
    refused, unless `on_unsupported` is `drop`. `seed` is a seed of the draws.

    Options (of the provider in the configuration, or a model's `params`, which win):
        time_scale: share of the drawn time that is waited for (0.1); 1 is real time, 0 none.
        error_rate, rate_limit_rate: share of calls that fail, to practise failover on.
        seed: of all draws (0).
    """

    name: ClassVar[str] = "replay"

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._asked: Counter[tuple[str, str]] = Counter()

    async def complete(self, call: Call) -> Reply:
        dropped = _left_out(call)
        draw, recording = self._draw(call)
        await asyncio.sleep(draw.total_ms(recording) / 1000 * draw.scale)
        draw.fail()
        return _reply(call, recording, draw, dropped)

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        dropped = _left_out(call)
        draw, recording = self._draw(call)
        await asyncio.sleep(draw.ttft_ms / 1000 * draw.scale)
        draw.fail()
        pieces = _PIECE.findall(recording.content) or [recording.content]
        each_ms = (draw.total_ms(recording) - draw.ttft_ms) / len(pieces)
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(each_ms / 1000 * draw.scale)
            yield Delta(content=piece, model=call.model)
        await asyncio.sleep(each_ms / 1000 * draw.scale)
        yield Delta(reply=_reply(call, recording, draw, dropped))

    def _draw(self, call: Call) -> tuple[_Draw, Recording]:
        if call.model not in PACES:
            raise BadRequestError(
                f"replay has no recordings of {call.model!r}; it has {' and '.join(MODELS)}",
                provider=self.name,
                status_code=404,
            )
        question = folded(_question(call))
        self._asked[call.model, question] += 1
        settings = {**self.config.options, **call.params}
        seed = (settings.get("seed", 0), call.seed, call.model, question)
        draw = _Draw(
            PACES[call.model],
            random.Random(repr((*seed, self._asked[call.model, question]))),
            call.model,
            scale=_number(settings, "time_scale", DEFAULT_TIME_SCALE, most=1000),
            error_rate=_number(settings, "error_rate", 0),
            rate_limit_rate=_number(settings, "rate_limit_rate", 0),
        )
        answers = recordings().get(question)
        return draw, answers[call.model] if answers else _unrecorded(call)


def _number(settings: Mapping[str, Any], name: str, default: float, most: float = 1) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidRequestError(
            f"{name} of the replay provider must be between 0 and {most:g}, not {value!r:.80}"
        )
    return float(value)


def _left_out(call: Call) -> tuple[str, ...]:
    """Return the parameters that change nothing here."""
    needed = {"tools": call.tools, "response_format": call.response_format}
    missing = reject_or_drop(call, "replay", needed)
    wished = {
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "stop": call.stop or None,
        "tool_choice": call.tool_choice,
    }
    return (*missing, *(name for name, value in wished.items() if value is not None))


class _Draw:
    """The fate of one call."""

    def __init__(
        self,
        pace: Pace,
        rng: random.Random,
        model: str,
        *,
        scale: float,
        error_rate: float,
        rate_limit_rate: float,
    ) -> None:
        self.scale = scale
        self._model = model
        self._lot = rng.random()
        self._error_rate = error_rate
        self._rate_limit_rate = rate_limit_rate
        self.ttft_ms = rng.lognormvariate(math.log(pace.ttft_median_ms), pace.sigma)
        # One speed for the whole answer: a server is busy or it is not.
        self.token_ms = rng.lognormvariate(math.log(pace.token_median_ms), pace.sigma / 2)

    def total_ms(self, recording: Recording) -> float:
        """The latency that was drawn for this answer."""
        return self.ttft_ms + self.token_ms * recording.output_tokens

    def fail(self) -> None:
        """Raise the error that was drawn, if one was."""
        if self._lot < self._error_rate:
            raise ProviderUnavailableError(
                f"replay: a drawn fault of {self._model!r} (error_rate {self._error_rate:g})",
                provider="replay",
                status_code=503,
            )
        if self._lot < self._error_rate + self._rate_limit_rate:
            raise RateLimitError(
                f"replay: a drawn rate limit of {self._model!r}",
                provider="replay",
                status_code=429,
                retry_after_s=0.05,
            )


def _question(call: Call) -> str:
    for message in reversed(call.messages):
        if message["role"] == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return " ".join(p.get("text", "") for p in content or ())
    return ""


def _unrecorded(call: Call) -> Recording:
    """Say plainly what this is, and what to do to get a real answer."""
    text = (
        "*This is the replay provider: it serves recorded answers, and this question is not among "
        "them.*\n\n"
        "It knows 1,307 grade-school maths questions (GSM8K) as GPT-4 Turbo and Mixtral 8x7B "
        "answered them: `novellus_lab.providers.replay_data.recorded_prompts(5)` shows some. For "
        "live answers set `OPENAI_API_KEY`, `CLAUDE_API_KEY` or `GOOGLE_API_KEY`, or start Ollama, "
        "and open a new `Lab()`."
    )
    return Recording(text, False, estimate_message_tokens(call.messages), estimate_tokens(text))


def _reply(call: Call, recording: Recording, draw: _Draw, dropped: tuple[str, ...]) -> Reply:
    known = folded(_question(call)) in recordings()
    total_ms = draw.total_ms(recording)
    return Reply(
        content=recording.content,
        usage=Usage(recording.input_tokens, recording.output_tokens, estimated=not known),
        model=call.model,
        raw_usage={
            "prompt_tokens": recording.input_tokens,
            "completion_tokens": recording.output_tokens,
            "replay": True,
            "simulated_latency_ms": round(total_ms, 3),
            "simulated_ttft_ms": round(draw.ttft_ms, 3),
            "time_scale": draw.scale,
        },
        dropped_params=dropped,
        simulated_latency_ms=total_ms,
    )
