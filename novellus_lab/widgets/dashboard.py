"""The log, live: headline numbers, spend, latency, cache, health, anomalies, again every so often."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import ipywidgets

from novellus_lab.display import duration, money, table_html, tiles_html
from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.monitoring.showing import percent, score_rows
from novellus_lab.monitoring.wording import sentence
from novellus_lab.plots.theme import nothing
from novellus_lab.widgets.live_figure import LiveFigure
from novellus_lab.widgets.panel import Panel, row

if TYPE_CHECKING:
    from novellus_lab.monitoring.metrics import ModelMetrics
    from novellus_lab.widgets.source import WidgetLab

_TIMES = [
    ("last hour", "1h"), ("last 24 hours", "24h"), ("last 7 days", "7d"), ("last 30 days", "30d"),
]  # fmt: skip
_EVERY = [("5 seconds", 5.0), ("15 seconds", 15.0), ("minute", 60.0), ("5 minutes", 300.0)]
_FIGURES = ("costs", "latency", "savings", "cache")
_DETECT_EVERY_S = 60.0
"""Looking for anomalies goes through the log anew: not as often as the rest."""
_ANOMALIES = 8


class DashboardWidget(Panel):
    """What goes on. It looks again until it is paused or closed; `looks` counts."""

    def __init__(self, lab: WidgetLab, *, since: str = "24h", every: float = 15.0) -> None:
        super().__init__(lab)
        if isinstance(every, bool) or not isinstance(every, (int, float)) or not 1 <= every < 1e6:
            raise InvalidRequestError(
                f"every must be a number of seconds from 1, not {every!r:.80}"
            )
        times = _TIMES if since in [value for _, value in _TIMES] else [*_TIMES, (since, since)]
        steps = _EVERY if every in [s for _, s in _EVERY] else [*_EVERY, (f"{every:g} s", every)]
        self.looks = 0
        """How many times the log was looked at."""
        self._detected = (0.0, "")
        self._wake: asyncio.Event | None = None
        self.since = ipywidgets.Dropdown(description="show", options=times, value=since)
        self.every = ipywidgets.Dropdown(description="again every", options=steps, value=every)
        self.pause = ipywidgets.ToggleButton(description="Pause", icon="pause")
        self.now = ipywidgets.Button(description="Look now", icon="refresh")
        self.status = ipywidgets.Label("looking …")
        for part in (self.since, self.every):
            part.layout.width = "15rem"
        self.tiles = ipywidgets.HTML(layout={"width": "100%"})
        self.figures = {name: LiveFigure(nothing("…", "Looking …")) for name in _FIGURES}
        self.health = ipywidgets.HTML()
        self.anomalies = ipywidgets.HTML()
        for part in (self.since, self.every, self.pause):
            part.observe(self.handler(self._changed), "value")
        self.now.on_click(self.handler(self._changed))
        self.arrange(
            row(self.since, self.every, self.pause, self.now, self.status),
            self.tiles,
            _grid(*(figure.box for figure in self.figures.values())),
            _grid(self.health, self.anomalies),
        )
        self.box.layout.max_width = "none"
        self.box.layout.width = "100%"
        self.start(self._looking)

    def _changed(self) -> None:
        thread = self._lab._live().thread  # tells of a closed lab
        wake = self._wake
        if wake is not None:
            thread.loop.call_soon_threadsafe(wake.set)

    async def _looking(self) -> None:
        wake = self._wake = asyncio.Event()
        while True:
            wake.clear()
            try:
                await self._look()
                self.clear_error()
            except NovellusError as error:  # the database may be back next time
                self.show_error(error)
                self.status.value = "could not look"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.pause.value else self.every.value):
                    await wake.wait()

    async def _look(self) -> None:
        since = self.since.value
        lab = self._lab
        metrics = await lab.monitor.ametrics(None, since)
        health = await lab.monitor.ahealth()
        drawn = {
            "costs": await lab.plot.acosts(since, by="model"),
            "latency": await lab.plot.alatency(since),
            "savings": await lab.plot.asavings(since),
            "cache": await lab.plot.acache(since),
        }
        found = await self._anomalies(since)
        await asyncio.to_thread(self._show, metrics, health, drawn, found)

    async def _anomalies(self, since: str) -> Any:
        looked_at, of = self._detected
        detect = of != since or time.monotonic() - looked_at > _DETECT_EVERY_S
        found = await self._lab.monitor.aanomalies(since, detect=detect)
        if detect:
            self._detected = (time.monotonic(), since)
        return found

    def _show(self, metrics: ModelMetrics, health: Any, drawn: dict[str, Any], found: Any) -> None:
        with self.lock:
            if self.closed:
                return
            self.tiles.value = tiles_html(_tiles(metrics))
            for name, figure in drawn.items():
                self.figures[name].show(figure)
            self.health.value = table_html(
                ("model", "health", "requests", "taken off"), score_rows(health)
            )
            self.anomalies.value = _anomaly_table(found)
            paused = "paused, " if self.pause.value else ""
            self.status.value = f"{paused}as of {datetime.now():%H:%M:%S}"
            self.looks += 1

    def at_rest(self) -> None:
        if not self.closed:
            self.status.value = "stopped"


def _tiles(m: ModelMetrics) -> list[tuple[str, str, str]]:
    failed = m.requests.error + m.requests.refused + m.requests.cancelled
    unpriced = m.cost.unpriced_share
    return [
        ("requests", f"{m.requests.total:,}", f"{failed:,} did not end well"),
        ("spend", money(m.cost.total) if m.cost.total is not None else "–",
         "all priced" if not unpriced else f"{unpriced:.1%} without a price"),
        ("saved by the cache", money(m.cost.saved_by_cache),
         "no lookups" if m.cache.hit_rate is None
         else f"{m.cache.hit_rate:.0%} of {m.cache.lookups:,} lookups hit"),
        ("success", percent(m.success_rate), f"of {m.calls.asked:,} put to models"),
        ("median latency", _ms(m.latency.p50), f"95 % within {_ms(m.latency.p95)}"),
        ("tokens", f"{_short(m.tokens.input + m.tokens.output)}",
         f"{_short(m.tokens.input)} in, {_short(m.tokens.output)} out"),
    ]  # fmt: skip


def _anomaly_table(found: Any) -> str:
    rows = [
        (f"{one.start.astimezone():%m-%d %H:%M}", str(one.severity), sentence(one))
        for one in list(found)[:_ANOMALIES]
    ]
    if not rows:
        return table_html(("anomalies",), [("None in this time.",)])
    more = len(found) - len(rows)
    return table_html(
        ("anomaly since", "severity", ""), rows, (f"and {more:,} more",) if more > 0 else ()
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else duration(value)


def _short(n: int) -> str:
    for size, sign in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if n >= size:
            return f"{n / (1000 if sign == 'k' else size):.3g} {sign}"
    return f"{n:,}"


def _grid(*children: ipywidgets.Widget) -> ipywidgets.GridBox:
    return ipywidgets.GridBox(
        [ipywidgets.VBox([child], layout={"min_width": "0"}) for child in children],
        layout={
            "grid_template_columns": "repeat(auto-fit, minmax(min(26rem, 100%), 1fr))",
            "grid_gap": "8px 24px",
            "width": "100%",
        },
    )
