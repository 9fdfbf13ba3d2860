"""Budgets over a real PostgreSQL: what is spent and reserved never passes them, and all of it is used."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from novellus_lab.errors import (
    BudgetExceededError,
    ConfigurationError,
    StoreUnavailableError,
    UnknownPriceError,
)
from novellus_lab.ids import uuid7
from novellus_lab.limits import ledger as ledger_module
from novellus_lab.limits.budget import Budget, CallScope, Scope
from novellus_lab.limits.budget_status import status_of
from novellus_lab.limits.budgets import Budgets
from novellus_lab.limits.ledger import PeriodRow
from tests.store.database_proxy import DatabaseProxy

LONG_S = 60
CALL = CallScope("gpt-4o", {"team": "search"}, "s1")


def usd(text: str | int) -> Decimal:
    return Decimal(str(text))


def budget(amount: str | int = 10, **fields) -> Budget:
    return Budget(**{"name": "lab", "usd": usd(amount), **fields})


@contextlib.asynccontextmanager
async def opened(database, *budgets: Budget, **options):
    options = {"settle_wait_s": 0.0, **options}
    book = Budgets(budgets, getattr(database, "conninfo", database), **options)
    try:
        yield book
    finally:
        await book.aclose()


async def reserve(book: Budgets, amount: str | None, call: CallScope = CALL, **more):
    return await book.reserve(call, None if amount is None else usd(amount), id=uuid7(), **more)


def rows(database, query: str, *arguments):
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def account(database) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    """What was spent and is reserved, by budget and subject."""
    found = rows(
        database,
        "SELECT b.name, p.subject, p.spent_usd, p.reserved_usd FROM ai_budget_periods p "
        "JOIN ai_budgets b ON b.key = p.budget",
    )
    return {(name, subject): (spent, reserved) for name, subject, spent, reserved in found}


async def until(condition) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.02)


# --- reserve and settle ----------------------------------------------------------------------


async def test_a_call_reserves_its_estimate_and_is_booked_at_its_cost(database):
    async with opened(database, budget(10)) as book:
        reservation = await reserve(book, "4")
        assert account(database) == {("lab", ""): (0, 4)}
        reservation.settle(usd("0.000000000123"))
        await book.flush()
        assert account(database) == {("lab", ""): (usd("0.000000000123"), 0)}
        [status] = await book.status()
        assert status.left_usd == usd("9.999999999877")
    assert rows(database, "SELECT count(*) FROM ai_budget_reservations") == [(0,)]


async def test_a_hard_budget_is_used_to_the_last_cent_and_no_further(database):
    async with opened(database, budget(1)) as book:
        held = [await reserve(book, "0.1") for _ in range(10)]
        with pytest.raises(
            BudgetExceededError, match=r"may cost \$0.1.*\$0.* are left.*reserved"
        ) as e:
            await reserve(book, "0.1")
        assert (e.value.budget, e.value.needed_usd, e.value.left_usd) == ("lab", usd("0.1"), 0)
        assert e.value.resets_at > datetime.now(UTC)
        assert not e.value.model_only
        for reservation in held:
            reservation.settle(usd("0.05"))
        for _ in range(5):
            (await reserve(book, "0.1")).settle(usd("0.1"))
        with pytest.raises(BudgetExceededError, match="are spent"):
            await reserve(book, "0.0000001")
        (await reserve(book, "0")).settle(usd(0))  # what costs nothing always fits


async def test_a_reservation_ends_once(database):
    async with opened(database, budget(10)) as book:
        first, second, third = [await reserve(book, "1") for _ in range(3)]
        first.cancel()
        first.settle(usd(5))
        second.settle(usd("0.5"))
        second.settle(usd("0.5"))
        third.settle(None)  # nobody knows: what was reserved counts
        await book.flush()
    assert account(database) == {("lab", ""): (usd("1.5"), 0)}


async def test_what_costs_more_than_was_thought_is_booked_in_full(database):
    async with opened(database, budget(1)) as book:
        (await reserve(book, "0.5")).settle(usd(3))
        with pytest.raises(BudgetExceededError):
            await reserve(book, "0.1")
        [status] = await book.status()
        assert (status.left_usd, status.state) == (-2, "exceeded")


async def test_many_at_once_go_with_few_statements(database, monkeypatch):
    statements = 0
    execute = ledger_module.Ledger._execute

    async def counting(self, query, arguments):
        nonlocal statements
        statements += query == ledger_module._APPLY
        return await execute(self, query, arguments)

    monkeypatch.setattr(ledger_module.Ledger, "_execute", counting)
    async with opened(database, budget(20), budget(20, name="day", per="day")) as book:

        async def call() -> None:
            (await reserve(book, "0.1")).settle(usd("0.1"))

        await asyncio.gather(*(call() for _ in range(200)))
        await book.flush()
        with pytest.raises(BudgetExceededError):
            await reserve(book, "0.1")
    assert account(database) == {("lab", ""): (20, 0), ("day", ""): (20, 0)}
    assert statements <= 8


async def test_one_after_another_an_end_goes_along_with_the_next(database, monkeypatch):
    statements = 0
    execute = ledger_module.Ledger._execute

    async def counting(self, query, arguments):
        nonlocal statements
        statements += query == ledger_module._APPLY
        return await execute(self, query, arguments)

    monkeypatch.setattr(ledger_module.Ledger, "_execute", counting)
    monkeypatch.setattr(ledger_module, "_COMPANY_S", LONG_S)
    async with opened(database, budget(20)) as book:
        for _ in range(20):
            (await reserve(book, "1")).settle(usd(1))
        await book.flush()
    assert account(database) == {("lab", ""): (20, 0)}
    assert statements == 21


async def test_without_budgets_nothing_is_asked_and_nothing_kept():
    book = Budgets((), "host=/nowhere")
    assert book.idle
    reservation = await reserve(book, None)
    reservation.settle(usd(5))
    assert await book.status() == []
    assert book.allows(CALL) is None
    await book.aclose()


# --- whose calls count -----------------------------------------------------------------------


async def test_all_of_a_calls_budgets_or_none(database):
    small = budget(1, name="small", scope=Scope(model="gpt-4o"))
    async with opened(database, budget(10), small) as book:
        (await reserve(book, "0.9")).settle(usd("0.9"))
        with pytest.raises(BudgetExceededError, match="'small'") as e:
            await reserve(book, "0.2")
        assert e.value.model_only
        await reserve(book, "5", CallScope("another"))
        await book.flush()
    assert account(database)["lab", ""] == (usd("0.9"), 5)


@pytest.mark.parametrize(
    ("scope", "call", "subject"),
    [
        (Scope(), CALL, ""),
        (Scope(model="gpt-4o"), CALL, ""),
        (Scope(model="other"), CALL, None),
        (Scope(model="*"), CALL, "gpt-4o"),
        (Scope(tag="team=search"), CALL, ""),
        (Scope(tag="team=ads"), CALL, None),
        (Scope(tag="team=*"), CALL, "team=search"),
        (Scope(tag="user=*"), CALL, None),
        (Scope(tag="beta=true"), CallScope("m", {"beta": True}), ""),
        (Scope(tag="n=3"), CallScope("m", {"n": 3}), ""),
        (Scope(session="s1"), CALL, ""),
        (Scope(session="*"), CALL, "s1"),
        (Scope(session="*"), CallScope("m"), None),
        (Scope(model="gpt-4o", tag="team=*", session="*"), CALL, "team=search, s1"),
    ],
)
def test_whose_calls_count(scope, call, subject):
    assert scope.subject(call) == subject


async def test_every_session_has_its_own(database):
    each = budget(1, name="session", per="total", scope=Scope(session="*"))
    async with opened(database, each) as book:
        for session in ("a", "b", "nul \0 and half \ud800"):
            (await reserve(book, "0.8", CallScope("m", session_id=session))).settle(usd("0.8"))
            with pytest.raises(BudgetExceededError, match="'session' of "):
                await reserve(book, "0.8", CallScope("m", session_id=session))
        await reserve(book, "100", CallScope("m"))  # no session, no such budget
        assert sorted(s.subject for s in await book.status())[:2] == ["a", "b"]


async def test_soft_budgets_refuse_nothing_and_tell(database, caplog):
    caplog.set_level(logging.WARNING, "novellus_lab.limits")
    soft = budget(1, name="soft", on_exceed="warn")
    cheaper = budget(2, name="cheaper", on_exceed="downgrade", scope=Scope(tag="team=search"))
    async with opened(database, soft, cheaper) as book:
        assert book.prefer_cheaper(CALL) is None
        (await reserve(book, "0.7")).settle(usd("0.7"))
        await book.flush()
        assert caplog.messages == []
        for _ in range(3):
            (await reserve(book, "0.15")).settle(usd("0.15"))
        await book.flush()
        assert caplog.messages == [
            "budget 'soft': $0.85 of $1 a month spent",
            "budget 'soft': $1.00 of $1 a month spent: calls go on",
        ]
        (await reserve(book, "50")).settle(usd("50"))
        await book.flush()
        assert "cheaper models are preferred" in caplog.text
        assert "'cheaper' of $2 a month is spent" in book.prefer_cheaper(CALL)
        assert book.prefer_cheaper(CallScope("m")) is None
        assert book.allows(CALL, usd(100)) is None
    async with opened(database, soft, cheaper) as book:
        await book.refresh()  # another process knows once it has looked
        assert book.prefer_cheaper(CALL)


async def test_unknown_prices(database):
    async with opened(database, budget(1)) as book:
        with pytest.raises(UnknownPriceError, match="price of gpt-4o is not known.*'lab'"):
            await reserve(book, None)
        assert "price is unknown" in book.allows(CALL)
    async with opened(database, budget(1), unpriced="allow") as book:
        (await reserve(book, None)).settle(usd("0.25"))
        await book.flush()
        assert book.allows(CALL) is None
    async with opened(database, budget(1, name="soft", on_exceed="warn")) as book:
        (await reserve(book, None)).settle(None)
        await book.flush()
    assert account(database) == {("lab", ""): (usd("0.25"), 0), ("soft", ""): (0, 0)}


async def test_what_surely_does_not_fit_is_known_beforehand(database):
    async with opened(database, budget(1)) as book:
        (await reserve(book, "0.9")).settle(usd("0.9"))
        await book.flush()
        assert "$0.1 left" in book.allows(CALL, usd("0.2"))
        assert book.allows(CALL, usd("0.1")) is None


# --- waiting for others ----------------------------------------------------------------------


async def test_a_call_that_only_reservations_stand_against_waits_for_them(database):
    options = {"settle_wait_s": LONG_S}
    async with (
        opened(database, budget(1), **options) as a,
        opened(database, budget(1), **options) as b,
    ):
        mine, theirs = await reserve(a, "0.5"), await reserve(b, "0.5")
        waits = [asyncio.create_task(reserve(lab, "0.4")) for lab in (a, b)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waits)
        mine.settle(usd("0.1"))
        theirs.settle(usd("0.1"))
        for task in waits:
            reservation = await asyncio.wait_for(task, LONG_S)
            assert reservation.waited_s > 0.05
            reservation.settle(usd("0.1"))
        # What was spent stands against it: waiting would be in vain.
        began = time.monotonic()
        with pytest.raises(BudgetExceededError):
            await reserve(a, "0.9")
        assert time.monotonic() - began < LONG_S / 2


async def test_the_wait_is_bounded_by_option_and_deadline(database):
    async with opened(database, budget(1), settle_wait_s=0.05) as book:
        await reserve(book, "1")
        with pytest.raises(BudgetExceededError):
            await reserve(book, "1")
    async with opened(database, budget(1), settle_wait_s=LONG_S) as book:
        with pytest.raises(BudgetExceededError):
            await reserve(book, "1", timeout_s=0.05)


async def test_who_leaves_while_waiting_reserves_nothing(database):
    async with opened(database, budget(10), settle_wait_s=LONG_S) as book:
        first = await reserve(book, "8")
        tasks = [asyncio.create_task(reserve(book, "3")) for _ in range(5)]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(reserve(book, "1")) for _ in range(5)]
        await asyncio.sleep(0)  # these are on their way to the database
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        first.settle(usd(1))
        await book.flush()
        assert account(database) == {("lab", ""): (1, 0)}


async def test_who_leaves_in_the_moment_of_the_answer_reserves_nothing(database, monkeypatch):
    apply = ledger_module.Ledger._apply

    async def answered_too_late(self, *calls, **more):
        await apply(self, *calls, **more)
        leaving.cancel()

    monkeypatch.setattr(ledger_module.Ledger, "_apply", answered_too_late)
    async with opened(database, budget(10)) as book:
        leaving = asyncio.create_task(reserve(book, "3"))
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await book.flush()
        assert account(database) == {("lab", ""): (0, 0)}


# --- blocks ----------------------------------------------------------------------------------


async def test_a_block_has_its_budget_and_blocks_may_be_nested():
    book = Budgets((), "host=/nowhere", settle_wait_s=0)
    with book.scope(5) as outer:
        assert not book.idle
        (await reserve(book, "1")).settle(usd(1))
        with book.scope("2.5", name="inner") as inner:
            held = await reserve(book, "2")
            assert (inner.left_usd, outer.left_usd) == (usd("0.5"), 2)
            with pytest.raises(BudgetExceededError, match="the budget of inner") as e:
                await reserve(book, "1")
            assert e.value.budget == "inner"
            with pytest.raises(UnknownPriceError):
                await reserve(book, None)
            assert "left" in book.allows(CALL, usd(9))
        held.settle(usd("0.5"))
        assert (inner.spent_usd, inner.reserved_usd, outer.spent_usd) == (usd("0.5"), 0, usd("1.5"))
        with pytest.raises(BudgetExceededError):
            await reserve(book, "4")
        assert "$1.5 of $5 spent" in repr(outer)
    assert book.idle
    with pytest.raises(ConfigurationError), book.scope(-1):
        pass


async def test_a_block_counts_the_tasks_it_starts_and_no_others():
    book = Budgets((), "host=/nowhere", settle_wait_s=0)
    outside = asyncio.Event()

    async def elsewhere():
        await outside.wait()
        return await reserve(book, "100")

    other = asyncio.create_task(elsewhere())
    with book.scope(1) as spending:
        results = await asyncio.gather(
            *(asyncio.create_task(reserve(book, "0.3")) for _ in range(5)), return_exceptions=True
        )
        assert [isinstance(r, BudgetExceededError) for r in results].count(True) == 2
        outside.set()
        await other
    assert spending.reserved_usd == usd("0.9")


async def test_a_block_lets_go_of_what_the_lab_refuses(database):
    async with opened(database, budget(1)) as book:
        with book.scope(10) as spending:
            with pytest.raises(BudgetExceededError, match="'lab'"):
                await reserve(book, "2")
            assert spending.reserved_usd == 0
            (await reserve(book, "1")).settle(usd(1))
            assert spending.spent_usd == 1


# --- periods ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Pacific/Auckland", "America/Los_Angeles"]
)
@pytest.mark.parametrize("per", ["day", "month"])
async def test_periods_begin_where_the_zone_says(database, per, zone):
    async with opened(database, budget(1, per=per, time_zone=zone)) as book:
        before = datetime.now(ZoneInfo(zone))
        await reserve(book, "1")
        [status] = await book.status()
    start = before.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if per == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        end = start + timedelta(days=1)
    # At a boundary the clock may have passed it meanwhile.
    assert status.period_start in (start, end)
    assert status.period_start < status.period_end
    if status.period_start == start:
        assert status.period_end == end


async def test_a_new_period_begins_anew_and_late_ends_count_in_their_own(database):
    async with opened(database, budget(1, per="day")) as book:
        late = await reserve(book, "0.6")
        (await reserve(book, "0.4")).settle(usd("0.4"))
        await book.flush()
        # Yesterday it was:
        for table in ("ai_budget_periods", "ai_budget_reservations"):
            rows(database, f"UPDATE {table} SET period_start = period_start - interval '1 day'")
        (await reserve(book, "1")).settle(usd("0.9"))
        late.settle(usd("0.5"))
        await book.flush()
        found = rows(
            database,
            "SELECT spent_usd, reserved_usd FROM ai_budget_periods ORDER BY period_start",
        )
        assert found == [(usd("0.9"), 0), (usd("0.9"), 0)]


def test_pace_and_forecast():
    start, end = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    row = PeriodRow(budget(100), None, usd(25), usd(1), start, end, start + (end - start) / 5)
    status = status_of(row)
    assert status.elapsed_share == pytest.approx(0.2)
    assert status.pace == pytest.approx(1.25)
    assert status.usd_per_day == usd("4.1667")
    assert status.forecast_usd == 125
    assert status.runs_out_at == start + (end - start) * 0.8
    assert (status.left_usd, status.state) == (74, "ahead")
    assert status_of(replace(row, spent_usd=usd(15))).state == "ok"
    assert status_of(replace(row, spent_usd=usd(85))).state == "warning"
    assert status_of(replace(row, spent_usd=usd(100))).state == "exceeded"
    early = status_of(replace(row, now=start + timedelta(minutes=1)))
    assert early.forecast_usd is None
    endless = status_of(replace(row, start=None, end=None))
    assert (endless.forecast_usd, endless.pace, endless.period_end) == (None, None, None)
    assert status_of(replace(row, budget=budget(0), spent_usd=usd(0))).spent_share is None


async def test_the_mirror_tells_what_budgets_there_are(database):
    one = budget("12.5", per="day", scope=Scope(tag="team=search"), on_exceed="warn", warn_at=0.5)
    async with opened(database, one) as book:
        [status] = await book.status()
        assert (status.spent_usd, status.left_usd, status.subject) == (0, usd("12.5"), "")
    found = rows(database, "SELECT name, usd, per, scope, on_exceed, warn_at FROM ai_budgets")
    assert found == [("lab", usd("12.5"), "day", {"tag": "team=search"}, "warn", 0.5)]
    async with opened(database, replace(one, usd=usd(20))) as book:
        await book.status()
    assert rows(database, "SELECT usd FROM ai_budgets") == [(20,)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"usd": usd("-1")},
        {"usd": usd("NaN")},
        {"per": "week"},
        {"on_exceed": "cry"},
        {"scope": Scope(tag="team")},
        {"time_zone": "Mars/Olympus"},
    ],
)
def test_a_budget_that_makes_no_sense_is_named(wrong):
    with pytest.raises(ConfigurationError, match="'lab'"):
        budget(**{"amount": 1, **wrong})


def test_two_budgets_of_one_name_are_refused():
    with pytest.raises(ConfigurationError, match="two have the name 'lab'"):
        Budgets((budget(1), budget(2)), "")


# --- many processes --------------------------------------------------------------------------

_SPENDER = """
import asyncio, json, random, sys
from decimal import Decimal
from novellus_lab.errors import BudgetExceededError
from novellus_lab.ids import uuid7
from novellus_lab.limits.budget import Budget, CallScope
from novellus_lab.limits.budgets import Budgets

async def main():
    lottery = random.Random(int(sys.argv[2]))
    book = Budgets(
        [Budget("lab", Decimal(1)), Budget("day", Decimal("0.9"), per="day")],
        sys.argv[1], settle_wait_s=float(sys.argv[3]),
    )
    spent, refused = Decimal(0), 0
    async def call():
        nonlocal spent, refused
        estimate = Decimal(lottery.randint(1, 100)) / 10_000
        try:
            reservation = await book.reserve(CallScope("m"), estimate, id=uuid7())
        except BudgetExceededError:
            refused += 1
            return
        await asyncio.sleep(lottery.random() * 0.01)
        cost = estimate * lottery.randint(0, 100) / 100
        if lottery.random() < 0.1:
            reservation.cancel()
        else:
            reservation.settle(cost)
            spent += cost
    for _ in range(20):
        await asyncio.gather(*(call() for _ in range(40)))
    await book.aclose()
    print(json.dumps([str(spent), refused]))

asyncio.run(main())
"""


def test_two_processes_hammer_one_hard_budget_and_the_sum_never_passes(database):
    spenders = [
        subprocess.Popen(
            [sys.executable, "-c", _SPENDER, database.conninfo, str(seed), "0.3"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    most = usd(0)
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        while any(spender.poll() is None for spender in spenders):
            for name, total in connection.execute(
                "SELECT b.name, p.spent_usd + p.reserved_usd FROM ai_budget_periods p "
                "JOIN ai_budgets b ON b.key = p.budget"
            ).fetchall():
                assert total <= (usd(1) if name == "lab" else usd("0.9"))
                most = max(most, total)
    told = []
    for spender in spenders:
        out, _ = spender.communicate(timeout=LONG_S)
        assert spender.returncode == 0
        told.append(json.loads(out))
    spent = sum(usd(amount) for amount, _ in told)
    assert account(database) == {("lab", ""): (spent, 0), ("day", ""): (spent, 0)}
    assert sum(refused for _, refused in told) > 0
    # Who was refused asked for at most a cent: nobody went away while more was left.
    assert usd("0.9") - usd("0.01") <= spent <= usd("0.9")
    assert most > usd("0.85")


_DYING = """
import asyncio, sys
from decimal import Decimal
from uuid import UUID
from novellus_lab.limits.budget import Budget, CallScope
from novellus_lab.limits.budgets import Budgets

async def main():
    book = Budgets([Budget("lab", Decimal(10))], sys.argv[1], lease_s=1.0)
    for id in sys.argv[2:]:
        await book.reserve(CallScope("m"), Decimal(3), id=UUID(id))
    print("reserved", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def log_attempt(database, id, cost: str | None) -> None:
    rows(
        database,
        "INSERT INTO ai_request_attempts (id, request_id, number, role, model_id, provider, started_at, "
        "status, latency_ms, cost_usd) VALUES (%s, %s, 1, 'primary', 'm', 'p', now(), 'ok', 1, %s)",
        id,
        uuid7(),
        cost,
    )


def log_request(database, id, cost: str) -> None:
    rows(
        database,
        "INSERT INTO ai_requests (id, created_at, kind, stream, status, cache, cost_usd, attempts) "
        "VALUES (%s, now(), 'chat', false, 'ok', 'miss', %s, 1)",
        id,
        cost,
    )


async def test_what_a_killed_process_had_reserved_comes_back_and_its_spend_comes_from_the_log(
    database,
):
    ids = [uuid7() for _ in range(3)]
    dying = subprocess.Popen(
        [sys.executable, "-c", _DYING, database.conninfo, *map(str, ids)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert dying.stdout.readline() == "reserved\n"
    time.sleep(1.3)  # while it lives its lease is renewed
    async with opened(database, budget(10), settle_wait_s=0) as book:
        with pytest.raises(BudgetExceededError):
            await reserve(book, "2")
        os.kill(dying.pid, signal.SIGKILL)
        dying.wait()
        dying.stdout.close()
        log_attempt(database, ids[0], "1.25")  # already known when the lease ends
    async with opened(database, budget(10), settle_wait_s=LONG_S) as book:
        reservation = await reserve(book, "8.75")  # 10 - 1.25, as soon as the lease is over
        assert account(database) == {("lab", ""): (usd("1.25"), usd("8.75"))}
        reservation.settle(usd("0.75"))
        await book.flush()
        # The rest arrives later, from the spool: the second under the request's own id.
        log_request(database, ids[1], "0.5")
        log_attempt(database, ids[2], None)
        for _ in range(3):
            rows(database, "UPDATE ai_budget_reservations SET expires_at = now() - interval '1 s'")
            rows(database, "SELECT novellus_budget_tend('1 minute', '7 days')")
        # What the third cost nobody knows: what it had reserved counts.
        assert account(database) == {("lab", ""): (usd("1.25") + usd("0.75") + usd("0.5") + 3, 0)}
    assert rows(database, "SELECT count(*) FROM ai_budget_reservations") == [(0,)]


async def test_a_process_that_slept_past_its_lease_settles_all_the_same_and_once(database):
    async with opened(database, budget(10)) as book:
        asleep = await reserve(book, "4")
        rows(database, "UPDATE ai_budget_reservations SET expires_at = now() - interval '1 s'")
        rows(database, "SELECT novellus_budget_tend('0 s', '7 days')")
        assert account(database) == {("lab", ""): (0, 0)}
        asleep.settle(usd(2))
        await book.flush()
        rows(database, "SELECT novellus_budget_tend('0 s', '7 days')")
    assert account(database) == {("lab", ""): (2, 0)}


async def test_what_the_log_never_told_is_forgotten_after_a_while(database):
    async with opened(database, budget(10)) as book:
        await reserve(book, "4")
        rows(
            database,
            "UPDATE ai_budget_reservations SET expires_at = now() - interval '1 s', "
            "reserved_at = now() - interval '8 days'",
        )
        rows(database, "SELECT novellus_budget_tend('0 s', '7 days')")
        assert account(database) == {("lab", ""): (0, 0)}
        assert rows(database, "SELECT count(*) FROM ai_budget_reservations") == [(0,)]


# --- when the database is away ---------------------------------------------------------------


async def test_away_a_hard_budget_refuses_and_a_soft_one_does_not(database, monkeypatch):
    monkeypatch.setattr(ledger_module, "_RETRY_AFTER_S", (0.01,))
    monkeypatch.setattr(ledger_module, "_DOWN_S", 0.05)
    soft = budget(10, name="soft", on_exceed="warn")
    with DatabaseProxy(database) as proxy:
        async with (
            opened(proxy, budget(10)) as hard,
            opened(proxy, soft) as lenient,
            opened(proxy, budget(10), unreachable="allow") as allowing,
        ):
            before = await reserve(hard, "1")
            proxy.cut()
            with pytest.raises(StoreUnavailableError, match="budgets"):
                await reserve(hard, "1")
            before.settle(usd("0.5"))
            (await reserve(lenient, "2")).settle(usd(2))
            (await reserve(allowing, "3")).settle(usd(3))
            (await reserve(allowing, "3")).settle(None)
            (await reserve(allowing, "3")).cancel()
            proxy.mend()
            expected = {("lab", ""): (usd("6.5"), 0), ("soft", ""): (2, 0)}
            await until(lambda: account(database) == expected)
            (await reserve(hard, "1")).settle(usd(1))
    assert account(database)["lab", ""] == (usd("7.5"), 0)


async def test_a_statement_whose_answer_was_lost_counts_once(database, monkeypatch):
    """What is sent again was done already."""
    execute = ledger_module.Ledger._execute
    lost = 0

    async def forgetful(self, query, arguments):
        nonlocal lost
        cursor = await execute(self, query, arguments)
        if query == ledger_module._APPLY and not arguments[-1]:
            lost += 1
            raise psycopg.OperationalError("the server closed the connection")
        return cursor

    monkeypatch.setattr(ledger_module.Ledger, "_execute", forgetful)
    monkeypatch.setattr(ledger_module, "_RETRY_AFTER_S", (0.001,))
    async with opened(database, budget(10)) as book:
        held = [await reserve(book, "1") for _ in range(3)]
        assert account(database) == {("lab", ""): (0, 3)}
        for reservation in held:
            reservation.settle(usd("0.5"))
        await book.flush()
    assert account(database) == {("lab", ""): (usd("1.5"), 0)}
    assert lost >= 4


async def test_connections_that_are_cut_all_the_time_lose_nothing(database):
    async with opened(database, budget(1_000), settle_wait_s=LONG_S) as book:

        async def call() -> None:
            (await reserve(book, "1")).settle(usd("0.5"))

        async def cut() -> None:
            for _ in range(10):
                await asyncio.sleep(0.01)
                rows(
                    database,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )

        async def many() -> None:
            for _ in range(60):
                await asyncio.gather(*(call() for _ in range(10)))

        await asyncio.gather(many(), asyncio.to_thread(asyncio.run, cut()))
        await book.flush()
    assert account(database) == {("lab", ""): (300, 0)}


# --- any order of events ---------------------------------------------------------------------


def test_any_order_of_reservations_ends_and_deaths_keeps_the_account(database):
    """Two processes, one hard budget of each kind: beside a model of what the account should say."""

    class Account(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            rows(
                database, "TRUNCATE ai_budget_periods, ai_budget_reservations, ai_request_attempts"
            )
            self.loop = asyncio.new_event_loop()
            self.budgets = (
                budget(10),
                budget(6, name="model", scope=Scope(model="a")),
                budget(1, name="soft", on_exceed="warn", scope=Scope(tag="t=*")),
            )
            self.books = [
                Budgets(self.budgets, database.conninfo, settle_wait_s=0) for _ in range(2)
            ]
            self.open: list[tuple[object, CallScope, Decimal, object]] = []
            self.dead: list[tuple[object, CallScope, Decimal]] = []
            self.spent: dict[tuple[str, str], Decimal] = {}

        def places(self, call: CallScope):
            found = [("lab", "")]
            found += [("model", "")] if call.model_id == "a" else []
            return found + ([("soft", f"t={call.tags['t']}")] if "t" in call.tags else [])

        def reserved(self, place) -> Decimal:
            return sum((u for _, c, u, _ in self.open if place in self.places(c)), usd(0))

        def book(self, call: CallScope, cost: Decimal) -> None:
            for place in self.places(call):
                self.spent[place] = self.spent.get(place, usd(0)) + cost

        @rule(
            who=st.integers(0, 1),
            model=st.sampled_from("ab"),
            tags=st.sampled_from([{}, {"t": 1}, {"t": 2}]),
            cents=st.integers(1, 400),
        )
        def reserve(self, who, model, tags, cents) -> None:
            call, amount, id = CallScope(model, tags), usd(cents) / 100, uuid7()
            limits = {("lab", ""): 10, ("model", ""): 6}
            fits = all(
                self.spent.get(p, 0) + self.reserved(p) + amount <= limits.get(p, 10**9)
                for p in self.places(call)
            )
            try:
                reservation = self.loop.run_until_complete(
                    self.books[who].reserve(call, amount, id=id)
                )
            except BudgetExceededError:
                assert not fits, "it would have fitted"
            else:
                assert fits, "it did not fit"
                self.open.append((id, call, amount, reservation))

        @precondition(lambda self: self.open)
        @rule(
            data=st.data(), part=st.integers(0, 100), how=st.sampled_from(["settle", "cancel", "?"])
        )
        def end(self, data, part, how) -> None:
            _, call, amount, reservation = self.open.pop(
                data.draw(st.integers(0, len(self.open) - 1))
            )
            cost = {"settle": amount * part / 100, "cancel": usd(0), "?": amount}[how]
            self.book(call, cost)

            async def end() -> None:
                if how == "cancel":
                    reservation.cancel()
                else:
                    reservation.settle(None if how == "?" else cost)
                for book in self.books:
                    await book.flush()

            self.loop.run_until_complete(end())

        @precondition(lambda self: self.open)
        @rule(known=st.booleans())
        def die(self, known) -> None:
            """The lease of all that is open runs out; the log may know what the calls cost."""
            for id, call, amount, _ in self.open:
                if known:
                    log_attempt(database, id, str(amount / 4))
                    self.book(call, amount / 4)
                else:
                    self.dead.append((id, call, amount))
            rows(database, "UPDATE ai_budget_reservations SET expires_at = now() - interval '1 s'")
            self.tend()
            self.open.clear()

        @precondition(lambda self: self.dead)
        @rule()
        def log_arrives(self) -> None:
            id, call, amount = self.dead.pop()
            log_attempt(database, id, str(amount / 2))
            self.book(call, amount / 2)
            self.tend()
            self.tend()

        def tend(self) -> None:
            rows(database, "SELECT novellus_budget_tend('-1 s', '7 days')")

        @invariant()
        def the_account_is_true(self) -> None:
            for place, (spent, reserved) in account(database).items():
                assert spent == self.spent.get(place, 0)
                assert reserved == self.reserved(place)

        def teardown(self) -> None:
            for book in self.books:
                self.loop.run_until_complete(book.aclose())
            self.loop.close()

    Account.TestCase.settings = settings(
        max_examples=8, stateful_step_count=20, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    Account.TestCase().runTest()
