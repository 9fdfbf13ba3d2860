"""Comparing by clicking: choose arms and a workload, run, see the interval narrow, read the verdict."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from novellus_lab.display import money
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.datasets import DATASETS
from novellus_lab.experiments.judge import Judge
from novellus_lab.experiments.loading import workload_of
from novellus_lab.experiments.metrics import METRICS
from novellus_lab.plots.narrowing import Look, looks_at, narrowing_figure
from novellus_lab.widgets.live_figure import LiveFigure
from novellus_lab.widgets.panel import Panel, choices, chosen, heading, row, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.experiments.comparison import Comparison
    from novellus_lab.experiments.workload import Workload
    from novellus_lab.widgets.source import WidgetLab

_PROMPTS, _FILE = "prompts", "file"
_SCORERS = (
    ("none: compare cost and latency", ""),
    ("numeric: comes to the expected number", "numeric"),
    ("exact: is what was expected", "exact"),
    ("contains: holds what was expected", "contains"),
    ("similarity: is like what was expected", "similarity"),
    ("regex: holds a match of …", "regex"),
    ("judge: a model says which is better", "judge"),
)


class CompareWidget(Panel):
    """`lab.compare` with buttons. What it says stands in `result`."""

    def __init__(
        self,
        lab: WidgetLab,
        *,
        arms: Sequence[str] = (),
        workload: str = "gsm8k",
        scorer: str = "",
        n: int = 100,
        max_usd: str = "1.00",
        sequential: bool = False,
    ) -> None:
        super().__init__(lab)
        models = [m.id for m in lab._live().catalog if m.unavailable is None and not m.is_embedding]
        names = [*lab.router.strategies(), *models]
        for arm in arms:
            if arm not in names:
                raise InvalidRequestError(
                    f"{arm!r} is no strategy and no model that can be asked: {', '.join(names)}"
                )
        self.result: Comparison | None = None
        """The comparison, as far as it has come."""
        self._looks: list[Look] = []
        self._run: object | None = None
        self._shows: object | None = None
        """The run whose looks are shown."""
        self._stopping = False

        self.strategies = [tick(name, name in arms) for name in lab.router.strategies()]
        self.models = [tick(name, name in arms) for name in models]
        self.control = ipywidgets.Dropdown(description="control", options=list(arms))
        self.kind = ipywidgets.Dropdown(
            description="workload",
            options=[
                *((f"dataset {name}", name) for name in DATASETS),
                ("prompts in a box", _PROMPTS),
                ("a file", _FILE),
            ],
            value=workload if workload in DATASETS else _PROMPTS if "\n" in workload else _FILE,
        )
        text = workload if self.kind.value == _PROMPTS else ""
        self.prompts = ipywidgets.Textarea(
            value=text,
            placeholder="One prompt a line, or one JSON object a line:\n"
            '{"prompt": "What is 6 times 7?", "expected": "42"}',
            layout={"width": "auto", "height": "7rem"},
        )
        self.path = ipywidgets.Text(
            value=workload if self.kind.value == _FILE else "",
            placeholder="path to JSONL, CSV or Parquet, as this kernel sees it",
            layout={"width": "26rem"},
        )
        self.upload = ipywidgets.FileUpload(accept=".jsonl,.csv,.gz,.parquet,.ndjson")
        self.scorer = ipywidgets.Dropdown(
            description="scorer",
            options=_SCORERS,
            value=scorer,
            layout={"width": "24rem"},
        )
        self.pattern = ipywidgets.Text(placeholder="pattern, such as \\bParis\\b")
        self.judge = ipywidgets.Dropdown(description="judge", options=models)
        self.metric = ipywidgets.Dropdown(
            description="decides",
            options=[
                ("quality with a scorer, else cost", ""),
                *((metric.title, metric.name) for metric in METRICS.values()),
            ],
            layout={"width": "24rem"},
        )
        self.n = ipywidgets.Text(description="items", value=str(n), placeholder="all")
        self.budget = ipywidgets.Text(description="at most $", value=max_usd)
        self.sequential = ipywidgets.Checkbox(
            description="stop as soon as it is decided", value=sequential, indent=False
        )
        for short in (self.n, self.budget):
            short.layout.width = "11rem"
        self.run = ipywidgets.Button(description="Run", icon="play", button_style="primary")
        self.stop_button = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = ipywidgets.IntProgress(layout={"width": "14rem"})
        self.status = ipywidgets.Label("Choose two or more to compare.")
        self.figure = LiveFigure(narrowing_figure(()))
        self.verdict = ipywidgets.HTML()
        # Not `display: none`: what has no width can't be drawn in.
        self._shown = ipywidgets.VBox(layout={"height": "0", "overflow": "hidden"})
        self._shown.children = (self.figure.box, self.verdict)

        for box in (*self.strategies, *self.models):
            box.observe(self.handler(self._arms_changed), "value")
        for part in (self.kind, self.scorer):
            part.observe(self.handler(self._show_what_applies), "value")
        self.run.on_click(self.handler(self._start))
        self.stop_button.on_click(self.handler(self._stop))
        self._sources = ipywidgets.VBox(layout={"width": "100%"})
        self._finer = ipywidgets.HBox()
        self.arrange(
            ipywidgets.VBox(
                [
                    heading("Strategies"),
                    choices(self.strategies),
                    heading("Models"),
                    choices(self.models),
                    row(self.control, self.kind),
                    self._sources,
                    row(self.scorer, self._finer),
                    row(self.metric),
                    row(self.n, self.budget, self.sequential),
                    row(self.run, self.stop_button, self.progress, self.status),
                ]
            ),
            self._shown,
        )
        self._arms_changed()
        self._show_what_applies()

    # --- what is asked -----------------------------------------------------------------------

    @property
    def arms(self) -> list[str]:
        """The chosen arms, the control first."""
        names = chosen([*self.strategies, *self.models])
        first = self.control.value
        return [first, *(n for n in names if n != first)] if first in names else names

    def _arms_changed(self) -> None:
        names, before = chosen([*self.strategies, *self.models]), self.control.value
        self.control.options = names
        if names:
            self.control.value = before if before in names else names[0]

    def _show_what_applies(self) -> None:
        shown: dict[str, tuple[ipywidgets.Widget, ...]] = {
            _PROMPTS: (self.prompts,),
            _FILE: (row(self.path, ipywidgets.Label("or"), self.upload),),
        }
        self._sources.children = shown.get(self.kind.value, ())
        finer = {"regex": (self.pattern,), "judge": (self.judge,)}
        self._finer.children = finer.get(self.scorer.value, ())

    def _workload(self) -> Workload:
        if self.kind.value == _PROMPTS:
            lines = [line.strip() for line in self.prompts.value.splitlines() if line.strip()]
            return workload_of([_item(line) for line in lines], name="prompts")
        if self.kind.value != _FILE:
            return workload_of(self.kind.value)
        if self.upload.value and not self.path.value.strip():
            given = self.upload.value[0]
            with tempfile.TemporaryDirectory() as directory:
                # Its own name says what is in it; a directory in the name is nobody's business.
                path = Path(directory) / Path(given["name"]).name
                path.write_bytes(bytes(given["content"]))
                return workload_of(path)
        if not self.path.value.strip():
            raise InvalidRequestError("name a file with the workload, or upload one")
        return workload_of(Path(self.path.value.strip()).expanduser())

    def _scorer(self) -> Any:
        if self.scorer.value == "regex":
            return f"regex:{self.pattern.value}"
        if self.scorer.value == "judge":
            return Judge(self.judge.value)
        return self.scorer.value or None

    def _options(self) -> dict[str, Any]:
        number = self.n.value.strip()
        if number and not (number.isdecimal() and int(number) > 0):
            raise InvalidRequestError(
                f"items must be a number above 0, or empty for all: {number!r}"
            )
        return {
            "scorer": self._scorer(),
            "metric": self.metric.value or None,
            "n": int(number) if number else None,
            "max_usd": self.budget.value.strip().lstrip("$") or None,
            "sequential": self.sequential.value,
        }

    # --- the run -----------------------------------------------------------------------------

    def _start(self) -> None:
        if self._run is not None:
            return
        arms = self.arms
        if len(arms) < 2:
            raise InvalidRequestError("choose two strategies or models at least")
        workload, options = self._workload(), self._options()
        if options["n"] is not None and options["n"] > len(workload):
            options["n"] = None
        self.result, self._looks, self._stopping = None, [], False
        self.progress.max = options["n"] or len(workload)
        self.progress.value = 0
        self._buttons(running=True)
        self.status.value = "asking …"
        self.verdict.value = ""
        try:
            self._run = self.start(lambda: self._compared(arms, workload, options))
        except BaseException:
            self.at_rest()
            raise

    def _stop(self) -> None:
        self._stopping = True
        self.stop_button.disabled = True
        self.status.value = "stopping: what is under way is cancelled …"
        self.stop(self._run)

    async def _compared(self, arms: list[str], workload: Workload, options: dict[str, Any]) -> None:
        this = self._shows = object()
        try:
            try:
                came = await self._lab.acompare(
                    arms,
                    workload,
                    progress=False,
                    on_look=lambda comparison: self._look(this, comparison),
                    **options,
                )
            except asyncio.CancelledError:
                if not self._stopping or self.closed:
                    raise
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()  # by the button: what was paid for is still told
                if self.result is None:
                    self.status.value = "stopped before an item was asked in every arm"
                    return
                came = await self._lab.experiments.aload(str(self.result.design.id))
            await asyncio.to_thread(self._finish, came)
        finally:
            self._shows = None
            self.at_rest()

    def _look(self, run: object, comparison: Comparison) -> None:
        """Show how a run stands; a look that is done after its run's end comes too late."""
        try:
            with self.lock:
                if self._shows is run:
                    self._show(comparison)
        except Exception as error:
            self.show_error(error)

    def _finish(self, comparison: Comparison) -> None:
        with self.lock:
            self._shows = None
            self._show(comparison)

    def _show(self, comparison: Comparison) -> None:
        design = comparison.design
        with self.lock:
            self.result = comparison
            self._looks = [
                *(k for k in self._looks if k.items < comparison.n),
                *looks_at(comparison),
            ]
            self.progress.value = comparison.n
            spent, _unknown = comparison.cost_usd
            self.status.value = (
                f"{comparison.ending.value} · {comparison.n} of {design.n} items · {money(spent)}"
            )
            how = (
                "always-valid intervals: looking as often as you like is fine"
                if design.sequential
                else "intervals are for the end: what is seen on the way decides nothing"
            )
            title = f"{design.primary.title}, against {design.control}"
            points = design.primary.unit == "share" or design.primary.name == "score"
            unit = "points" if points else "percent of the control"
            self._shown.layout.height, self._shown.layout.overflow = "auto", "visible"
            self.figure.show(
                narrowing_figure(
                    self._looks,
                    title=title,
                    subtitle=f"difference in {unit}; {design.level:.0%} {how}",
                    items=design.n,
                )
            )
            self.verdict.value = comparison._repr_html_()

    def _buttons(self, *, running: bool) -> None:
        self.run.disabled = running
        self.stop_button.disabled = not running

    def at_rest(self) -> None:
        self._run = None
        if not self.closed:
            self._buttons(running=False)

    @property
    def code(self) -> str:
        """The same comparison as a line of code."""
        options = {k: v for k, v in self._options().items() if v not in (None, False)}
        source = repr(self.kind.value) if self.kind.value in DATASETS else "workload"
        told = "".join(
            f", {k}={f'Judge({v.model_id!r})' if isinstance(v, Judge) else repr(v)}"
            for k, v in options.items()
        )
        return f"lab.compare({self.arms!r}, {source}{told})"


def _item(line: str) -> Any:
    if not line.startswith("{"):
        return line
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidRequestError(f"this line is no JSON object ({error}): {line[:80]}") from None
