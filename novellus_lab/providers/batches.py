"""What a provider's batch API is: many calls handed over at once, answered within a day, for less.

A provider that has one returns it from `Provider.batches`. It puts each call into the same words as
a normal call of that provider would be. It knows nothing of prices, the log or the database; it
never sends a batch twice, and it can look for one whose acceptance was never heard of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from novellus_lab.errors import JobCancelledError, ProviderTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from datetime import datetime

    from novellus_lab.errors import NovellusError
    from novellus_lab.providers.base import Call
    from novellus_lab.types import Reply


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One call, as it stands in a batch."""

    endpoint: str
    """All lines of one batch are for the same."""
    body: bytes
    dropped: tuple[str, ...] = ()
    """Parameters that were left out."""


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as its provider sees it."""

    id: str
    phase: Literal["running", "cancelling", "ended"]
    completed: int = 0
    failed: int = 0
    expires_at: datetime | None = None
    ended_as: Literal["completed", "expired", "cancelled", "failed"] | None = None
    error: NovellusError | None = None
    """Why it was refused as a whole, if it was: nothing of it ran."""
    files: tuple[str, ...] = ()
    """Where its results are, where they are files."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one line: a reply, or an error that cost nothing."""

    custom_id: str
    reply: Reply | None = None
    error: NovellusError | None = None


@dataclass(frozen=True, slots=True)
class BatchSearch:
    """A batch that was sent, and of whose acceptance nothing was heard."""

    marker: str
    custom_ids: Collection[str]
    sent_at: datetime
    known_ids: Collection[str]
    """The provider's ids of batches that are known to be others."""


@dataclass(frozen=True, slots=True)
class BatchFound:
    """What a search came to."""

    state: BatchState | None
    sure: bool = True
    """Without a state: whether the provider surely lists no such batch now."""


class BatchApi(ABC):
    """One provider's way. Errors leave as those of a call do."""

    most_lines: ClassVar[int]
    most_bytes: ClassVar[int]

    @abstractmethod
    def line(self, custom_id: str, call: Call) -> BatchLine:
        """Put a call into the words of a batch; nothing is sent.

        Raises:
            InvalidRequestError: as the call itself would.
        """

    async def upload(self, marker: str, lines: Sequence[BatchLine]) -> str | None:
        """Send the lines ahead, where that is a step of its own; it runs nothing and costs nothing."""
        return None

    @abstractmethod
    async def create(
        self, marker: str, lines: Sequence[BatchLine], file_id: str | None
    ) -> BatchState:
        """Have the lines answered. From here on they cost money.

        Args:
            marker: ours, by which the batch can be found again where the API keeps one.
        """

    @abstractmethod
    async def find(self, search: BatchSearch) -> BatchFound:
        """Look for a batch among all that the provider lists."""

    @abstractmethod
    async def state(self, id: str) -> BatchState: ...

    @abstractmethod
    async def cancel(self, id: str) -> BatchState:
        """Have it stopped; what was answered by then is paid for, and among the results."""

    @abstractmethod
    def results(self, state: BatchState) -> AsyncIterator[BatchResult]:
        """Yield what became of its lines, in any order; some may be missing."""


async def json_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a body in pieces. Only a line feed ends one: texts hold all others."""
    rest: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        for other in others:
            if line := b"".join(rest).strip():
                yield line
            rest = [other]
    if line := b"".join(rest).strip():
        yield line


def counted(value: Any) -> int:
    """Return a count that an API may leave out."""
    return value if isinstance(value, int) else 0


def expired(provider: str) -> ProviderTimeoutError:
    """Return the error of a line that was not answered within the batch's time."""
    return ProviderTimeoutError(
        f"{provider} did not come to this request before its batch expired; it was not charged",
        provider=provider,
        status_code=408,
    )


def cancelled() -> JobCancelledError:
    """Return the error of a line that was not answered before its batch was cancelled."""
    return JobCancelledError("the batch was cancelled before this request was answered")
