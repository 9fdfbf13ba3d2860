"""Budgets: no call is sent that might pass a hard one, and none is refused that would have fitted.

Before a call its upper estimate is reserved in all budgets that it counts in, or in none; after it
what it truly cost is booked. So what was spent and what calls under way may come to never pass a
hard budget together, however many processes spend from it: the lab's PostgreSQL keeps the account
(`ledger`). A call that only the reservations of others stand against waits a moment for them to
be settled, mostly for less.

No process keeps a slice of a budget for itself to save statements: what lies unused in one would
be refused to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Self

from novellus_lab.errors import (
    BudgetExceededError,
    ConfigurationError,
    StoreUnavailableError,
    UnknownPriceError,
)
from novellus_lab.limits.budget import Budget, CallScope, Counter
from novellus_lab.limits.budget_status import BudgetStatus, status_of
from novellus_lab.limits.ledger import Ledger, Seen
from novellus_lab.store.storable import storable_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

logger = logging.getLogger("novellus_lab.limits")

Lenience = Literal["refuse", "allow"]

_POLL_S = 0.1
_MOST_SEEN = 20_000
_ZERO = Decimal(0)


class SpendingScope:
    """`with lab.budget(usd=5) as spending:`: what the calls within may cost together.

    It counts the calls of this block (in all threads and tasks that it starts with its context),
    in this process. Scopes may be nested; a call counts in all of them.
    """

    def __init__(self, usd: Decimal, *, name: str = "this block") -> None:
        if not usd.is_finite() or usd < 0:
            raise ConfigurationError(f"a budget must be a number of dollars from 0 on, not {usd}")
        self.name = name
        self.limit_usd = usd
        self.spent_usd = _ZERO
        self.reserved_usd = _ZERO
        """What calls under way may cost at most."""

    @property
    def left_usd(self) -> Decimal:
        return self.limit_usd - self.spent_usd - self.reserved_usd

    def __repr__(self) -> str:
        return f"<SpendingScope {self.name!r}: ${self.spent_usd:f} of ${self.limit_usd:f} spent>"


_open_scopes: ContextVar[tuple[SpendingScope, ...]] = ContextVar("novellus_budgets", default=())


class Reservation:
    """What a call under way may cost. End it once, with `settle` or `cancel`; both return at once."""

    __slots__ = ("_booked", "_budgets", "_counters", "_id", "_scopes", "usd", "waited_s")

    def __init__(
        self,
        budgets: Budgets | None,
        id: UUID | None,
        usd: Decimal,
        scopes: tuple[SpendingScope, ...] = (),
        counters: tuple[Counter, ...] = (),
        waited_s: float = 0.0,
        booked: bool = True,
    ) -> None:
        self._budgets = budgets
        self._id = id
        self._scopes = scopes
        self._counters = counters
        self._booked = booked
        self.usd = usd
        self.waited_s = waited_s
        """What the call waited for others to be settled, in seconds."""

    def settle(self, cost_usd: Decimal | None) -> None:
        """The call ended and cost this; None: nobody knows, what was reserved counts as spent."""
        budgets, self._budgets = self._budgets, None
        if budgets is not None:
            if not self._booked and cost_usd is None:
                cost_usd = self.usd
            budgets._settle(
                self._id, self.usd, cost_usd, self._scopes, self._counters, booked=self._booked
            )

    def cancel(self) -> None:
        """Nothing was sent."""
        self.settle(_ZERO)


_NOTHING_TO_KEEP = Reservation(None, None, _ZERO)


class Budgets:
    """One for a lab, on its event loop; `allows`, `prefer_cheaper` and `scope` on any thread.

    Args:
        budgets: from the configuration.
        conninfo: the lab's database.
        unpriced: what becomes of a call whose price nobody knows, under a hard budget.
        unreachable: what becomes of a call under a hard budget when the database can't be asked.
        settle_wait_s: longest wait for others' reservations; 0 refuses at once.
        lease_s: after which a process of which nothing was heard counts as dead.

    Raises:
        ConfigurationError: two budgets have the same name.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        conninfo: str,
        *,
        unpriced: Lenience = "refuse",
        unreachable: Lenience = "refuse",
        settle_wait_s: float = 5.0,
        lease_s: float = 60.0,
    ) -> None:
        names = [budget.name for budget in budgets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(f"budgets: two have the name {sorted(twice)[0]!r}")
        self._budgets = tuple(budgets)
        keys = [(budget, budget.key) for budget in budgets]
        self._all = _Keyed.of(keys)
        self._hard = _Keyed.of([(b, key) for b, key in keys if b.hard])
        self._downgrading = _Keyed.of([(b, k) for b, k in keys if b.on_exceed == "downgrade"])
        self._unpriced = unpriced
        self._unreachable = unreachable
        self._settle_wait_s = settle_wait_s
        self._ledger = Ledger(conninfo, budgets, self._note, lease_s=lease_s) if budgets else None
        self._seen: dict[tuple[str, str], Seen] = {}
        self._warned: dict[tuple[str, str], tuple[float, int]] = {}
        self._changed: asyncio.Event | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to keep: no estimate has to be made for `reserve`."""
        return not self._budgets and not _open_scopes.get()

    @contextlib.contextmanager
    def scope(
        self, usd: Decimal | float | str, *, name: str = "this block"
    ) -> Iterator[SpendingScope]:
        """Hold the calls of a `with` block to an amount, whatever else holds."""
        spending = SpendingScope(Decimal(str(usd)), name=name)
        token = _open_scopes.set((*_open_scopes.get(), spending))
        try:
            yield spending
        finally:
            _open_scopes.reset(token)

    async def reserve(
        self,
        call: CallScope,
        usd: Decimal | None,
        *,
        id: UUID,
        timeout_s: float | None = None,
    ) -> Reservation:
        """Reserve what a call may cost, before it is sent.

        Args:
            call: whose it is.
            usd: upper estimate in US dollars; None: the price is not known.
            id: that its row in `ai_request_attempts` (or `ai_requests`) will have. Should this
                process die, the log says under it what the call cost.
            timeout_s: what is left of the call's deadline.

        Raises:
            BudgetExceededError: it does not fit.
            UnknownPriceError: a hard budget holds, and the price is not known.
            StoreUnavailableError: a hard budget holds, and the database can't be asked.
        """
        scopes = _open_scopes.get()
        counters = self.counters(call)
        if not scopes and not counters:
            return _NOTHING_TO_KEEP
        if usd is None:
            if self._unpriced == "refuse":
                self._refuse_unpriced(call, scopes, counters)
            usd = _ZERO
        started = time.monotonic()
        until = started + min(
            self._settle_wait_s, self._settle_wait_s if timeout_s is None else timeout_s
        )
        while True:
            changed, booked = self._change(), True
            against: SpendingScope | Counter | None = _hold(scopes, usd)
            if against is None and counters and self._ledger is not None:
                try:
                    against = await self._reserve_in(self._ledger, id, usd, scopes, counters)
                except StoreUnavailableError:
                    if self._unreachable == "refuse" and any(c.budget.hard for c in counters):
                        raise
                    booked, against = False, _hold(scopes, usd)
            now = time.monotonic()
            if against is None:
                return Reservation(
                    self, id, usd, scopes, counters, waited_s=now - started, booked=booked
                )
            limit, spent, reserved = self._seen_of(against)
            if spent + usd > limit or now >= until:
                self._refuse(against, usd, limit, spent, reserved)
            if isinstance(against, Counter) and self._ledger is not None:
                await self._ledger.give_back_of_the_dead()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL_S, until - now)):
                    await changed.wait()

    async def hold(self, ids: Sequence[UUID], for_s: float) -> None:
        """Hold reservations for so long, whether or not this process lives on.

        Raises:
            StoreUnavailableError
        """
        if self._ledger is not None and ids:
            await self._ledger.hold(ids, for_s)

    def settle_held(self, id: UUID, cost_usd: Decimal | None, call: CallScope) -> None:
        """Settle what another process reserved, and held. What was settled before stays as it is."""
        counters = self.counters(call) if self._budgets else ()
        if self._ledger is not None and counters:
            self._ledger.settle(id, cost_usd, counters)

    def counters(self, call: CallScope) -> tuple[Counter, ...]:
        """Return what a call counts in."""
        return tuple(self._all.counters(call, (call.model_id,)))

    def room_usd(self, call: CallScope, model_ids: Sequence[str]) -> Decimal | None:
        """Return what is left of the hard budget with least, whichever of these models is asked.

        By what was last seen: a request of which every candidate costs less is refused by none, as
        far as `allows` would tell. None: no hard budget holds.
        """
        left = [scope.limit_usd - scope.spent_usd for scope in _open_scopes.get()]
        left += [
            counter.budget.usd - self._current(counter).spent_usd
            for counter in self._hard.counters(call, model_ids)
        ]
        return min(left, default=None)

    def allows(self, call: CallScope, usd: Decimal | None = None) -> str | None:
        """Return None, or why a hard budget surely stands against a call, by what was last seen.

        For routing and explanations: changes nothing and asks nobody. `reserve` has the last word.
        """
        for scope in _open_scopes.get():
            if scope.spent_usd + (usd or _ZERO) > scope.limit_usd:
                return f"{_title(scope)} has ${scope.limit_usd - scope.spent_usd:f} left"
        for counter in self._hard.counters(call, (call.model_id,)):
            limit = counter.budget.usd
            if usd is None and self._unpriced == "refuse":
                return f"its price is unknown, and budget {counter.title} is hard"
            spent = self._current(counter).spent_usd
            if usd and spent + usd > limit:
                return f"budget {counter.title} has ${max(limit - spent, _ZERO):f} left"
        return None

    def prefer_cheaper(self, call: CallScope, model_ids: Sequence[str] = ()) -> str | None:
        """Return why cheaper models should be preferred (a `downgrade` budget is spent), or None.

        Args:
            model_ids: who may be asked; default the call's own.
        """
        for counter in self._downgrading.counters(call, model_ids or (call.model_id,)):
            budget, seen = counter.budget, self._current(counter)
            if seen.spent_usd + seen.reserved_usd >= budget.usd:
                return f"budget {counter.title} of ${budget.usd:f} a {budget.per} is spent"
        return None

    async def refresh(self) -> None:
        """Look at all counters, for `allows` and `prefer_cheaper`: at the start, and now and then.

        Raises:
            StoreUnavailableError
        """
        if self._ledger is None:
            return
        for row in await self._ledger.periods():
            if row.subject is not None:
                budget = row.budget
                counter = Counter(
                    budget, row.subject, budget.key, budget.usd if budget.hard else None
                )
                end = float("inf") if row.end is None else row.end.timestamp()
                self._note(counter, Seen(row.spent_usd, row.reserved_usd, end))

    async def status(self) -> list[BudgetStatus]:
        """Return spend, what is left, pace and forecast of each budget in its current period.

        Raises:
            StoreUnavailableError
        """
        if self._ledger is None:
            return []
        await self._ledger.flush()
        return [status_of(row) for row in await self._ledger.periods()]

    async def flush(self) -> None:
        """Return when what has ended is booked, or the database is away."""
        if self._ledger is not None:
            await self._ledger.flush()

    async def aclose(self) -> None:
        """Book what has ended, and leave. Idempotent."""
        if self._ledger is not None:
            await self._ledger.aclose()

    # -----------------------------------------------------------------------------------------

    async def _reserve_in(
        self,
        ledger: Ledger,
        id: UUID,
        usd: Decimal,
        scopes: tuple[SpendingScope, ...],
        counters: tuple[Counter, ...],
    ) -> Counter | None:
        """Reserve in the ledger too; where that fails, let go of what was held in the scopes."""
        try:
            against = await ledger.reserve(id, usd, counters)
        except BaseException:
            _let_go(scopes, usd, _ZERO)
            raise
        if against is not None:
            _let_go(scopes, usd, _ZERO)
        return against

    def _settle(
        self,
        id: UUID | None,
        reserved_usd: Decimal,
        cost_usd: Decimal | None,
        scopes: tuple[SpendingScope, ...],
        counters: tuple[Counter, ...],
        *,
        booked: bool,
    ) -> None:
        _let_go(scopes, reserved_usd, reserved_usd if cost_usd is None else cost_usd)
        if counters and self._ledger is not None and id is not None:
            if booked:
                self._ledger.settle(id, cost_usd, counters)
            elif cost_usd:
                self._ledger.book(id, cost_usd, counters)
        self._tell_of_change()

    def _change(self) -> asyncio.Event:
        """Return what is set when the next call is settled."""
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    def _tell_of_change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _note(self, counter: Counter, seen: Seen) -> None:
        if len(self._seen) >= _MOST_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[counter.place] = seen
        self._warn(counter, seen)

    def _current(self, counter: Counter) -> Seen:
        seen = self._seen.get(counter.place)
        if seen is None or time.time() >= seen.until:
            return Seen(_ZERO, _ZERO, float("inf"))
        return seen

    def _seen_of(self, against: SpendingScope | Counter) -> tuple[Decimal, Decimal, Decimal]:
        if isinstance(against, SpendingScope):
            return against.limit_usd, against.spent_usd, against.reserved_usd
        seen = self._current(against)
        return against.budget.usd, seen.spent_usd, seen.reserved_usd

    def _warn(self, counter: Counter, seen: Seen) -> None:
        budget = counter.budget
        level = 2 if seen.spent_usd >= budget.usd else 1
        if level == 1 and seen.spent_usd < budget.usd * Decimal(str(budget.warn_at)):
            return
        if self._warned.get(counter.place, (0.0, 0)) >= (seen.until, level):
            return
        if len(self._warned) >= _MOST_SEEN:
            self._warned.pop(next(iter(self._warned)))
        self._warned[counter.place] = (seen.until, level)
        logger.warning(
            "budget %s: $%s of $%s%s spent%s",
            counter.title,
            f"{seen.spent_usd:.2f}",
            f"{budget.usd:f}",
            "" if budget.per == "total" else f" a {budget.per}",
            _CONSEQUENCE[budget.on_exceed] if level == 2 else "",
        )

    def _refuse_unpriced(
        self, call: CallScope, scopes: tuple[SpendingScope, ...], counters: tuple[Counter, ...]
    ) -> None:
        hard = [counter for counter in counters if counter.limit_usd is not None]
        if not scopes and not hard:
            return
        what = _title(scopes[0]) if scopes else f"budget {hard[0].title}"
        raise UnknownPriceError(
            f"the price of {call.model_id} is not known, and {what} is hard: set input_token_cost and "
            f"output_token_cost of the model in the YAML (0 for a server of your own), or "
            f"`unpriced: allow`. Nothing was sent.",
            budget=scopes[0].name if scopes else hard[0].budget.name,
            model_only=True,
        )

    def _refuse(
        self,
        against: SpendingScope | Counter,
        usd: Decimal,
        limit: Decimal,
        spent: Decimal,
        reserved: Decimal,
    ) -> NoReturn:
        left = max(limit - spent - reserved, _ZERO)
        resets_at: datetime | None = None
        per, model_only = "", False
        if isinstance(against, SpendingScope):
            name, title = against.name, _title(against)
        else:
            budget = against.budget
            name, title = budget.name, f"budget {against.title}"
            per = "" if budget.per == "total" else f" a {budget.per}"
            model_only = budget.scope.model is not None
            resets_at = _moment(self._current(against).until)
        held = f" and ${reserved:f} are reserved by calls under way" if reserved else " are spent"
        when = f" The next period begins {resets_at:%Y-%m-%d %H:%M %Z}." if resets_at else ""
        raise BudgetExceededError(
            f"this call may cost ${usd:f}, and of {title} (${limit:f}{per}) ${left:f} are left: "
            f"${spent:f}{' are spent' if reserved else ''}{held}.{when} Lower max_tokens, ask a "
            f"cheaper model, or raise the budget. Nothing was sent.",
            budget=name,
            model_only=model_only,
            needed_usd=usd,
            left_usd=left,
            resets_at=resets_at,
        )


class _Keyed(NamedTuple):
    """Budgets with their keys: those that hold whichever model is asked apart from the others."""

    any_model: tuple[tuple[Budget, str], ...]
    by_model: tuple[tuple[Budget, str], ...]

    @classmethod
    def of(cls, keys: Sequence[tuple[Budget, str]]) -> Self:
        return cls(
            tuple(pair for pair in keys if pair[0].scope.model is None),
            tuple(pair for pair in keys if pair[0].scope.model is not None),
        )

    def counters(self, call: CallScope, model_ids: Sequence[str]) -> Iterator[Counter]:
        """Yield what a call counts in if one of these models is asked."""
        yield from _counters(self.any_model, call)
        if self.by_model:
            for model_id in model_ids:
                yield from _counters(self.by_model, CallScope(model_id, call.tags, call.session_id))


def _counters(keys: Sequence[tuple[Budget, str]], call: CallScope) -> Iterator[Counter]:
    for budget, key in keys:
        subject = budget.scope.subject(call)
        if subject is not None:
            limit = budget.usd if budget.hard else None
            yield Counter(budget, storable_text(subject), key, limit)


_CONSEQUENCE = {
    "refuse": ": calls are refused until the next period",
    "downgrade": ": cheaper models are preferred until the next period",
    "warn": ": calls go on",
}


def _title(scope: SpendingScope) -> str:
    return f"the budget of {scope.name}"


def _hold(scopes: tuple[SpendingScope, ...], usd: Decimal) -> SpendingScope | None:
    """Reserve in all scopes or in none; return the one that has no room."""
    if usd:
        for scope in scopes:
            if scope.spent_usd + scope.reserved_usd + usd > scope.limit_usd:
                return scope
    for scope in scopes:
        scope.reserved_usd += usd
    return None


def _let_go(scopes: tuple[SpendingScope, ...], held_usd: Decimal, cost_usd: Decimal) -> None:
    for scope in scopes:
        scope.reserved_usd -= held_usd
        scope.spent_usd += cost_usd


def _moment(seconds: float) -> datetime | None:
    from datetime import UTC, datetime

    return None if seconds == float("inf") else datetime.fromtimestamp(seconds, UTC)
