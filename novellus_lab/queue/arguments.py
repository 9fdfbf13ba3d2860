"""What may be queued, and when it is to run: checked before anything is stored."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from novellus_lab.cache.policy import CachePolicy
from novellus_lab.errors import InvalidRequestError, NoModelAvailableError, did_you_mean
from novellus_lab.pipeline.intake import CALL_ARGUMENTS
from novellus_lab.pipeline.question import build_question, checked_label
from novellus_lab.pipeline.recording import refused_record
from novellus_lab.queue.answers import dump

if TYPE_CHECKING:
    from novellus_lab.pipeline.runtime import Runtime

_NAMES = ("prompt", *CALL_ARGUMENTS)
_INT4 = 2**31


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What was asked to be queued, checked."""

    json: str
    """Arguments of `Lab.complete`, as a worker reads them."""
    response_model: type | None = None
    """The Pydantic class that `response_format` named: it stays with whoever asked."""
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    at: datetime | None = None
    """Run it not before this time."""


def check_request(runtime: Runtime, data: Any, **how: Any) -> JobRequest:
    """Check the arguments of a call as `Lab.complete` does. What is refused is logged.

    That no model can be asked from here is no objection: the worker may have the key.

    Args:
        how: queue, priority, max_attempts and scheduled_at, as of `Lab.queue_request`.

    Raises:
        InvalidRequestError: an argument is wrong.
        UnknownModelError, UnknownStrategyError
    """
    started = time.perf_counter()
    try:
        at = run_time(how.pop("scheduled_at", None))
        _check_how(**how)
        text, response_model = _checked(runtime, data)
    except InvalidRequestError as error:
        arguments = data if isinstance(data, Mapping) else {}
        runtime.log.append(refused_record(error, arguments, runtime.content, started))
        raise
    return JobRequest(text, response_model, at=at, **how)


def _checked(runtime: Runtime, data: Any) -> tuple[str, type | None]:
    if not isinstance(data, Mapping):
        raise InvalidRequestError(
            f"request_data must be a dict of complete's arguments, such as {{'prompt': '…'}}, not "
            f"a {type(data).__name__}"
        )
    arguments = {name: value for name, value in data.items() if value is not None}
    if arguments.pop("stream", False) is not False:
        raise InvalidRequestError("a queued request can't be streamed: leave stream out")
    for name in arguments:
        if name not in _NAMES:
            raise InvalidRequestError(
                f"there is no argument {name!r}. {did_you_mean(str(name), _NAMES)}"
            )
    if arguments.get("messages") is not None and hasattr(arguments["messages"], "__iter__"):
        arguments["messages"] = _listed(arguments["messages"])
    question = build_question(**arguments)
    with contextlib.suppress(NoModelAvailableError):
        runtime.pipeline.plan(question)
    if question.response_model is not None:
        arguments["response_format"] = question.params["response_format"]
    if isinstance(arguments.get("cache"), CachePolicy):
        arguments["cache"] = asdict(arguments["cache"])
    return dump(arguments), question.response_model


def _listed(messages: Any) -> Any:
    """An iterator can be read once, and is read twice here."""
    return messages if isinstance(messages, (str, bytes, Mapping)) else list(messages)


def run_time(scheduled_at: Any) -> datetime | None:
    """Return when a job may run at the earliest; None: at once.

    Args:
        scheduled_at: a time (local, if it has no zone), or a duration from now.

    Raises:
        InvalidRequestError: it is neither.
    """
    if scheduled_at is None:
        return None
    try:
        if isinstance(scheduled_at, timedelta):
            return datetime.now(UTC) + scheduled_at
        if isinstance(scheduled_at, datetime):
            return scheduled_at.astimezone(UTC)
    except (OverflowError, OSError, ValueError):
        raise InvalidRequestError(
            f"scheduled_at is beyond what a calendar holds: {scheduled_at!r:.80}"
        ) from None
    raise InvalidRequestError(
        f"scheduled_at must be a datetime, or a timedelta from now, not {scheduled_at!r:.80}"
    )


def _check_how(*, priority: Any = 0, queue: Any = "default", max_attempts: Any = 5) -> None:
    if isinstance(priority, bool) or not isinstance(priority, int) or not abs(priority) < _INT4:
        raise InvalidRequestError(
            f"priority must be a whole number of 32 bits, higher is sooner, not {priority!r:.80}"
        )
    if (
        isinstance(max_attempts, bool)
        or not isinstance(max_attempts, int)
        or not 1 <= max_attempts < _INT4
    ):
        raise InvalidRequestError(
            f"max_attempts must be a whole number of at least 1, not {max_attempts!r:.80}"
        )
    checked_label("queue", queue)
    # A channel of NOTIFY has at most 63 bytes, and bears more than the queue's name.
    if len(queue.encode()) > 40:
        raise InvalidRequestError(f"queue is longer than 40 bytes: {queue!r:.80}")
