"""What becomes of a call when a provider fails: what the caller gets, how long it took, what was logged.

    python -m benchmarks.faults [--markdown]

Real HTTP on loopback, the default retries; each fault meets a lab of its own, so that no circuit is
open from the one before. A deadline of 3 s, where a fault would otherwise last. The model is `first`; where a
second one stands by, it is well. Both cost $1 and $2 per 1,000 tokens. `tests/lab/test_faults.py`
holds each row.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psycopg
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from novellus_lab import Lab
from novellus_lab.errors import NovellusError
from tests.loopback import (
    Script,
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
    openai_usage,
)

GOOD = openai_chat_reply("Good.", usage=openai_usage(10, 5))
GOOD_STREAM = openai_chat_stream(["Go", "od."])
NOBODY_LISTENS = "http://127.0.0.1:9"
NO_SUCH_HOST = "http://no-such-host.invalid"

OpenLab = Callable[..., Lab]
ReadRows = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Fault:
    """What the model `first` does, and what the call is."""

    name: str
    first: Script | str
    """What its server answers, or an address where there is none."""
    second: Script | str | None = None
    """The same of a model that stands by, if one does."""
    stream: bool = False
    timeout_s: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the first model's entry."""
    call: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 1
    """The last one is looked at."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    got: str
    """The answer's text and who gave it, or the error."""
    took_s: float
    request: Mapping[str, Any]
    """The row of `ai_requests`."""
    attempts: Sequence[Mapping[str, Any]]
    """Its rows of `ai_request_attempts`."""
    partial: str | None = None
    """Text that an error brought with it."""


def faults(*, retry_after_s: float = 1.0, patience_s: float = 1.0) -> list[Fault]:
    """Return the table's rows.

    Args:
        retry_after_s: what a provider asks for, where it does.
        patience_s: of a model that hangs: its `timeout_s`; slow ones take half of it. A call has
            three times as long.
    """
    too_many = openai_error(429)
    asks = openai_error(429, headers={"retry-after": f"{retry_after_s:g}"})
    asks_long = openai_error(429, headers={"retry-after": "3600"})
    hang = Scripted(end="hang")
    malformed = Scripted(body='{"choices": [{"mess', content_type="application/json")
    cut_off = openai_chat_stream(["Go"], finish_reason=None, done=False, end="abort")
    no_usage = openai_chat_reply("Good.", usage={})
    odd_usage = openai_chat_reply(
        "Good.", usage={"prompt_tokens": -7, "completion_tokens": "many", "total_tokens": None}
    )
    half_s, deadline_s = patience_s / 2, patience_s * 3
    return [
        Fault("429 once, with retry-after", [asks, GOOD]),
        Fault("429 always, without retry-after", too_many),
        Fault("429 always, without retry-after; another stands by", too_many, GOOD),
        Fault("429, retry-after an hour", asks_long),
        Fault("429, retry-after an hour; another stands by", asks_long, GOOD),
        Fault("500 always", openai_error(500)),
        Fault("500 always; another stands by", openai_error(500), GOOD),
        Fault("503 once", [openai_error(503), GOOD]),
        Fault("hangs", hang, timeout_s=deadline_s),
        Fault(
            "hangs, its timeout_s set; another stands by",
            hang,
            GOOD,
            model={"timeout_s": patience_s / 4},
        ),
        Fault("hangs, hedged; another stands by", hang, GOOD, call={"hedge": {"after_ms": 100}}),
        Fault("slow first byte", Scripted(body=GOOD.body, delay_s=half_s)),
        Fault(
            "slow first byte of a stream",
            Scripted(pieces=GOOD_STREAM.pieces, delay_s=half_s),
            stream=True,
        ),
        Fault(
            "slow first byte of a stream, hedged; another stands by",
            Scripted(pieces=GOOD_STREAM.pieces, delay_s=patience_s * 20),
            GOOD_STREAM,
            stream=True,
            call={"hedge": {"after_ms": 100}},
        ),
        Fault(
            "connection reset before a stream's first token; another stands by",
            Scripted(end="abort"),
            GOOD_STREAM,
            stream=True,
        ),
        Fault(
            "connection reset in mid-stream; another stands by", cut_off, GOOD_STREAM, stream=True
        ),
        Fault("connection reset once, no stream", [Scripted(end="abort"), GOOD]),
        Fault("malformed JSON always", malformed),
        Fault("malformed JSON always; another stands by", malformed, GOOD),
        Fault("an answer without usage", no_usage),
        Fault("an answer with senseless usage", odd_usage),
        Fault("DNS failure", NO_SUCH_HOST),
        Fault("DNS failure; another stands by", NO_SUCH_HOST, GOOD),
        Fault("one region down, first call", NOBODY_LISTENS, GOOD),
        Fault("one region down, third call", NOBODY_LISTENS, GOOD, calls=3),
        Fault("all down", NOBODY_LISTENS, openai_error(503)),
    ]


def meet(fault: Fault, open_lab: OpenLab, read: ReadRows) -> Outcome:
    """Make the call, and look at the log."""
    with ExitStack() as stack:
        models = []
        for name, script, priority in (("first", fault.first, 200), ("second", fault.second, 100)):
            if script is None:
                continue
            url = script
            if not isinstance(script, str):
                url = stack.enter_context(ScriptedServer(script)).url
            own = fault.model if name == "first" else {}
            models.append(
                {
                    "provider": "openai",
                    "model_name": name,
                    "base_url": f"{url}/v1",
                    "input_token_cost": 1,
                    "output_token_cost": 2,
                    "priority": priority,
                    **own,
                }
            )
        lab = stack.enter_context(
            open_lab(*models, load_balancing={"default_strategy": "priority"})
        )
        for number in range(fault.calls):
            started = time.perf_counter()
            got, partial = _call(lab, fault, number)
            took_s = time.perf_counter() - started
        lab.flush()
    request = read("ai_requests")[-1]
    attempts = [a for a in read("ai_request_attempts") if a["request_id"] == request["id"]]
    return Outcome(got, took_s, request, sorted(attempts, key=lambda a: a["number"]), partial)


def _call(lab: Lab, fault: Fault, number: int) -> tuple[str, str | None]:
    prompt = f"Say something good, for the {number + 1}. time."
    arguments: dict[str, Any] = {"max_tokens": 50, **fault.call}
    if fault.timeout_s is not None:
        arguments["timeout"] = fault.timeout_s
    try:
        if fault.stream:
            stream = lab.stream(prompt, **arguments)
            text = "".join(map(str, stream))
            return f"{text!r} of {stream.completion.model}", None
        answer = lab.complete(prompt, **arguments)
        return f"{answer.content!r} of {answer.model}", None
    except NovellusError as error:
        return type(error).__name__, getattr(error, "partial_content", None)


def cells(outcome: Outcome) -> tuple[str, str, str, str]:
    """Write an outcome: what was got, how long it took, the request's row, its attempts."""
    got = outcome.got if not outcome.partial else f"{outcome.got} with {outcome.partial!r}"
    cost = outcome.request["cost_usd"]
    cost = "cost unknown" if cost is None else f"${cost:.3f}".rstrip("0").rstrip(".")
    estimated = ", estimated" if any(a["usage_estimated"] for a in outcome.attempts) else ""
    tried = []
    told = ((a["model_id"], a["role"], _end(a)) for a in outcome.attempts)
    for (model, end), same in groupby(told, key=lambda t: (t[0], t[2])):
        roles = [role for _, role, _ in same]
        times = f" ×{len(roles)}" if len(roles) > 1 else ""
        hedge = "hedge " if roles[0] == "hedge" else ""
        tried.append(f"{hedge}{model}: {end}{times}")
    row = f"{outcome.request['status']}, {cost}{estimated}"
    return got, f"{outcome.took_s:.2f} s", row, "; ".join(tried) or "none"


def _end(attempt: Mapping[str, Any]) -> str:
    if attempt["status"] == "ok":
        return "ok"
    if attempt["status"] == "cancelled":
        return "cancelled"
    status = f" {attempt['status_code']}" if attempt["status_code"] else ""
    return f"{attempt['error_class']}{status}"


HEADER = ("fault", "the caller gets", "after", "request logged", "attempts logged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print it as the docs hold it")
    options = parser.parse_args()
    logging.getLogger("novellus_lab").setLevel(logging.ERROR)
    lines = []
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as home,
        Lab(home=home, config={"models": []}) as keeper,
    ):
        conninfo = keeper._database.conninfo

        def open_lab(*models: dict[str, Any], **more: Any) -> Lab:
            return Lab(home=home, seed=1, config={"models": list(models), **more})

        def read(table: str) -> list[dict[str, Any]]:
            with psycopg.connect(conninfo, row_factory=dict_row) as connection:
                query = f"SELECT * FROM {table} ORDER BY id"
                return connection.execute(query.encode()).fetchall()

        meet(Fault("the first call loads the SDK", GOOD), open_lab, read)
        for fault in faults():
            lines.append((fault.name, *cells(meet(fault, open_lab, read))))
    if options.markdown:
        for line in (HEADER, ["---"] * len(HEADER), *lines):
            print("| " + " | ".join(line) + " |")
        return
    table = Table(*HEADER, title="What becomes of a call when a provider fails")
    for line in lines:
        table.add_row(*line)
    Console().print(table)


if __name__ == "__main__":
    main()
