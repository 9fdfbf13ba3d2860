"""From a caller's arguments to a planned question; the same arguments again cost one look."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError, NovellusError, did_you_mean
from novellus_lab.pipeline.question import build_question
from novellus_lab.pipeline.recording import refused_record
from novellus_lab.pipeline.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.pipeline.live_experiments import LiveExperiments
    from novellus_lab.pipeline.pipeline import Hit, Pipeline, Plan
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.recording import ContentPolicy
    from novellus_lab.store.request_log import RequestLog

_MAX_REMEMBERED = 2_000
"""Half of them the latest; with `_MAX_ARGUMENT_BYTES` and `pipeline.MAX_LINE_BYTES`, at most 64 MB."""
_MAX_ARGUMENT_BYTES = 8_192

CALL_ARGUMENTS = tuple(
    name
    for name in inspect.signature(build_question).parameters
    if name not in ("prompt", "stream", "default_timeout_s")
)
"""The keyword arguments of `Lab.complete`."""


# What is no plain str, dict or number is checked anew each time: it may be no valid argument.
_PLAIN = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


class Prepared:
    """A question that was checked and planned, and the latest hit that answered it, if one did."""

    __slots__ = ("hit", "plan", "question")

    def __init__(self, question: Question, plan: Plan) -> None:
        self.question = question
        self.plan = plan
        self.hit: Hit | None = None


class Intake:
    """Checks and plans calls, on any thread. What is refused is logged as refused."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: RequestLog,
        content: ContentPolicy,
        *,
        default_timeout_s: float | None,
        experiments: LiveExperiments,
    ) -> None:
        self._pipeline = pipeline
        self._experiments = experiments
        self._log = log
        self._content = content
        self._default_timeout_s = default_timeout_s
        # Two generations instead of a list by age: no lock, and what is used lives on.
        self._latest: dict[bytes, Prepared] = {}
        self._older: dict[bytes, Prepared] = {}

    def prepare(
        self, prompt: str | None, arguments: Mapping[str, Any], started: float, *, stream: bool
    ) -> Prepared:
        """Check the arguments and decide who may answer.

        Args:
            started: `time.perf_counter()` when the call was made.

        Raises:
            InvalidRequestError: an argument is wrong.
            UnknownModelError, UnknownStrategyError, NoModelAvailableError
        """
        if self._experiments:
            arguments = self._experiments.apply(arguments)
        key = _key(prompt, arguments, stream=stream)
        if key is None:
            return self._prepare(prompt, arguments, started, stream=stream)
        prepared = self._latest.get(key)
        if prepared is not None and self._pipeline.plans_change_with_time:
            prepared = self._planned_anew(prepared, started)
        if prepared is None:
            prepared = self._older.get(key)
            if prepared is not None and self._pipeline.plans_change_with_time:
                prepared = self._planned_anew(prepared, started)
            if prepared is None:
                prepared = self._prepare(prompt, arguments, started, stream=stream)
            if len(key) <= _MAX_ARGUMENT_BYTES:
                if len(self._latest) >= _MAX_REMEMBERED // 2:
                    self._older, self._latest = self._latest, {}
                self._latest[key] = prepared
        return prepared

    def _prepare(
        self, prompt: str | None, arguments: Mapping[str, Any], started: float, *, stream: bool
    ) -> Prepared:
        try:
            question = self._question(prompt, arguments, stream=stream)
        except InvalidRequestError as error:
            record = refused_record(error, arguments, self._content, started, stream=stream)
            self._log.append(record)
            raise
        return self._planned(question, started)

    def _planned(self, question: Question, started: float) -> Prepared:
        try:
            return Prepared(question, self._pipeline.plan(question))
        except NovellusError as error:
            self._pipeline.refuse(Request.of(question, started), error)
            raise

    def _planned_anew(self, prepared: Prepared, started: float) -> Prepared:
        """Let the rules look at the clock; what was remembered holds where they decide the same."""
        again = self._planned(prepared.question, started)
        return prepared if again.plan == prepared.plan else again

    def forget(self) -> None:
        """Plan all questions anew: a strategy's name means another one now."""
        self._latest, self._older = {}, {}

    def question(
        self, prompt: str | None, arguments: Mapping[str, Any], *, stream: bool = False
    ) -> Question:
        """Check arguments as `prepare` does, and log nothing.

        Raises:
            InvalidRequestError: an argument is wrong.
        """
        return self._question(prompt, arguments, stream=stream)

    def _question(
        self, prompt: str | None, arguments: Mapping[str, Any], *, stream: bool
    ) -> Question:
        try:
            return build_question(
                prompt, stream=stream, default_timeout_s=self._default_timeout_s, **arguments
            )
        except TypeError:
            unknown = [name for name in arguments if name not in CALL_ARGUMENTS]
            if not unknown:
                raise
            raise InvalidRequestError(
                f"there is no argument {unknown[0]!r}. "
                f"{did_you_mean(str(unknown[0]), CALL_ARGUMENTS)}"
            ) from None


def _key(prompt: str | None, arguments: Mapping[str, Any], *, stream: bool) -> bytes | None:
    """Return what is equal for equal arguments only; None where they are no plain data."""
    try:
        coded = orjson.dumps((arguments,) if prompt is None else (prompt, arguments), option=_PLAIN)
    except (TypeError, ValueError):
        return None
    if b"null" in coded and (b":null" in coded or b"[null" in coded or b",null" in coded):
        return None  # it may stand for a NaN
    return b"s" + coded if stream else coded
