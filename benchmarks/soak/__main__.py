"""Soak: `python -m benchmarks.soak [--calls 50000] [--concurrency 100] [--peer-python PATH]`.

Four servers in a process of their own, each of which fails every fifth time, in nine ways. Every
second call is a stream, one caller in a hundred leaves before the end. Exits with 1 where a promise
is broken or something leaks. `docs/faults.md` tells what it found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.soak import ours
from benchmarks.soak.servers import FaultyServers
from benchmarks.speed.processes import database

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVERS = 4
_ROUTERS = {"LiteLLM Router, as it comes": False, "LiteLLM Router, without cooldowns": True}


def soak_ours(servers: FaultyServers, calls: int, concurrency: int) -> ours.Soaked:
    with (
        database() as db,
        ours.open_lab(servers.urls, home=db.home, database_url=db.conninfo) as lab,
    ):
        soaked = asyncio.run(ours.soak(lab, calls, concurrency))
        asyncio.run(ours.rest(lab, soaked))
        ours.check(lab, db.conninfo, soaked, sum(servers.did().values()))
        soaked.wrong += [f"leak: {what}" for what in ours.leaks(soaked.held)]
        return soaked


def soak_router(
    python: str, urls: Sequence[str], calls: int, concurrency: int, *, disable_cooldowns: bool
) -> dict[str, Any] | None:
    """Return what became of the calls; None where litellm is not installed."""
    order = {
        "urls": urls,
        "calls": calls,
        "concurrency": concurrency,
        "attempts": ours.ATTEMPTS_A_MODEL * len(urls),
        "timeout_s": ours.MODEL_TIMEOUT_S,
        "patience_s": 60,
        "disable_cooldowns": disable_cooldowns,
    }
    program = [python, "-P", str(Path(__file__).parent / "router.py"), json.dumps(order)]
    done = subprocess.run(
        program, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        if "ModuleNotFoundError" in done.stderr:
            return None
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def show_held(soaked: ours.Soaked, console: Console) -> None:
    table = Table(title="Held while no call is under way", title_justify="left")
    for name in ("after calls", "resident MB", "objects", "tasks", "descriptors", "threads"):
        table.add_column(name, justify="right")
    for h in soaked.held:
        table.add_row(
            f"{h.calls:,}", f"{h.resident_mb:.1f}", f"{h.objects:,}",
            str(h.tasks), str(h.files), str(h.threads),
        )  # fmt: skip
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--fault-share", type=float, default=0.2)
    parser.add_argument("--router-calls", type=int, help="of the peer; default a fifth of ours")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has litellm")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{asked.fault_share:.0%} of answers are faults", title_justify="left")
    for name in ("client", "calls", "answered", "share", "calls/s", "errors"):
        table.add_column(name, justify="left" if name in ("client", "errors") else "right")
    with FaultyServers(SERVERS, asked.fault_share) as servers:
        soaked = soak_ours(servers, asked.calls, asked.concurrency)
        show_held(soaked, console)
        table.add_row(
            "novellus_lab, logged, limits and a budget",
            f"{soaked.calls:,}, {soaked.left:,} left",
            f"{soaked.answered:,}",
            f"{soaked.share_answered:.2%}",
            f"{soaked.calls / soaked.seconds:.0f}",
            _told(soaked.errors),
        )
        for name, disable in _ROUTERS.items():
            calls = asked.router_calls or max(1, asked.calls // 5)
            found = soak_router(
                asked.peer_python,
                servers.urls,
                calls,
                asked.concurrency,
                disable_cooldowns=disable,
            )
            if found is None:
                console.print(f"{name} is absent: not installed (see --peer-python)")
                continue
            answered = found["answered"]
            table.add_row(
                name,
                f"{calls:,}",
                f"{answered:,}",
                f"{answered / calls:.2%}",
                f"{calls / found['seconds']:.0f}",
                _told({**found["errors"], **({"wrong answer": found["wrong"]} if found["wrong"] else {})}),
            )  # fmt: skip
    console.print(table)
    console.print(
        f"{soaked.attempts:,} provider calls in ai_request_attempts, {soaked.broken_off:,} streams "
        f"broke off after they had begun"
    )
    for broken in soaked.wrong[:20]:
        console.print(f"[red]wrong:[/] {broken}", highlight=False)
    return 1 if soaked.wrong else 0


def _told(errors: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(errors.items(), key=lambda e: -e[1]))


if __name__ == "__main__":
    sys.exit(main())
