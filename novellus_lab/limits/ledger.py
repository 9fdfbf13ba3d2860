"""The budgets' account book in PostgreSQL: reserve before a call, settle after it.

What arrives while a statement is under way goes with the next one: a hundred calls at once cost two
statements, not two hundred. Each statement is one call of `novellus_budget_apply` (migration 0005),
and so one atomic step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

from novellus_lab.errors import StoreUnavailableError
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from novellus_lab.limits.budget import Budget, Counter

logger = logging.getLogger("novellus_lab.limits")

_APPLY = """
SELECT blocked, spent, reserved,
       ARRAY(SELECT extract(epoch FROM e)::float8 FROM unnest(ends) WITH ORDINALITY AS u (e, i) ORDER BY i)
FROM public.novellus_budget_apply(
    %s::interval, %s::uuid[], %s::numeric[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::numeric[], %s::uuid[], %s::numeric[], %s::int[], %s::int[], %s::boolean)
"""

_RENEW = """
UPDATE public.ai_budget_reservations SET expires_at = now() + %s::interval
WHERE id = ANY(%s::uuid[]) AND NOT expired
"""

_TEND = "SELECT public.novellus_budget_tend(%s::interval, %s::interval)"

_MIRROR = """
INSERT INTO public.ai_budgets (key, name, usd, per, time_zone, scope, on_exceed, warn_at)
VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s)
ON CONFLICT (key) DO UPDATE SET usd = excluded.usd, on_exceed = excluded.on_exceed,
                                warn_at = excluded.warn_at, updated_at = now()
"""

_PERIODS = """
SELECT u.i::int - 1, p.subject, coalesce(p.spent_usd, 0), coalesce(p.reserved_usd, 0),
       CASE WHEN isfinite(w.period_start) THEN w.period_start END,
       CASE WHEN isfinite(w.period_end) THEN w.period_end END, now()
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS u (budget, per, zone, i)
CROSS JOIN LATERAL public.novellus_budget_period(u.per, u.zone) AS w
LEFT JOIN LATERAL (
    SELECT * FROM public.ai_budget_periods AS p
    WHERE p.budget = u.budget AND p.period_start = w.period_start
    ORDER BY p.spent_usd DESC LIMIT 100) AS p ON true
ORDER BY u.i, p.spent_usd DESC
"""

_FAULTS = (psycopg.Error, OSError, TimeoutError)
_CALLS = 250
_ENDS = 1_000
_MOST_LATE = 100_000
_STATEMENT_S = 5.0
_RETRY_AFTER_S = (0.05, 0.2, 0.5)
_COMPANY_S = 0.02
"""What an end may wait for a reservation to go along with: half the statements, where calls come
one after another."""
_DOWN_S = 1.0
"""After a failure that retries did not mend, others are told so at once for this long."""
_LOOK_AGAIN = timedelta(minutes=1)
_FORGET = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Seen:
    """A counter as it was last seen."""

    spent_usd: Decimal
    reserved_usd: Decimal
    until: float
    """When its period ends, in seconds since 1970; inf: never."""


@dataclass(frozen=True, slots=True)
class PeriodRow:
    """A budget's current period. `subject` is None where nothing was counted yet."""

    budget: Budget
    subject: str | None
    spent_usd: Decimal
    reserved_usd: Decimal
    start: datetime | None
    end: datetime | None
    now: datetime


@dataclass(slots=True)
class _Asked:
    id: UUID
    usd: Decimal
    counters: tuple[Counter, ...]
    blocked: asyncio.Future[Counter | None]


_End: TypeAlias = "tuple[UUID, Decimal | None, tuple[Counter, ...]]"


class Ledger:
    """Runs on one event loop.

    Args:
        conninfo: the lab's database.
        budgets: all that may be asked for; written to `ai_budgets`.
        on_seen: told what a counter holds, after each statement.
        lease_s: after which a process of which nothing was heard counts as dead.
    """

    def __init__(
        self,
        conninfo: str,
        budgets: Sequence[Budget],
        on_seen: Callable[[Counter, Seen], None],
        *,
        lease_s: float = 60.0,
    ) -> None:
        self._conninfo = conninfo
        self._budgets = tuple(budgets)
        self._on_seen = on_seen
        self._lease_s = lease_s
        self._lease = timedelta(seconds=lease_s)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._connecting = asyncio.Lock()
        self._asked: deque[_Asked] = deque()
        self._ended: deque[_End] = deque()
        self._late: deque[tuple[UUID, Decimal, tuple[Counter, ...]]] = deque()
        self._open: set[UUID] = set()
        self._urgent = asyncio.Event()
        """Somebody waits for the next statement."""
        self._working: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._tended_at = 0.0
        self._down_until = 0.0
        self._closed = False

    async def reserve(
        self, id: UUID, usd: Decimal, counters: tuple[Counter, ...]
    ) -> Counter | None:
        """Reserve in all counters or in none; return the one that has no room, if one has none.

        Raises:
            StoreUnavailableError: the database can't be asked.
        """
        if time.monotonic() < self._down_until or self._closed:
            raise StoreUnavailableError("the database that keeps the budgets can't be reached")
        asked = _Asked(id, usd, counters, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._urgent.set()
        self._work()
        try:
            return await asked.blocked
        except asyncio.CancelledError:
            if _is_reserved(asked.blocked):  # and who asked left before it heard of it
                self.settle(id, Decimal(0), counters)
            raise

    def settle(self, id: UUID, cost_usd: Decimal | None, counters: tuple[Counter, ...]) -> None:
        """The call ended; None: nobody knows what it cost, what was reserved stands."""
        self._open.discard(id)
        self._ended.append((id, cost_usd, counters))
        self._work()

    async def hold(self, ids: Sequence[UUID], for_s: float) -> None:
        """Hold what is reserved for so long, and renew it no more.

        Raises:
            StoreUnavailableError
        """
        self._open.difference_update(ids)
        try:
            await self._execute(_RENEW, [timedelta(seconds=for_s), list(ids)])
        except _FAULTS as error:
            self._open.update(ids)
            raise StoreUnavailableError(f"the budgets can't be kept: {cause(error)}") from None

    def book(self, id: UUID, cost_usd: Decimal, counters: tuple[Counter, ...]) -> None:
        """Count a call that was let through while the database was away, once it is back."""
        if len(self._late) < _MOST_LATE:
            self._late.append((id, cost_usd, counters))
            self._work()

    async def give_back_of_the_dead(self) -> None:
        """Give back what processes that died had reserved; at most twice a second."""
        if time.monotonic() - self._tended_at < 0.5:
            return
        self._tended_at = time.monotonic()
        with contextlib.suppress(*_FAULTS):
            await self._execute(_TEND, [_LOOK_AGAIN, _FORGET])

    async def periods(self) -> list[PeriodRow]:
        """Return the current periods, the dearest subjects of a budget first.

        Raises:
            StoreUnavailableError
        """
        try:
            cursor = await self._execute(
                _PERIODS,
                [
                    [b.key for b in self._budgets],
                    [b.per for b in self._budgets],
                    [b.time_zone for b in self._budgets],
                ],
            )
        except _FAULTS as error:
            raise StoreUnavailableError(f"the budgets can't be read: {cause(error)}") from None
        return [PeriodRow(self._budgets[row[0]], *row[1:]) for row in await cursor.fetchall()]

    async def flush(self) -> None:
        """Return when what ended before is settled, or the database is away."""
        while (self._ended or self._late or self._working) and time.monotonic() >= self._down_until:
            self._urgent.set()
            self._work()
            if self._working is not None:
                await asyncio.wait([self._working])

    async def aclose(self) -> None:
        """Settle what can be, and end. Idempotent."""
        if self._closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATEMENT_S):
                await self.flush()
        self._closed = True
        for task in (self._working, self._tending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._disconnect()

    # --- together ----------------------------------------------------------------------------

    def _work(self) -> None:
        if self._working is None and not self._closed:
            self._working = asyncio.create_task(self._do_the_work())
        if self._tending is None and not self._closed:
            self._tending = asyncio.create_task(self._tend())

    async def _do_the_work(self) -> None:
        try:
            while self._asked or self._ended or self._late:
                if not self._asked and not self._late:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_COMPANY_S):
                            await self._urgent.wait()
                self._urgent.clear()
                # These reserve whatever the limit: in a statement of their own.
                late = [self._late.popleft() for _ in range(min(len(self._late), _CALLS))]
                most = 0 if late else min(len(self._asked), _CALLS)
                calls = [self._asked.popleft() for _ in range(most)]
                ends = [self._ended.popleft() for _ in range(min(len(self._ended), _ENDS))]
                try:
                    await self._apply_stubbornly(calls or [_late(*one) for one in late], ends)
                except BaseException as error:
                    # What the lost statement may have reserved is undone before it is tried anew.
                    self._ended.extendleft(reversed(ends))
                    self._ended.extend((id, Decimal(0), counters) for id, _, counters in late)
                    self._late.extendleft(reversed(late))
                    self._give_up(calls, error)
                    if not isinstance(error, _FAULTS):
                        raise
                    return
                self._open.difference_update(id for id, _, _ in late)
                self._ended.extend(late)
        finally:
            self._working = None

    async def _apply_stubbornly(self, calls: list[_Asked], ends: list[_End]) -> None:
        again = False
        for wait_s in (*_RETRY_AFTER_S, None):
            try:
                await self._apply(calls, ends, again=again)
            except _FAULTS:
                await self._disconnect()
                if wait_s is None:
                    raise
                again = True
                await asyncio.sleep(wait_s)
            else:
                return

    def _give_up(self, calls: list[_Asked], error: BaseException) -> None:
        self._down_until = time.monotonic() + _DOWN_S
        why = cause(error) if isinstance(error, psycopg.Error) else type(error).__name__
        logger.warning("the budgets can't be kept for now: %s", why)
        for asked in [*calls, *self._asked]:
            # It may have been reserved, and the answer lost.
            self._ended.append((asked.id, Decimal(0), asked.counters))
            if not asked.blocked.done():
                asked.blocked.set_exception(
                    StoreUnavailableError(f"the database that keeps the budgets failed: {why}")
                )
        self._asked.clear()
        asyncio.get_running_loop().call_later(_DOWN_S, self._work)

    async def _apply(
        self,
        calls: list[_Asked],
        ends: list[_End],
        *,
        again: bool,
    ) -> None:
        index: dict[tuple[str, str], int] = {}
        counters: list[Counter] = []
        for needed in (*(a.counters for a in calls), *(c for _, _, c in ends)):
            for counter in needed:
                if counter.place not in index:
                    counters.append(counter)
                    index[counter.place] = len(counters)
        need_call: list[int] = []
        need_counter: list[int] = []
        for number, asked in enumerate(calls, 1):
            for counter in asked.counters:
                need_call.append(number)
                need_counter.append(index[counter.place])
        cursor = await self._execute(
            _APPLY,
            [
                self._lease,
                [id for id, _, _ in ends],
                [cost for _, cost, _ in ends],
                [c.key for c in counters],
                [c.subject for c in counters],
                [c.budget.per for c in counters],
                [c.budget.time_zone for c in counters],
                [c.limit_usd for c in counters],
                [a.id for a in calls],
                [a.usd for a in calls],
                need_call,
                need_counter,
                again,
            ],
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101  a function of one row
        blocked, spent, reserved, period_ends = row
        for counter, s, r, end in zip(
            counters, spent or (), reserved or (), period_ends, strict=True
        ):
            self._on_seen(counter, Seen(s, r, end))
        for asked, number in zip(calls, blocked, strict=True):
            if number == 0 and asked.blocked.done():  # who asked has left
                self._ended.append((asked.id, Decimal(0), asked.counters))
                continue
            if number == 0:
                self._open.add(asked.id)
            if not asked.blocked.done():
                asked.blocked.set_result(None if number == 0 else counters[number - 1])

    # --- alone -------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Say now and then that this process lives, and look after those that don't."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            try:
                if self._open:
                    await self._execute(_RENEW, [self._lease, sorted(self._open)])
                await self._execute(_TEND, [_LOOK_AGAIN, _FORGET])
            except _FAULTS as error:
                logger.debug("the budgets can't be tended: %r", error)
                continue
            if self._ended or self._late:
                self._work()

    async def _execute(self, query: str, arguments: list[Any]) -> psycopg.AsyncCursor[Any]:
        async with asyncio.timeout(_STATEMENT_S):
            connection = await self._connected()
            return await connection.execute(query.encode(), arguments, prepare=True)

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=5
                )
                try:
                    async with connection.cursor() as cursor:
                        await cursor.executemany(_MIRROR, [_mirror(b) for b in self._budgets])
                except BaseException:
                    await connection.close()
                    raise
                self._connection = connection
            return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_FAULTS):
                await connection.close()


def _is_reserved(blocked: asyncio.Future[Counter | None]) -> bool:
    done = blocked.done() and not blocked.cancelled()
    return done and blocked.exception() is None and blocked.result() is None


def _late(id: UUID, cost_usd: Decimal, counters: tuple[Counter, ...]) -> _Asked:
    soft = tuple(replace(counter, limit_usd=None) for counter in counters)
    return _Asked(id, cost_usd, soft, asyncio.get_running_loop().create_future())


def _mirror(budget: Budget) -> tuple[Any, ...]:
    scope = {
        name: value
        for name in ("model", "tag", "session")
        if (value := getattr(budget.scope, name)) is not None
    }
    return (
        budget.key,
        budget.name,
        budget.usd,
        budget.per,
        budget.time_zone,
        json.dumps(scope),
        budget.on_exceed,
        budget.warn_at,
    )
