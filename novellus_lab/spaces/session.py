"""`lab.session()`: a conversation that remembers what was said."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, NovellusError, StoreUnavailableError
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.question import build_question, checked_label
from novellus_lab.pipeline.recording import refused_record
from novellus_lab.pipeline.request import Request
from novellus_lab.pipeline.stream import AsyncStream, Stream
from novellus_lab.spaces.session_turns import Conversation, Turn
from novellus_lab.tokens import estimate_message_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal
    from types import TracebackType
    from typing import Unpack

    from novellus_lab.lab import CallArguments
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.spaces.session_store import ConversationStore
    from novellus_lab.types import Completion, Message

logger = logging.getLogger("novellus_lab")

_LONGEST_ID = 300
"""The log cuts a session's id after so many characters."""
_ANSWER_TOKENS = 4_096
"""Kept free for an answer whose length nobody limits, but at most a quarter of the window."""
_ESTIMATE = 0.95
"""Tokens are estimated, and may be a little more."""


class Session:
    """A conversation. Each call sends what was said before, and remembers its answer.

    It is kept in PostgreSQL, or in Redis if `sessions.store` says so: whoever opens the same id, in
    this process or another, goes on with it. Two calls at once both see what was said before
    either, and both are remembered, in the order of their answers. A call that fails leaves no trace in it.

    Where the history no longer fits the model's context window, the oldest turns are not sent; they
    stay in `history`.
    """

    def __init__(
        self,
        turns: Callable[[], ConversationStore],
        id: str | None = None,
        *,
        system: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if id is not None:
            checked_label("a session's id", id)
            if len(id) > _LONGEST_ID:
                raise InvalidRequestError(
                    f"a session's id has at most {_LONGEST_ID} characters, this one {len(id)}"
                )
        self.id = str(uuid7()) if id is None else id
        self._turns = turns
        self._arguments = _checked_arguments(arguments or {})
        self._new_system: tuple[str | None] | None = None
        if system is not None:
            self.system = system
        self._unsaved: list[Turn] = []

    # --- answers -----------------------------------------------------------------------------

    def complete(self, prompt: str | None = None, **arguments: Unpack[CallArguments]) -> Completion:
        """Say something, and return the answer; arguments and errors as of `Lab.complete`.

        `messages` are what is said now, such as the results of tools; what was said before goes
        before them.
        """
        started = time.perf_counter()
        runtime = self._turns().runtime
        said, given = self._said(runtime, prompt, arguments, started)
        return runtime.thread.run(self._ask, said, given, started)

    async def acomplete(
        self, prompt: str | None = None, **arguments: Unpack[CallArguments]
    ) -> Completion:
        """Say something, and return the answer: the async twin of `complete`."""
        started = time.perf_counter()
        runtime = self._turns().runtime
        said, given = self._said(runtime, prompt, arguments, started)
        return await runtime.thread.arun(self._ask, said, given, started)

    def stream(self, prompt: str | None = None, **arguments: Unpack[CallArguments]) -> Stream:
        """Say something, and return the answer piece by piece; see `Lab.stream`.

        The turn is remembered when the stream has ended; one that is left early is not.
        """
        started = time.perf_counter()
        runtime = self._turns().runtime
        said, given = self._said(runtime, prompt, arguments, started)
        return Stream(runtime.thread, lambda emit: self._ask(said, given, started, emit), self)

    def astream(self, prompt: str | None = None, **arguments: Unpack[CallArguments]) -> AsyncStream:
        """Say something, and return the answer piece by piece: `async for chunk in …`."""
        started = time.perf_counter()
        runtime = self._turns().runtime
        said, given = self._said(runtime, prompt, arguments, started)
        return AsyncStream(runtime.thread, lambda emit: self._ask(said, given, started, emit), self)

    # --- what was said -----------------------------------------------------------------------

    @property
    def system(self) -> str | None:
        """What stands before the conversation. May be set; it holds for all who open the session."""
        if self._new_system is not None:
            return self._new_system[0]
        turns = self._turns()
        return turns.runtime.thread.run(turns.read, self.id).system

    @system.setter
    def system(self, system: str | None) -> None:
        self._new_system = (None if system is None else _checked_system(system),)

    @property
    def history(self) -> list[Message]:
        """All that was said, oldest first, without the system prompt."""
        return self._turns().runtime.thread.run(self.ahistory)

    async def ahistory(self) -> list[Message]:
        """Return all that was said: the async twin of `history`."""
        turns = self._turns()
        found = await turns.runtime.thread.arun(self._read)
        return [message for turn in found.turns for message in turn]

    @property
    def cost(self) -> Decimal | None:
        """US dollars of all turns, cleared ones too; None if that of one is unknown.

        What calls cost that failed is in the log alone, under the session's id.
        """
        return self._turns().runtime.thread.run(self.acost)

    async def acost(self) -> Decimal | None:
        """Return the cost of all turns: the async twin of `cost`."""
        turns = self._turns()
        return await turns.runtime.thread.arun(turns.cost, self.id)

    def clear(self) -> None:
        """Forget what was said. System prompt, cost and log stay."""
        self._turns().runtime.thread.run(self.aclear)

    async def aclear(self) -> None:
        """Forget what was said: the async twin of `clear`."""
        turns = self._turns()
        self._unsaved.clear()
        await turns.runtime.thread.arun(turns.clear, self.id)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Nothing has to be closed: the session goes on whenever its id is opened again."""

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Nothing has to be closed."""

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import money, table_html

        try:
            rows = [(m["role"], _shown(m)) for m in self.history]
            about = (f"session {self.id}", money(self.cost))
        except NovellusError as error:
            rows, about = [], (f"session {self.id}", str(error))
        return table_html(("", "said"), rows, about)

    # --- inside ------------------------------------------------------------------------------

    def _said(
        self, runtime: Runtime, prompt: str | None, arguments: Mapping[str, Any], started: float
    ) -> tuple[list[Message], dict[str, Any]]:
        """Return what is said now, checked, and the other arguments of the call."""
        given = {**self._arguments, **arguments}
        try:
            _checked_arguments(arguments)
            said = build_question(prompt, messages=given.pop("messages", None)).messages
        except InvalidRequestError as error:
            runtime.log.append(
                refused_record(error, {**given, "session_id": self.id}, runtime.content, started)
            )
            raise
        return said, {**given, "session_id": self.id}

    async def _ask(
        self, said: list[Message], given: dict[str, Any], started: float, emit: Any = None
    ) -> Completion:
        turns = self._turns()
        runtime = turns.runtime
        before = await self._read()
        system = [] if before.system is None else [{"role": "system", "content": before.system}]
        room = _room(runtime, said, given)
        sent = (
            before.turns if room is None else _latest(before.turns, [*system, *said], given, room)
        )
        messages = [*system, *(message for turn in sent for message in turn), *said]
        prepared = runtime.intake.prepare(
            None, {**given, "messages": messages}, started, stream=emit is not None
        )
        request = Request.of(prepared.question, started)
        completion = await runtime.pipeline.answer(request, prepared.plan, emit)
        turn = Turn(completion.request_id, [*said, _as_message(completion)], completion.cost)
        try:
            await turns.add(self.id, turn)
        except StoreUnavailableError as error:
            self._unsaved.append(turn)  # the answer is paid for: the caller shall have it
            logger.warning(
                "session %s: a turn is not stored yet, and waits in this process: %s",
                self.id,
                error,
            )
        return completion

    async def _read(self) -> Conversation:
        turns = self._turns()
        if self._new_system is not None:
            await turns.set_system(self.id, self._new_system[0])
            self._new_system = None
        while self._unsaved:
            await turns.add(self.id, self._unsaved[0])
            del self._unsaved[0]
        return await turns.read(self.id)


def _checked_system(system: str) -> str:
    """Return a system prompt, checked as a message's text would be."""
    if not isinstance(system, str):
        raise InvalidRequestError(f"system must be a string, not a {type(system).__name__}")
    build_question(messages=[{"role": "system", "content": system}])
    if "\x00" in system:
        raise InvalidRequestError("system holds the character NUL, which can't be kept")
    return system


def _checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if "session_id" in arguments:
        raise InvalidRequestError("session_id is the session's own id: open another session")
    return dict(arguments)


def _room(runtime: Runtime, said: Sequence[Message], given: Mapping[str, Any]) -> int | None:
    """Return how many tokens the widest model that may answer takes; None: nobody knows."""
    try:
        models = runtime.pipeline.plan(build_question(messages=said, **given)).models
    except (NovellusError, TypeError):
        return None  # the call itself will say so
    windows = [model.settings.context_window for model in models]
    known = [window for window in windows if window is not None]
    if len(known) < len(windows) or not known:
        return None
    window = max(known)
    answer = given.get("max_tokens") or min(_ANSWER_TOKENS, window // 4)
    return int((window - answer) * _ESTIMATE)


def _latest(
    turns: Sequence[list[Message]],
    always: Sequence[Message],
    given: Mapping[str, Any],
    room: int,
) -> Sequence[list[Message]]:
    """Return the latest turns that fit beside what is always sent."""
    left = room - estimate_message_tokens(always, given.get("tools") or ())
    first = len(turns)
    while first > 0:
        left -= estimate_message_tokens(turns[first - 1])
        if left < 0:
            break
        first -= 1
    # A tool's result means nothing, and is refused, without the call that it answers.
    while 0 < first < len(turns) and turns[first][0]["role"] == "tool":
        first += 1
    return turns[first:]


def _as_message(completion: Completion) -> Message:
    message: Message = {"role": "assistant", "content": completion.content}
    if completion.tool_calls:
        message["tool_calls"] = [call.as_message_part() for call in completion.tool_calls]
        message["content"] = completion.content or None
    return message


def _shown(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    if message.get("tool_calls"):
        return ", ".join(call["function"]["name"] + "(…)" for call in message["tool_calls"])
    parts = content if isinstance(content, list) else ()
    return " ".join(str(part.get("text") or f"[{part['type']}]") for part in parts)
