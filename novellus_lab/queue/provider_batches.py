"""Batches at providers: handed over once, looked after from any process, settled once.

**Never sent twice.** Before a part is sent, one process moves it from prepared to submitting, in
the database; none ever moves it back. Where the answer to sending was lost (a connection, a killed
process), the part is looked for among the provider's batches; if it surely is not there, its items
fail, and nothing was charged.

**One at a time.** Who submits or looks after a part holds a lock of the database, which a process
that dies lets go of. So "prepared, and nobody holds it" means that nothing was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.errors import (
    JobNotDoneError,
    NovellusError,
    ProviderError,
    ProviderUnavailableError,
    StoreUnavailableError,
    UnknownJobError,
)
from novellus_lab.ids import uuid7
from novellus_lab.pipeline.kept_connection import KeptConnection
from novellus_lab.pipeline.question import build_question
from novellus_lab.providers.batches import BatchResult, BatchSearch, cancelled, expired
from novellus_lab.queue import batch_rows
from novellus_lab.queue.answers import dump_completion, dump_error, load_completion, load_error
from novellus_lab.queue.batch_intake import (
    Draft,
    DraftedPart,
    draft,
    give_back,
    join_late,
    parts_of,
)
from novellus_lab.queue.batch_rows import NewItem
from novellus_lab.queue.batch_settling import Settling, settle_follower
from novellus_lab.store.database import cause
from novellus_lab.types import BatchFailure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from uuid import UUID

    from novellus_lab.limits.budgets import Reservation
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.providers.batches import BatchApi, BatchState
    from novellus_lab.queue.batch_rows import BatchRow, Connection, ItemRow, PartRow
    from novellus_lab.types import Completion

    Result = Completion | BatchFailure

logger = logging.getLogger("novellus_lab")

LOOK_FOR = timedelta(minutes=5)
"""How long a batch is looked for whose acceptance was never heard of."""
_GONE = timedelta(days=30)
"""After which no provider keeps results any more."""
_SEARCHES_S = (0.5, 2.0, 5.0)
TEND_EVERY_S = 60.0
"""How often a worker looks after all batches."""
_POLL_S = (0.5, 30.0)
_HOLD_S = 26 * 3600.0
"""How long budgets hold what a batch may cost; a batch has 24 hours."""
_KEEP_DAYS = 30
_AT_ONCE = 200


class BatchStatus(StrEnum):
    """Where a batch stands. Compares equal to its plain string."""

    SUBMITTING = "submitting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class BatchOverview:
    """A batch as it stands."""

    batch: BatchRow
    parts: tuple[PartRow, ...]
    """Its own, and those of other batches whose answers it waits for."""

    @property
    def status(self) -> BatchStatus:
        if not self.batch.open:
            return BatchStatus.ENDED
        own = {part.status for part in self.parts if part.batch_id == self.batch.id}
        if own & {"prepared", "submitting"}:
            return BatchStatus.SUBMITTING
        asked = any(p.cancel_asked for p in self.parts if p.batch_id == self.batch.id)
        return BatchStatus.CANCELLING if asked or "cancelling" in own else BatchStatus.RUNNING


class ProviderBatches:
    """One per runtime; its coroutines run on the lab's loop."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._database = KeptConnection(runtime.thread, runtime.conninfo)
        self._reserved: dict[UUID, Reservation] = {}

    # --- handing over ------------------------------------------------------------------------

    async def submit(self, items: Sequence[dict[str, Any]]) -> tuple[UUID, dict[int, type]]:
        """Hand requests over; return the batch's id, and the classes that answers are parsed as.

        What one item meets stands in its place. Equal requests are handed over once, also where an
        earlier batch that has not ended did.

        Raises:
            InvalidRequestError: nothing was sent.
            StoreUnavailableError: the database does not answer; nothing was sent.
        """
        id, asked_at = uuid7(), datetime.now(UTC)
        drafts = await draft(self.runtime, items, asked_at, self._leaders)
        parts = parts_of(self.runtime, drafts)
        classes = {d.position: d.response_model for d in drafts if d.response_model is not None}
        stored = False
        try:
            async with self._locked([part.id for part in parts]):
                parts = await self._store(id, asked_at, drafts, parts)
                stored = True
                await self._hold(drafts)
                for part in parts:
                    await self._send(part)
        except BaseException:
            if stored:
                logger.warning(
                    "batch %s may have been handed over in part: lab.queue.batch('%s') tells",
                    id,
                    id,
                )
            else:
                give_back(drafts)
            raise
        await self._database.run(lambda connection: batch_rows.close(connection, id))
        return id, classes

    async def _leaders(self, keys: Any) -> dict[bytes, UUID]:
        return await self._database.run(lambda connection: batch_rows.leaders(connection, keys))

    async def _store(
        self, id: UUID, asked_at: datetime, drafts: Sequence[Draft], parts: Sequence[DraftedPart]
    ) -> list[DraftedPart]:
        """Store a batch; return what of it is to be handed over, now that nobody else can do the same."""
        keys = {d.key for d in drafts if d.open and d.key is not None}

        async def work(connection: Connection) -> list[DraftedPart]:
            await batch_rows.forget(connection, _KEEP_DAYS)
            await batch_rows.nobody_else_submits(connection)
            join_late(drafts, await batch_rows.leaders(connection, keys))
            left = [some for part in parts if (some := part.left) is not None]
            part_of = {one.position: part.id for part in left for one in part.drafts}
            items = [_new_item(one, part_of.get(one.position)) for one in drafts]
            rows = [(p.id, p.model.id, p.model.provider, len(p.drafts)) for p in left]
            await batch_rows.insert(connection, id, asked_at, rows, items)
            return left

        return await self._database.run(work)

    async def _hold(self, drafts: Sequence[Draft]) -> None:
        held = {d.attempt_id: d.reservation for d in drafts if d.reservation is not None}
        self._reserved.update(held)
        try:
            await self.runtime.admission.budgets.hold(list(held), _HOLD_S)
        except StoreUnavailableError as error:  # they are renewed while this process lives
            logger.warning("budgets hold the batch only while this process lives: %s", error)

    async def _send(self, part: DraftedPart) -> None:
        """Hand a part over; what it meets becomes the outcome of its items."""
        api, marker, lines = self._api(part.model.id), str(part.id), part.lines
        try:
            file_id = await self._stubbornly(lambda: api.upload(marker, lines), anyhow=True)
            if not await self._database.run(lambda c: batch_rows.begin(c, part.id)):
                return  # given up by whoever found that nobody held it
            state = await self._stubbornly(lambda: api.create(marker, lines, file_id))
        except NovellusError as error:
            row = await self._part(part.id)
            if row is None or row.status == "ended":
                return
            if row.status == "prepared" or surely_refused(error):
                await self._end(row, None, error)
                return
            found = await self._search_for_a_while(api, row, error)
            if found is None:
                return
            state = found
        await self._heard(part.id, state)

    async def _stubbornly(self, work: Callable[[], Any], *, anyhow: bool = False) -> Any:
        """Do it, and do it again where it was surely not done, and may be the next time."""
        retries = self.runtime.settings.retries
        for number in range(1, retries.max_attempts + 1):
            try:
                return await work()
            except ProviderError as error:
                again = error.retryable and (anyhow or surely_refused(error))
                if not again or number == retries.max_attempts:
                    raise
                wait_s = min(retries.max_delay_s, retries.base_delay_s * 2 ** (number - 1))
                await asyncio.sleep(max(error.retry_after_s or 0.0, wait_s * random.random()))
        raise AssertionError("no attempts")

    async def _search_for_a_while(
        self, api: BatchApi, part: PartRow, error: NovellusError
    ) -> BatchState | None:
        logger.warning(
            "whether %s took the batch of %d requests is not known (%s): it is looked for",
            part.provider,
            part.requests,
            error,
        )
        for wait_s in _SEARCHES_S:
            await asyncio.sleep(wait_s)
            with contextlib.suppress(ProviderError):
                state, _ = await self._find(api, part)
                if state is not None:
                    return state
        return None

    # --- looking after -----------------------------------------------------------------------

    async def look(self, id: UUID) -> BatchOverview:
        """Ask the providers how a batch stands, settle what has ended; return how it stands now.

        Raises:
            UnknownJobError: there is no such batch (any more).
            ProviderError: the provider can't be asked, and asking again won't help.
            StoreUnavailableError
        """
        overview = await self.overview(id)
        if not overview.batch.open:
            return overview
        trouble: ProviderError | None = None
        for part in overview.parts:
            if part.status == "ended":
                continue
            async with self._alone(part.id) as alone:
                try:
                    if alone:
                        await self._look(part.id)
                except ProviderError as error:  # another part may have another provider
                    trouble = error
        await self._settle_followers(id)
        await self._database.run(lambda connection: batch_rows.close(connection, id))
        if trouble is not None:
            raise trouble
        return await self.overview(id)

    async def tend(self) -> None:
        """Look once after all batches that have not ended, whoever submitted them."""
        for id in await self._database.run(batch_rows.open_batches):
            try:
                await self.look(id)
            except NovellusError as error:  # a model of another configuration, a provider away
                logger.info("batch %s can't be looked after: %s", id, error)

    async def overview(self, id: UUID) -> BatchOverview:
        """Return how a batch stands, as far as the database knows.

        Raises:
            UnknownJobError, StoreUnavailableError
        """

        async def work(connection: Connection) -> BatchOverview | None:
            found = await batch_rows.batches(connection, id)
            if not found:
                return None
            return BatchOverview(found[0], tuple(await batch_rows.parts(connection, id)))

        overview = await self._database.run(work)
        if overview is None:
            raise UnknownJobError(
                f"there is no batch {id} in this database: batches are forgotten {_KEEP_DAYS} days "
                f"after their end, their requests stay in the log"
            )
        return overview

    async def newest(self, limit: int) -> list[BatchOverview]:
        """Return the latest batches, newest first."""

        async def work(connection: Connection) -> list[BatchOverview]:
            return [
                BatchOverview(batch, tuple(await batch_rows.parts(connection, batch.id)))
                for batch in await batch_rows.batches(connection, limit=limit)
            ]

        return await self._database.run(work)

    async def cancel(self, id: UUID) -> bool:
        """Have a batch stopped; return whether it had not ended."""
        await self.overview(id)
        asked = await self._database.run(lambda c: batch_rows.ask_to_cancel(c, id))
        if asked:
            await self.look(id)
        return asked > 0

    async def results(self, id: UUID, but: Sequence[int] = ()) -> dict[int, Result]:
        """Return the results that are there, by their places, but for some places."""
        found = await self._database.run(lambda c: batch_rows.ended_items(c, id, but))
        return {
            place: load_completion(result)
            if error is None
            else BatchFailure(load_error(error), place)
            for place, result, error in found
        }

    async def wait(
        self, id: UUID, timeout_s: float | None, on_result: Callable[[int, Result], None]
    ) -> None:
        """Wait for the end, telling of each result as soon as it is there.

        A provider that can't be reached for a while is asked again.

        Raises:
            JobNotDoneError: it has not ended within the time. It goes on.
            ProviderError: asking again won't help (the key is wrong, say). It goes on.
        """
        started, poll_s = time.monotonic(), _POLL_S[0]
        told: set[int] = set()
        while True:
            trouble: NovellusError | None = None
            try:
                overview = await self.look(id)
            except ProviderError as error:
                if not error.retryable:
                    raise
                logger.info("batch %s: %s", id, error)
                trouble, overview = error, await self.overview(id)
            for place, result in (await self.results(id, sorted(told))).items():
                told.add(place)
                on_result(place, result)
            if not overview.batch.open:
                return
            left_s = None if timeout_s is None else started + timeout_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                why = "" if trouble is None else f"; its provider can't be asked now: {trouble}"
                raise JobNotDoneError(
                    f"batch {id}: {overview.batch.open} of {overview.batch.requests} requests have not "
                    f"ended after {timeout_s:g} s of waiting{why}. It goes on: lab.queue.batch('{id}')"
                )
            await asyncio.sleep(poll_s if left_s is None else min(poll_s, left_s))
            poll_s = min(poll_s * 1.6, _POLL_S[1])

    async def _look(self, part_id: UUID) -> None:
        """Bring a part forward. The caller holds its lock."""
        part = await self._part(part_id)
        if part is None or part.status == "ended":
            return
        if part.status == "prepared":
            await self._end(part, None, _not_sent("its process ended before it was sent"))
            return
        api = self._api(part.model_id)
        if part.status == "submitting":
            state, sure = await self._find(api, part)
            if state is None:
                since = part.submitted_at or datetime.now(UTC)
                if sure and datetime.now(UTC) - since > LOOK_FOR:
                    await self._end(part, None, _not_sent("the provider lists no such batch"))
                return
            await self._heard(part_id, state)
        else:
            try:
                state = await api.state(part.provider_batch_id or "")
            except ProviderError as error:
                since = part.submitted_at or datetime.now(UTC)
                if error.status_code != 404 or datetime.now(UTC) - since < _GONE:
                    raise
                await self._end(part, None, error)
                return
        if part.cancel_asked and state.phase == "running":
            try:
                state = await api.cancel(state.id)
            except ProviderError:  # it may have ended meanwhile
                state = await api.state(state.id)
        if state.phase != "ended":
            await self._heard(part_id, state)
            return
        await self._heard(part_id, state)
        await self._gather(part, api, state)

    async def _find(self, api: BatchApi, part: PartRow) -> tuple[BatchState | None, bool]:
        async def work(connection: Connection) -> tuple[set[str], list[ItemRow]]:
            known = await batch_rows.known_provider_ids(connection, part.provider)
            return known, await batch_rows.open_items(connection, part.id)

        known, items = await self._database.run(work)
        found = await api.find(
            BatchSearch(
                str(part.id),
                frozenset(item.request_id.hex for item in items),
                part.submitted_at or datetime.now(UTC),
                known,
            )
        )
        return found.state, found.sure

    async def _heard(self, part_id: UUID, state: BatchState) -> None:
        status = "cancelling" if state.phase == "cancelling" else "running"
        await self._database.run(
            lambda connection: batch_rows.heard(
                connection,
                part_id,
                provider_batch_id=state.id,
                status=status,
                completed=state.completed,
                failed=state.failed,
                expires_at=state.expires_at,
            )
        )

    async def _gather(self, part: PartRow, api: BatchApi, state: BatchState) -> None:
        """Settle all items of a part that has ended, a few hundred at a time."""
        left, logged = await self._left(part.id)
        waiting: list[BatchResult] = []
        async for result in api.results(state):
            if result.custom_id in left:
                waiting.append(result)
            if len(waiting) >= _AT_ONCE:
                await self._settle(part, left, logged, waiting)
                waiting = []
        await self._settle(part, left, logged, waiting)
        await self._end(part, state, state.error)

    async def _end(
        self, part: PartRow, state: BatchState | None, error: NovellusError | None
    ) -> None:
        """Settle the items of which nothing was heard, and note the end of a part."""
        left, logged = await self._left(part.id)
        ids = list(left)
        for start in range(0, len(ids), _AT_ONCE):
            results = [
                BatchResult(id, error=_copy(error) if error is not None else _unheard(part, state))
                for id in ids[start : start + _AT_ONCE]
            ]
            await self._settle(part, left, logged, results)

        async def work(connection: Connection) -> None:
            await batch_rows.end(connection, part.id)
            await batch_rows.close(connection, part.batch_id)

        await self._database.run(work)

    async def _left(self, part_id: UUID) -> tuple[dict[str, ItemRow], set[UUID]]:
        async def work(connection: Connection) -> tuple[list[ItemRow], set[UUID]]:
            items = await batch_rows.open_items(connection, part_id)
            return items, await batch_rows.logged(connection, [item.request_id for item in items])

        items, logged = await self._database.run(work)
        return {item.request_id.hex: item for item in items}, logged

    async def _settle(
        self,
        part: PartRow,
        left: dict[str, ItemRow],
        logged: set[UUID],
        results: Sequence[BatchResult],
    ) -> None:
        if not results:
            return
        model = self.runtime.catalog.get(part.model_id)
        settling = Settling(self.runtime, model, part.submitted_at or datetime.now(UTC))
        ended = []
        for result in results:
            item = left.pop(result.custom_id, None)
            if item is None:
                continue  # said twice
            known = item.request_id in logged
            outcome, price = settling.settle(item, result, logged=known)
            ended.append(outcome)
            if len(ended) % 20 == 0:
                await asyncio.sleep(0)  # the loop is everybody's
            self._book(item, part.model_id, price.cost_usd)
        await self._database.run(lambda connection: batch_rows.finish(connection, ended))

    def _book(self, item: ItemRow, model_id: str, cost_usd: Any) -> None:
        reservation = self._reserved.pop(item.attempt_id, None)
        if reservation is not None:
            reservation.settle(cost_usd)
            return
        self.runtime.admission.settle_in_batch(
            build_question(**item.request),
            self.runtime.catalog.get(model_id),
            item.attempt_id,
            cost_usd,
        )

    async def _settle_followers(self, batch_id: UUID) -> None:
        if not await self._database.run(lambda c: batch_rows.followers(c, batch_id)):
            return
        async with self._alone(batch_id) as alone:
            if not alone:
                return
            found = await self._database.run(lambda c: batch_rows.followers(c, batch_id))
            ended = [settle_follower(self.runtime, *one) for one in found]
            if ended:
                await self._database.run(lambda c: batch_rows.finish(c, ended))

    # --- plumbing ----------------------------------------------------------------------------

    def _api(self, model_id: str) -> BatchApi:
        catalog = self.runtime.catalog
        return catalog.provider(catalog.available(model_id)).batches()

    async def _part(self, id: UUID) -> PartRow | None:
        return await self._database.run(lambda connection: batch_rows.part(connection, id))

    @contextlib.asynccontextmanager
    async def _locked(self, ids: Sequence[UUID]) -> AsyncIterator[None]:
        """Hold the locks of parts that nobody else knows yet."""
        async with self._session() as connection:
            for id in ids:
                await connection.execute(_LOCK, [str(id)])
            yield

    @contextlib.asynccontextmanager
    async def _alone(self, id: UUID) -> AsyncIterator[bool]:
        """Hold a lock, if nobody else does."""
        async with self._session() as connection:
            cursor = await connection.execute(_TRY_LOCK, [str(id)])
            row = await cursor.fetchone()
            yield bool(row and row[0])

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection of its own: its locks end with it, and with its process."""
        try:
            connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
                self.runtime.conninfo, autocommit=True, connect_timeout=5
            )
        except psycopg.Error as error:
            raise StoreUnavailableError(f"the database does not answer: {cause(error)}") from None
        try:
            yield connection
        except psycopg.OperationalError as error:
            raise StoreUnavailableError(f"the database does not answer: {cause(error)}") from None
        finally:
            with contextlib.suppress(psycopg.Error):
                await connection.close()


_LOCK = "SELECT pg_advisory_lock(hashtextextended('novellus batch ' || %s, 0))"
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('novellus batch ' || %s, 0))"


def surely_refused(error: NovellusError) -> bool:
    """Whether what was sent was surely not accepted: the provider said so, or never heard of it."""
    if not isinstance(error, ProviderError):
        return True  # it was ours, before anything was sent
    status = error.status_code or 0
    return error.never_sent or (400 <= status < 500 and status not in (408, 409))


def _new_item(one: Draft, part_id: UUID | None) -> NewItem:
    result = error = None
    if isinstance(one.outcome, NovellusError):
        error = dump_error(one.outcome)
    elif one.outcome is not None:
        result = dump_completion(one.outcome)
    ended = one.outcome is not None
    return NewItem(
        position=one.position,
        request_id=one.request_id,
        attempt_id=one.attempt_id,
        status="open" if not ended else "failed" if error is not None else "done",
        part_id=part_id,
        waits_for=one.waits_for,
        cache_key=one.key,
        request=None if ended else one.json,
        dropped=() if one.line is None else one.line.dropped,
        result=result,
        error=error,
    )


def _not_sent(why: str) -> ProviderUnavailableError:
    error = ProviderUnavailableError(
        f"the batch was not handed over ({why}): nothing was charged, submit it again"
    )
    error.never_sent = True
    return error


def _unheard(part: PartRow, state: BatchState | None) -> NovellusError:
    """Return the error of an item that the results of its batch do not name."""
    ended_as = None if state is None else state.ended_as
    if ended_as == "expired":
        return expired(part.provider)
    if ended_as == "cancelled":
        return cancelled()
    return ProviderUnavailableError(
        f"{part.provider} says nothing of this request in the results of its batch",
        provider=part.provider,
    )


def _copy(error: NovellusError) -> NovellusError:
    """Return an error of one's own: whoever settles it writes on it."""
    twin: NovellusError = type(error).__new__(type(error))
    twin.args = error.args
    vars(twin).update(vars(error))
    return twin
