"""Looking through the log: filter it, open a request, see its way, ask it again of another model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import ipywidgets

from novellus_lab.analytics.browse import LogFilter, find_requests, read_request
from novellus_lab.analytics.requests import moment
from novellus_lab.display import duration, findings_html, money, table_html
from novellus_lab.errors import InvalidRequestError
from novellus_lab.types import CacheOutcome, Status
from novellus_lab.widgets.panel import Panel, row
from novellus_lab.widgets.request_way import NOT_LOGGED, texts_html, way_html
from novellus_lab.widgets.row_table import RowTable

if TYPE_CHECKING:
    from novellus_lab.analytics.browse import LoggedRequest
    from novellus_lab.types import Completion
    from novellus_lab.widgets.source import WidgetLab

_TIMES = [
    ("last hour", "1h"), ("last 24 hours", "24h"), ("last 7 days", "7d"), ("last 30 days", "30d"),
    ("last year", "365d"),
]  # fmt: skip
_PAGE = 50
_REPLAYED = ("temperature", "max_tokens", "top_p", "stop", "seed", "tools", "tool_choice")
_COLUMNS = [
    {"title": title, "kind": kind}
    for title, kind in (
        ("time", ""), ("status", ""), ("model", "name"), ("cache", ""), ("cost", "number"),
        ("latency", "number"), ("tokens", "number"), ("last message", "text"),
    )
]  # fmt: skip


class ExploreWidget(Panel):
    """The log, request by request. What was opened stands in `request`, its replay in `replayed`."""

    def __init__(self, lab: WidgetLab, *, since: str = "24h") -> None:
        super().__init__(lab)
        moment("since", since)
        self._conninfo = lab._live().conninfo
        models = [m.id for m in lab._live().catalog if m.unavailable is None and not m.is_embedding]
        self.request: LoggedRequest | None = None
        self.replayed: Completion | None = None
        self._found: list[dict[str, Any]] = []
        self._search: object | None = None
        self._opening: object | None = None
        self._replaying: object | None = None

        times = _TIMES if since in [value for _, value in _TIMES] else [*_TIMES, (since, since)]
        self.since = ipywidgets.Dropdown(description="time", options=times, value=since)
        self.model = ipywidgets.Combobox(
            description="model", options=[m.id for m in lab._live().catalog], placeholder="any"
        )
        self.status = ipywidgets.Dropdown(
            description="status", options=[("any", ""), *((s.value, s.value) for s in Status)]
        )
        self.cache = ipywidgets.Dropdown(
            description="cache",
            options=[("any", ""), ("any hit", "hit"), *((c.value, c.value) for c in CacheOutcome)],
        )
        self.tag = ipywidgets.Text(description="tag", placeholder="team=search")
        self.text = ipywidgets.Text(description="text", placeholder="in prompts, answers, errors")
        for part in (self.since, self.model, self.status, self.cache, self.tag, self.text):
            part.layout.width = "16rem"
        self.model.continuous_update = False
        self.tag.continuous_update = self.text.continuous_update = False
        self.look = ipywidgets.Button(description="Search", icon="search", button_style="primary")
        self.older = ipywidgets.Button(description="Older", icon="angle-down", disabled=True)
        self.found = ipywidgets.Label()
        self.table = RowTable(columns=_COLUMNS, layout={"width": "100%"})

        self.way = ipywidgets.HTML()
        self.texts = ipywidgets.HTML()
        self.replay_on = ipywidgets.Dropdown(description="ask again of", options=models)
        self.replay_on.style.description_width = "initial"
        self.replay = ipywidgets.Button(description="Replay", icon="repeat")
        self.replay_stop = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.answer = ipywidgets.HTML()
        self._again = row(self.replay_on, self.replay, self.replay_stop)
        self._opened = ipywidgets.VBox(
            [self.way, self.texts, self._again, self.answer], layout={"display": "none"}
        )

        self.look.on_click(self.handler(self.search))
        for part in (self.since, self.model, self.status, self.cache, self.tag, self.text):
            part.observe(self.handler(self.search), "value")
        self.older.on_click(self.handler(self._more))
        self.table.observe(self.handler(self._open), "selected")
        self.replay.on_click(self.handler(self._ask_again))
        self.replay_stop.on_click(self.handler(lambda: self.stop(self._replaying)))
        self.arrange(
            ipywidgets.VBox(
                [
                    row(self.since, self.model, self.status),
                    row(self.cache, self.tag, self.text),
                    row(self.look, self.older, self.found),
                ]
            ),
            self.table,
            self._opened,
        )
        self.search()

    # --- the list ----------------------------------------------------------------------------

    @property
    def filter(self) -> LogFilter:
        """What the list is narrowed to."""
        tag = self.tag.value.strip()
        name, sign, value = tag.partition("=")
        if tag and not (sign and name.strip()):
            raise InvalidRequestError(f"a tag is name=value, such as team=search, not {tag!r:.80}")
        return LogFilter(
            since=self.since.value,
            model=self.model.value.strip() or None,
            status=self.status.value or None,
            cache=self.cache.value or None,
            tag=(name.strip(), value.strip()) if tag else None,
            text=self.text.value.strip() or None,
        )

    def search(self) -> None:
        """Look through the log anew; the search before is given up."""
        asked = self.filter
        self.stop(self._search)
        self.found.value = "searching …"
        self._search = self.start(lambda: self._searched(asked, older=False))

    def _more(self) -> None:
        asked = self.filter
        self.stop(self._search)
        self._search = self.start(lambda: self._searched(asked, older=True))

    async def _searched(self, asked: LogFilter, *, older: bool) -> None:
        try:
            await asyncio.to_thread(self._lab._ready)
            last = self._found[-1] if older and self._found else None
            before = None if last is None else (last["created_at"], last["id"])
            came = await asyncio.to_thread(
                find_requests, self._conninfo, asked, limit=_PAGE, before=before
            )
            await asyncio.to_thread(self._list, came, older)
        except Exception:
            self.found.value = ""
            raise

    def _list(self, came: list[dict[str, Any]], older: bool) -> None:
        with self.lock:
            self._found = [*self._found, *came] if older else came
            self.table.rows = [_row(one) for one in self._found]
            self.older.disabled = len(came) < _PAGE
            n = len(self._found)
            if not n:
                self.found.value = "No request in the log is like that."
            else:
                more = "" if self.older.disabled else ", and there are older ones"
                self.found.value = f"{n:,} request{'s' if n > 1 else ''}{more}"

    # --- one of them -------------------------------------------------------------------------

    def _open(self) -> None:
        id = self.table.selected
        if not id:
            return
        self.stop(self._opening)
        self._opening = self.start(lambda: self._read(id))

    async def _read(self, id: str) -> None:
        request = await asyncio.to_thread(read_request, self._conninfo, UUID(id))
        await asyncio.to_thread(self._show, request)

    def _show(self, request: LoggedRequest) -> None:
        way, texts = way_html(request), texts_html(request)
        with self.lock:
            self.request, self.replayed = request, None
            self.way.value, self.texts.value, self.answer.value = way, texts, ""
            embedding = request.row["kind"] == "embedding"
            self._again.layout.display = "flex" if request.logged and not embedding else "none"
            self._opened.layout.display = "flex"

    # --- again -------------------------------------------------------------------------------

    def _ask_again(self) -> None:
        request, model = self.request, self.replay_on.value
        if request is None or self.replay.disabled:
            return
        if not request.logged:
            raise InvalidRequestError(NOT_LOGGED)
        if not model:
            raise InvalidRequestError("no model can be asked: `novellus models` says why")
        self.replay.disabled, self.replay_stop.disabled = True, False
        self.answer.value = findings_html((f"Asking {model} …",), ())
        try:
            self._replaying = self.start(lambda: self._asked_again(request, model))
        except BaseException:
            self.at_rest()
            raise

    async def _asked_again(self, request: LoggedRequest, model: str) -> None:
        params = request.row["params"] or {}
        try:
            came = await self._lab.acomplete(
                messages=request.row["messages"],
                model_id=model,
                use_cache=False,
                tags={"replay_of": str(request.row["id"])},
                **{name: params[name] for name in _REPLAYED if name in params},
            )
            await asyncio.to_thread(self._show_again, request, came)
        except asyncio.CancelledError:
            self.answer.value = findings_html(("Stopped.",), ())
            raise
        except Exception:
            self.answer.value = ""
            raise
        finally:
            self.at_rest()

    def _show_again(self, request: LoggedRequest, came: Completion) -> None:
        then = request.row
        beside = table_html(
            ("", "then", "now"),
            [
                ("model", then["model"] or "–", came.model),
                ("cost", money(then["cost_usd"]), money(came.cost)),
                ("latency", _ms(then["latency_ms"]), duration(came.latency_ms)),
                (
                    "tokens",
                    _tokens(then["input_tokens"], then["output_tokens"]),
                    _tokens(came.usage.input_tokens, came.usage.output_tokens),
                ),
            ],
        )
        with self.lock:
            self.replayed = came
            self.answer.value = beside + came._repr_html_()

    def at_rest(self) -> None:
        if not self.closed:
            self.replay.disabled, self.replay_stop.disabled = False, True


def _row(one: dict[str, Any]) -> dict[str, Any]:
    prompt = one["prompt"]
    if prompt is None:
        prompt = "" if one["logged"] or one["kind"] == "embedding" else "(not logged)"
    status = one["status"]
    if one["error_class"]:
        status = one["error_class"]
    return {
        "id": str(one["id"]),
        "cells": [
            f"{one['created_at'].astimezone():%m-%d %H:%M:%S}",
            status,
            one["model"] or one["requested_model"] or "–",
            one["cache"],
            "unknown" if one["cost_usd"] is None else money(one["cost_usd"]),
            _ms(one["latency_ms"]),
            _tokens(one["input_tokens"], one["output_tokens"]),
            " ".join(prompt.split()),
        ],
    }


def _ms(value: float | None) -> str:
    return "–" if value is None else duration(value)


def _tokens(read: int | None, written: int | None) -> str:
    return "–" if read is None else f"{read:,} → {written or 0:,}"
