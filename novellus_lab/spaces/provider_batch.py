"""A batch at a provider in the hand: how it stands, its results, and an end to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, NovellusError, ResponseParseError
from novellus_lab.pipeline.structured import parse_answer
from novellus_lab.types import BatchFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from uuid import UUID

    from novellus_lab.queue.provider_batches import BatchOverview, BatchStatus, ProviderBatches
    from novellus_lab.types import Completion

    Result = Completion | BatchFailure


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many requests of a batch stand where."""

    total: int
    answered: int
    failed: int
    open: int
    """Not ended. Providers give answers out when all of a batch has ended."""
    done_there: int
    """Of the open ones, those that the provider says it is done with."""


class ProviderBatch:
    """Many requests at their provider: `batch.status()`, `batch.wait()` or `await batch`, `batch.cancel()`.

    It is found again by its id from any process: `lab.queue.batch(id)`. It goes on at the provider
    whether or not this object lives on; the answers are fetched, logged and cached when somebody
    asks after it: with `wait`, `status`, `results` or `counts`.
    """

    def __init__(
        self,
        id: UUID,
        batches: Callable[[], ProviderBatches],
        *,
        classes: Mapping[int, type] | None = None,
        seen: BatchOverview | None = None,
    ) -> None:
        self.id = id
        self._batches = batches
        self._classes = dict(classes or {})
        self._seen = seen

    def status(self) -> BatchStatus:
        """Return where it stands: submitting, running, cancelling or ended.

        Raises:
            UnknownJobError: there is no such batch (any more).
            ProviderError: its provider can't be asked.
            StoreUnavailableError
        """
        return self._look().status

    async def astatus(self) -> BatchStatus:
        """Return where it stands: the async twin of `status`."""
        return (await self._alook()).status

    def counts(self) -> BatchCounts:
        """Return how many requests are answered, failed and open."""
        return _counts(self._look())

    async def acounts(self) -> BatchCounts:
        """Return how many requests stand where: the async twin of `counts`."""
        return _counts(await self._alook())

    def wait(self, timeout: float | None = None, *, progress: bool | None = None) -> list[Result]:
        """Wait for the end, and return the results in order, errors in their places.

        Args:
            timeout: seconds to wait; None: until it has ended.
            progress: show a progress bar; default: in a notebook or terminal.

        Raises:
            JobNotDoneError: it has not ended within `timeout`. It goes on.
            UnknownJobError: there is no such batch (any more).
            ProviderError: its provider can't be asked, and asking again won't help. It goes on.
        """
        from novellus_lab.display import batch_progress

        batches = self._batches()
        checked = _checked(timeout)
        self._seen = batches.runtime.thread.run(batches.overview, self.id)
        found: dict[int, Result] = {}
        with batch_progress(self._seen.batch.requests, progress) as on_result:
            batches.runtime.thread.run(
                batches.wait, self.id, checked, self._taking(found, on_result)
            )
        return [found[place] for place in range(self._seen.batch.requests)]

    async def await_results(
        self, timeout: float | None = None, *, progress: bool | None = None
    ) -> list[Result]:
        """Wait for the end, and return the results: the async twin of `wait`."""
        from novellus_lab.display import batch_progress

        batches = self._batches()
        checked = _checked(timeout)
        self._seen = await batches.runtime.thread.arun(batches.overview, self.id)
        found: dict[int, Result] = {}
        with batch_progress(self._seen.batch.requests, progress) as on_result:
            await batches.runtime.thread.arun(
                batches.wait, self.id, checked, self._taking(found, on_result)
            )
        return [found[place] for place in range(self._seen.batch.requests)]

    def __await__(self) -> Generator[Any, None, list[Result]]:
        return self.await_results().__await__()

    def results(self) -> list[Result | None]:
        """Return the results that are there, in order; None where none is yet."""
        overview = self._look()
        batches = self._batches()
        found = batches.runtime.thread.run(batches.results, self.id)
        return self._in_order(overview, found)

    async def aresults(self) -> list[Result | None]:
        """Return the results that are there: the async twin of `results`."""
        overview = await self._alook()
        batches = self._batches()
        found = await batches.runtime.thread.arun(batches.results, self.id)
        return self._in_order(overview, found)

    def cancel(self) -> bool:
        """Have it stopped; what was answered by then is paid for, and among the results.

        Return whether it had not ended. It ends when the provider says so: `wait()`.
        """
        batches = self._batches()
        return batches.runtime.thread.run(batches.cancel, self.id)

    async def acancel(self) -> bool:
        """Have it stopped: the async twin of `cancel`."""
        batches = self._batches()
        return await batches.runtime.thread.arun(batches.cancel, self.id)

    # --- inside ------------------------------------------------------------------------------

    def _look(self) -> BatchOverview:
        batches = self._batches()
        self._seen = batches.runtime.thread.run(batches.look, self.id)
        return self._seen

    async def _alook(self) -> BatchOverview:
        batches = self._batches()
        self._seen = await batches.runtime.thread.arun(batches.look, self.id)
        return self._seen

    def _taking(
        self, found: dict[int, Result], on_result: Callable[[Result], None]
    ) -> Callable[[int, Result], None]:
        def take(place: int, result: Result) -> None:
            found[place] = self._parsed(place, result)
            on_result(found[place])

        return take

    def _in_order(
        self, overview: BatchOverview, found: Mapping[int, Result]
    ) -> list[Result | None]:
        return [
            self._parsed(place, found[place]) if place in found else None
            for place in range(overview.batch.requests)
        ]

    def _parsed(self, place: int, result: Result) -> Result:
        """Return an answer as the class that was named for it, as far as this object knows it."""
        cls = self._classes.get(place)
        if cls is None or isinstance(result, BatchFailure) or not result.content:
            return result
        try:
            return replace(result, parsed=parse_answer(result.content, {}, cls))
        except ResponseParseError as error:
            return BatchFailure(error, place)

    def __repr__(self) -> str:
        """What was last heard of it: a repr asks nobody."""
        told = "" if self._seen is None else f", {_told(self._seen)}"
        return f"ProviderBatch({self.id}{told})"

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        try:
            overview = self._look()
        except NovellusError as error:
            if self._seen is None:
                return table_html(("batch",), [(str(self.id),)], (str(error),))
            return table_html(_PARTS, _part_cells(self._seen), (f"batch {self.id}", str(error)))
        return table_html(_PARTS, _part_cells(overview), (f"batch {self.id}", _told(overview)))


class Batches(tuple[ProviderBatch, ...]):
    """Batches, newest first. Shows itself as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                batch.id,
                str(seen.status),
                ", ".join(dict.fromkeys(part.model_id for part in seen.parts)),
                _told(seen).partition(": ")[2],
                f"{seen.batch.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
            )
            for batch in self
            if (seen := batch._seen) is not None
        ]
        return table_html(("batch", "status", "model", "requests", "since"), rows)


_PARTS = ("model", "at the provider", "status", "requests", "done there", "failed there", "until")


def _part_cells(overview: BatchOverview) -> Sequence[Sequence[object]]:
    return [
        (
            part.model_id,
            part.provider_batch_id or "",
            part.status,
            part.requests,
            part.completed,
            part.failed,
            "" if part.expires_at is None else f"{part.expires_at.astimezone():%Y-%m-%d %H:%M}",
        )
        for part in overview.parts
    ]


def _counts(overview: BatchOverview) -> BatchCounts:
    batch = overview.batch
    there = sum(
        part.completed + part.failed
        for part in overview.parts
        if part.status != "ended" and part.batch_id == batch.id
    )
    return BatchCounts(
        total=batch.requests,
        answered=batch.requests - batch.open - batch.failed,
        failed=batch.failed,
        open=batch.open,
        done_there=min(there, batch.open),
    )


def _told(overview: BatchOverview) -> str:
    counts = _counts(overview)
    told = f"{counts.answered} of {counts.total} answered"
    if counts.failed:
        told += f", {counts.failed} failed"
    if counts.done_there:
        told += f", {counts.done_there} done at the provider"
    return f"{overview.status}: {told}"


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0
    ):
        raise InvalidRequestError(f"timeout must be seconds, 0 or more, or None, not {timeout!r}")
    return timeout
