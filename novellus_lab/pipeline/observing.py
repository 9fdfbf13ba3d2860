"""What calls teach the router: how long they take, how long answers are, who is busy, who fails."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg

from novellus_lab.errors import (
    AuthenticationError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from novellus_lab.routing.answer_length import AnswerLengths
from novellus_lab.routing.latency import LatencyTracker
from novellus_lab.routing.traffic import Traffic

if TYPE_CHECKING:
    from novellus_lab.pipeline.asking import AskForAnswer
    from novellus_lab.pipeline.catalog import Model
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.trace import Heard, Trace
    from novellus_lab.providers.base import Provider
    from novellus_lab.types import Reply

logger = logging.getLogger("novellus_lab.routing")

_LATEST = 3_000
"""Requests of the log from which a new process learns."""
_WITHIN_S = 3.0
_HISTORY = """
SELECT model, input_tokens, output_tokens, cached_input_tokens, tags, created_at, stream,
       provider_ms, ttft_ms
FROM public.ai_requests
WHERE status = 'ok' AND kind = 'chat' AND cache IN ('off', 'miss') AND attempts = 1
  AND created_at > now() - interval '14 days'
ORDER BY id DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of the models of a lab from their calls."""

    latencies: LatencyTracker = field(default_factory=LatencyTracker)
    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    traffic: Traffic = field(default_factory=Traffic)

    async def learn_from_log(self, conninfo: str) -> int:
        """Learn from the latest requests of the log, whoever made them; return how many.

        One short query. What goes wrong is no reason to hold anything up: then nothing is learned.
        """
        try:
            async with asyncio.timeout(_WITHIN_S):
                async with await psycopg.AsyncConnection.connect(
                    conninfo, autocommit=True
                ) as connection:
                    await connection.execute(
                        f"SET statement_timeout = {int(_WITHIN_S * 1000)}".encode()
                    )
                    cursor = await connection.execute(_HISTORY.encode(), [_LATEST])
                    rows = await cursor.fetchall()
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.info("nothing was learned from the log: %s", type(error).__name__)
            return 0
        now = datetime.now(UTC)
        for number, row in enumerate(reversed(rows)):
            if number % 500 == 499:
                await asyncio.sleep(0)  # the loop is everybody's
            model, inputs, outputs, cached, tags, created_at, stream, provider_ms, ttft_ms = row
            if model is None or inputs is None or outputs is None:
                continue
            self.lengths.observe(
                model,
                input_tokens=inputs,
                output_tokens=outputs,
                cached_input_tokens=cached or 0,
                tags=tags,
            )
            # A replay's log holds what was waited for, which is nothing.
            if provider_ms and not model.startswith("replay/"):
                self.latencies.observe(
                    model,
                    provider_ms,
                    ttft_ms if stream else None,
                    input_tokens=inputs,
                    output_tokens=outputs,
                    age_s=max(0.0, (now - created_at).total_seconds()),
                )
        return len(rows)


@dataclass(frozen=True, slots=True)
class ObservedAsk:
    """Asks as `ask` does, and notes what there is to learn from it."""

    ask: AskForAnswer
    question: Question
    observed: Observed

    async def __call__(
        self, provider: Provider, model: Model, left_s: float | None, heard: Heard, trace: Trace
    ) -> Reply:
        answered: bool | None = None
        traffic = self.observed.traffic
        traffic.begin(model.id)
        try:
            reply = await self.ask(provider, model, left_s, heard, trace)
            answered = True
        except BaseException as error:
            answered = False if isinstance(error, _FAULTS) else None
            raise
        finally:
            traffic.end(model.id, answered)
        usage = reply.usage
        self.observed.lengths.observe(
            model.id,
            input_tokens=self.question.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            tags=self.question.tags,
        )
        return reply

    def estimated_input_tokens(self) -> int:
        return self.ask.estimated_input_tokens()


_FAULTS = (
    AuthenticationError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
"""What counts against a model: it did not serve a call that it might have."""
