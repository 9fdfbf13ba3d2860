"""The lab under the soak: its calls, their rows in the database, and what it holds on to."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab import Lab
from novellus_lab.errors import NovellusError
from novellus_lab.providers.openai import KEEPALIVE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL_TIMEOUT_S = 1.0
ATTEMPTS_A_MODEL = 3
LEAVING = 0.01
"""Share of callers who leave before the end."""
_FILLED = 4_000
"""Calls after which what is learned by tag, of which every call here has its own, is full."""
_PLENTY = 10**9
_NUMBER = "tags->>'call'"


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds while no call is under way."""

    calls: int
    """Made so far."""
    resident_mb: float
    objects: int
    """That the garbage collector knows."""
    tasks: int
    """On the lab's loop."""
    files: int
    """Open descriptors, sockets among them."""
    threads: int


@dataclass(slots=True)
class Soaked:
    """What became of the calls."""

    calls: int = 0
    answered: int = 0
    left: int = 0
    """By their own callers."""
    errors: Counter[str] = field(default_factory=Counter)
    """Typed ones, by class."""
    broken_off: int = 0
    """Of the errors: streams that had begun."""
    wrong: list[str] = field(default_factory=list)
    """Promises that were broken, in words."""
    seconds: float = 0.0
    attempts: int = 0
    held: list[Held] = field(default_factory=list)

    @property
    def share_answered(self) -> float:
        """Of those whose callers stayed."""
        return self.answered / max(1, self.calls - self.left)


def open_lab(urls: Sequence[str], **where: Any) -> Lab:
    """A lab with one model a server, with limits and a hard budget."""
    models = [
        {
            "provider": "openai",
            "model_name": f"region-{n}",
            "base_url": f"{url}/v1",
            "input_token_cost": "0.0025",
            "output_token_cost": "0.01",
            "timeout_s": MODEL_TIMEOUT_S,
            "rpm": _PLENTY,
            "tpm": _PLENTY,
            "concurrent": 1_000,
        }
        for n, url in enumerate(urls)
    ]
    config = {
        "models": models,
        "cache": {"enabled": False},
        "retries": {"max_attempts": ATTEMPTS_A_MODEL, "base_delay_s": 0.05, "max_delay_s": 1.0},
        "budgets": [{"name": "soak", "usd": 1_000_000, "per": "month"}],
    }
    return Lab(config=config, **where)


async def soak(
    lab: Lab, calls: int, concurrency: int, *, rounds: int = 10, leaving: float = LEAVING
) -> Soaked:
    """Make the calls, every second one a stream, in rounds; look at what is held after each."""
    soaked, random = Soaked(held=[_held(lab, 0)]), Random(1)
    for number in range(rounds):
        begin, end = calls * number // rounds, calls * (number + 1) // rounds
        left = iter(range(begin, end))
        began = time.perf_counter()
        await asyncio.gather(
            *(_caller(lab, left, soaked, random, leaving) for _ in range(concurrency))
        )
        soaked.seconds += time.perf_counter() - began
        await asyncio.to_thread(lab.flush)
        soaked.held.append(_held(lab, end))
    return soaked


async def _caller(lab: Lab, numbers: Any, soaked: Soaked, random: Random, leaving: float) -> None:
    for number in numbers:
        soaked.calls += 1
        patience_s = random.uniform(0.0, 0.05) if random.random() < leaving else None
        call = asyncio.ensure_future(_one(lab, number))
        try:
            if patience_s is not None:
                await asyncio.wait((call,), timeout=patience_s)
                call.cancel()
            content = await call
        except asyncio.CancelledError:
            if patience_s is None:
                soaked.wrong.append(f"call {number} was cancelled, and by nobody")
            soaked.left += 1
        except NovellusError as error:
            soaked.errors[type(error).__name__] += 1
            soaked.broken_off += bool(getattr(error, "partial_content", None))
        except BaseException as error:
            soaked.wrong.append(f"call {number} raised {type(error).__name__}: {error}")
        else:
            soaked.answered += 1
            if content != f"You said: {_question(number)}":
                soaked.wrong.append(f"call {number} was answered {content!r}")


def _question(number: int) -> str:
    return f"this is call number {number}"


async def _one(lab: Lab, number: int) -> str:
    tags = {"call": number}
    if number % 2:
        return (await lab.acomplete(_question(number), max_tokens=50, tags=tags)).content
    stream = lab.astream(_question(number), max_tokens=50, tags=tags)
    async with stream:
        content = "".join([chunk.content async for chunk in stream])
    if content != stream.completion.content:
        raise AssertionError("the pieces are not the answer")
    return content


def _held(lab: Lab, calls: int) -> Held:
    runtime = lab._live()

    async def tasks() -> int:
        return len(asyncio.all_tasks()) - 1  # this one

    for _ in range(2):
        gc.collect()
    own = Path("/proc/self")
    pages = int((own / "statm").read_text(encoding="ascii").split()[1])
    return Held(
        calls,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(gc.get_objects()),
        runtime.thread.run(tasks),
        len(list((own / "fd").iterdir())),
        len(list((own / "task").iterdir())),
    )


def check(lab: Lab, conninfo: str, soaked: Soaked, served: int) -> None:
    """Hold the database against the calls, and note in `wrong` what does not add up.

    Args:
        served: requests that reached the servers.
    """
    wrong = soaked.wrong

    def expect(what: str, found: object, expected: object) -> None:
        if found != expected:
            wrong.append(f"{what}: {found}, not {expected}")

    with psycopg.connect(conninfo) as db:

        def ask(query: str) -> tuple[Any, ...]:
            row = db.execute(query.encode()).fetchone()
            assert row is not None
            return row

        rows, distinct = ask(f"SELECT count(*), count(DISTINCT {_NUMBER}) FROM ai_requests")
        expect("rows in ai_requests", rows, soaked.calls)
        expect("calls that have a row", distinct, soaked.calls)
        ok, failed, cancelled = ask(
            "SELECT count(*) FILTER (WHERE status = 'ok'), count(*) FILTER (WHERE status = 'error'),"
            " count(*) FILTER (WHERE status = 'cancelled') FROM ai_requests"
        )
        # Who leaves in the moment of the answer may find it logged as given.
        expect("rows with an answer, and of callers who left", ok + cancelled + failed, rows)
        expect("rows with an error", max(failed - soaked.left, 0) <= soaked.errors.total(), True)
        expect("answers without their row", max(0, soaked.answered - ok), 0)
        (uneven,) = ask(
            "SELECT count(*) FROM ai_requests r WHERE attempts <>"
            " (SELECT count(*) FROM ai_request_attempts a WHERE a.request_id = r.id)"
        )
        expect("requests whose attempts don't add up", uneven, 0)
        (unlike,) = ask(
            "SELECT count(*) FROM ai_requests r WHERE (status = 'ok') <>"
            " ((SELECT count(*) FROM ai_request_attempts a"
            "   WHERE a.request_id = r.id AND a.status = 'ok') = 1)"
        )
        expect("requests whose end is not that of an attempt", unlike, 0)
        (dear,) = ask(
            "SELECT count(*) FROM ai_requests r WHERE status = 'ok' AND cost_usd <>"
            " (SELECT sum(cost_usd) FROM ai_request_attempts a WHERE a.request_id = r.id)"
        )
        expect("requests that cost another sum than their attempts", dear, 0)
        soaked.attempts, cut_short = ask(
            "SELECT count(*), count(*) FILTER (WHERE status = 'cancelled'"
            " OR error_class = 'ProviderTimeoutError') FROM ai_request_attempts"
        )
        # Who left, or whose patience ended, may have done so before the server had read a request.
        if not 0 <= soaked.attempts - served <= cut_short:
            wrong.append(
                f"{served:,} requests were served, {soaked.attempts:,} attempts are logged"
            )
        (reserved,) = ask("SELECT count(*) FROM ai_budget_reservations")
        expect("reservations that nobody settled", reserved, 0)
        (spent,) = ask("SELECT sum(spent_usd) FROM ai_budget_periods")
        (known,) = ask("SELECT sum(cost_usd) FROM ai_request_attempts")
        expect("the budget has all that is known to be spent", spent >= known, True)
    limits = lab._live().admission.limits.state()
    expect("calls that hold a place in the limits", sum(s.running + s.waiting for s in limits), 0)


async def rest(lab: Lab, soaked: Soaked) -> None:
    """Look once more when the connections that are kept for the next calls have been closed."""
    await asyncio.sleep(2 * KEEPALIVE_S + 3.0)  # aiohttp looks after them so often
    soaked.held.append(_held(lab, soaked.calls))


def leaks(held: Sequence[Held]) -> list[str]:
    """Say what has grown: since before the first call or, of memory and threads, a fifth of them.

    The first calls, and be they few, fill what is kept on purpose: code, buffers, what is learned of
    the models.
    """
    before, last = held[0], held[-1]
    warm = next((h for h in held if h.calls >= max(last.calls // 5, _FILLED)), last)
    calls = last.calls - warm.calls
    found = []
    if last.tasks > before.tasks + 4:  # the log's and the budgets' own
        found.append(f"{last.tasks - before.tasks} tasks more")
    if last.threads > warm.threads + 4:
        found.append(f"{last.threads - warm.threads} threads more in {calls:,} calls")
    if last.files > before.files + 8:
        found.append(f"{last.files - before.files} descriptors more")
    if last.objects > warm.objects + max(3_000, calls // 50):
        found.append(f"{last.objects - warm.objects:,} objects more in {calls:,} calls")
    if last.resident_mb > warm.resident_mb + max(8.0, calls / 5_000):
        found.append(f"{last.resident_mb - warm.resident_mb:.0f} MB more in {calls:,} calls")
    return found
