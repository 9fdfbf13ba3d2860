"""One prompt to several models: their answers side by side as they come, with cost and latency."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import ipywidgets

from novellus_lab.display import (
    duration,
    error_html,
    findings_html,
    markdown_html,
    money,
    table_html,
)
from novellus_lab.errors import InvalidRequestError
from novellus_lab.widgets.panel import Panel, choices, chosen, close_all, heading, row, tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.types import Completion
    from novellus_lab.widgets.source import WidgetLab

_EVERY_S = 0.2
"""How often a growing answer is drawn."""


class PlaygroundWidget(Panel):
    """Models side by side. The answers stand in `answers`, by model."""

    def __init__(self, lab: WidgetLab, *, models: Sequence[str] = (), prompt: str = "") -> None:
        super().__init__(lab)
        known = [m.id for m in lab._live().catalog if m.unavailable is None and not m.is_embedding]
        for model in models:
            if model not in known:
                raise InvalidRequestError(
                    f"{model!r} is no model that can be asked: {', '.join(known) or 'there is none'}"
                )
        self.answers: dict[str, Completion] = {}
        self.errors: dict[str, Exception] = {}
        self._run: object | None = None
        ticked = models or known[:2]
        self.models = [tick(name, name in ticked) for name in known]
        self.system = ipywidgets.Text(placeholder="system prompt, if any", layout={"width": "auto"})
        self.prompt = ipywidgets.Textarea(
            value=prompt, placeholder="What do you want to ask?",
            layout={"width": "auto", "height": "6rem"},
        )  # fmt: skip
        self.max_tokens = ipywidgets.Text(description="max tokens", placeholder="as configured")
        self.temperature = ipywidgets.Text(description="temperature", placeholder="as configured")
        for short in (self.max_tokens, self.temperature):
            short.layout.width = "15rem"
            short.style.description_width = "6rem"
        self.use_cache = ipywidgets.Checkbox(
            description="the cache may answer", value=False, indent=False
        )
        self.ask = ipywidgets.Button(description="Ask", icon="paper-plane", button_style="primary")
        self.stop_button = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.status = ipywidgets.Label()
        self.summary = ipywidgets.HTML()
        self.columns: dict[str, ipywidgets.HTML] = {}
        self._grid = ipywidgets.GridBox(
            layout={
                "grid_template_columns": "repeat(auto-fit, minmax(19rem, 1fr))",
                "grid_gap": "8px 28px",
                "width": "100%",
            }
        )
        self.ask.on_click(self.handler(self._start))
        self.stop_button.on_click(self.handler(lambda: self.stop(self._run)))
        self.arrange(
            ipywidgets.VBox(
                [
                    choices(self.models),
                    self.system,
                    self.prompt,
                    row(self.max_tokens, self.temperature, self.use_cache),
                    row(self.ask, self.stop_button, self.status),
                ]
            ),
            self._grid,
            self.summary,
        )

    def _arguments(self) -> dict[str, Any]:
        if not self.prompt.value.strip():
            raise InvalidRequestError("there is no prompt: write one")
        messages = [{"role": "user", "content": self.prompt.value}]
        if self.system.value.strip():
            messages.insert(0, {"role": "system", "content": self.system.value})
        arguments: dict[str, Any] = {"messages": messages, "use_cache": self.use_cache.value}
        if not self.use_cache.value:
            arguments["use_semantic_cache"] = False
        for name, part, kind in (
            ("max_tokens", self.max_tokens, int),
            ("temperature", self.temperature, float),
        ):
            text = part.value.strip()
            try:
                if text:
                    arguments[name] = kind(text)
            except ValueError:
                raise InvalidRequestError(
                    f"{part.description} must be a number: {text!r:.80}"
                ) from None
        return arguments

    def _start(self) -> None:
        if self._run is not None:
            return
        models = chosen(self.models)
        if not models:
            raise InvalidRequestError("choose a model at least")
        arguments = self._arguments()
        self.answers, self.errors = {}, {}
        self.summary.value = ""
        waiting = findings_html(("…",), ())
        before, self.columns = self._grid.children, {}
        for model in models:
            self.columns[model] = ipywidgets.HTML(value=waiting, layout={"min_width": "0"})
        self._grid.children = [
            ipywidgets.VBox(
                [heading(model), column],
                layout={"min_width": "0"},
            )
            for model, column in self.columns.items()
        ]
        for old in before:
            close_all(old)
        self.ask.disabled, self.stop_button.disabled = True, False
        self.status.value = "asking …"
        try:
            self._run = self.start(lambda: self._asked(arguments))
        except BaseException:
            self.at_rest()
            raise

    async def _asked(self, arguments: dict[str, Any]) -> None:
        try:
            await asyncio.gather(*(self._answer(model, arguments) for model in self.columns))
            self.status.value = "done" + (f", {len(self.errors)} failed" if self.errors else "")
            await asyncio.to_thread(self._sum_up)
        except asyncio.CancelledError:
            self.status.value = "stopped: what had come is priced and logged"
            raise
        finally:
            self.at_rest()

    async def _answer(self, model: str, arguments: dict[str, Any]) -> None:
        """Ask one model. What goes wrong with it is shown in its place, and is no matter to others."""
        column = self.columns[model]
        text, drawn = "", time.monotonic()
        try:
            async with self._lab.astream(model_id=model, **arguments) as stream:
                async for chunk in stream:
                    text += str(chunk)
                    if time.monotonic() - drawn > _EVERY_S:
                        # In a thread: drawing must not slow the calls that are measured here.
                        await asyncio.to_thread(_draw, column, text)
                        drawn = time.monotonic()
                self.answers[model] = stream.completion
            shown = await asyncio.to_thread(self.answers[model]._repr_html_)
            column.value = shown
        except Exception as error:
            self.errors[model] = error
            column.value = error_html(error) + (markdown_html(text) if text else "")

    def _sum_up(self) -> None:
        rows = [
            (
                model,
                money(a.cost),
                duration(a.latency_ms),
                "–" if a.ttft_ms is None else duration(a.ttft_ms),
                f"{a.usage.input_tokens:,} → {a.usage.output_tokens:,}",
                a.cache.value,
            )
            for model in self.columns
            if (a := self.answers.get(model)) is not None
        ]
        if len(rows) > 1:
            header = ("model", "cost", "latency", "first token", "tokens", "cache")
            self.summary.value = table_html(header, rows)

    def at_rest(self) -> None:
        self._run = None
        if not self.closed:
            self.ask.disabled, self.stop_button.disabled = False, True


def _draw(column: ipywidgets.HTML, text: str) -> None:
    column.value = markdown_html(text)
