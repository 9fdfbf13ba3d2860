"""What all widgets share: a box to show, a place for errors, work that never holds up the kernel."""

from __future__ import annotations

import asyncio
import threading
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from novellus_lab.display import error_html
from novellus_lab.errors import NovellusError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from novellus_lab.widgets.source import WidgetLab


class Panel:
    """A widget over a lab.

    Its work runs on the lab's own loop: cells run meanwhile, and closing either the panel or the lab
    ends it. `lock` is held by whoever changes what is shown, since looks come from several threads.
    """

    def __init__(self, lab: WidgetLab) -> None:
        self._lab = lab
        self.lock = threading.RLock()
        self.failure = ipywidgets.HTML()
        self.box = ipywidgets.VBox(layout={"max_width": "70rem", "overflow": "visible"})
        self._jobs: dict[object, Any] = {}
        self._starting = threading.Lock()
        self.closed = False

    def arrange(self, *children: ipywidgets.Widget) -> None:
        """Say what the panel shows, from top to bottom; errors stand below the first."""
        first, *others = children
        self.box.children = (first, self.failure, *others)

    # --- work --------------------------------------------------------------------------------

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Start work on the lab's loop and return at once what `stop` takes.

        What it raises is shown. Nothing is started where the lab is closed: that is shown, too.
        """
        key = object()

        async def guarded() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.show_error(error)

        def done() -> None:
            with self._starting:
                job = self._jobs.pop(key, None)
            if job is not None and job.closed:
                self.show_error(NovellusError("the lab was closed: open a new one with Lab()"))
                self.at_rest()

        self.clear_error()
        if self.closed:
            self.show_error(NovellusError("this widget is closed: make a new one"))
            return key
        thread = self._lab._live().thread
        with self._starting:  # it may be done before it could be put down
            self._jobs[key] = thread.start(guarded, done)
        return key

    def stop(self, key: object) -> None:
        """Cancel work; harmless when it is over."""
        job = self._jobs.get(key)
        if job is not None:
            self._lab._live().thread.cancel(job)

    def at_rest(self) -> None:
        """Show that nothing goes on any more: called when the lab was closed."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._jobs)

    # --- errors ------------------------------------------------------------------------------

    def show_error(self, error: BaseException) -> None:
        self.failure.value = error_html(error)

    def clear_error(self) -> None:
        self.failure.value = ""

    def handler(self, react: Callable[[], None]) -> Callable[[object], None]:
        """Make of a reaction what a button or a trait calls: errors are shown, never lost."""

        def heard(_change: object = None) -> None:
            try:
                react()
            except Exception as error:
                self.show_error(error)

        return heard

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """End what is under way and take the widget off the page. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for key in list(self._jobs):
            try:
                self.stop(key)
            except NovellusError:
                break  # the lab is closed, and has ended it
        close_all(self.box)

    def __enter__(self) -> Panel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def close_all(widget: ipywidgets.Widget) -> None:
    """Close a widget and all in it."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Place widgets side by side; they wrap where the page is narrow."""
    return ipywidgets.HBox(
        children, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 12px"}
    )


def heading(text: str) -> ipywidgets.HTML:
    """Make a title of a part."""
    return ipywidgets.HTML(f"<b>{escape(text)}</b>")


def tick(name: str, value: bool) -> ipywidgets.Checkbox:
    """Make a box to tick."""
    return ipywidgets.Checkbox(
        value=value, description=name, indent=False, layout={"width": "auto"}
    )


def choices(boxes: Sequence[ipywidgets.Checkbox]) -> ipywidgets.Box:
    """Place boxes in columns; many of them can be scrolled."""
    inner = ipywidgets.GridBox(
        boxes,
        layout={
            "grid_template_columns": "repeat(auto-fill, minmax(16rem, 1fr))",
            "width": "100%",
            "overflow": "visible",
        },
    )
    height = {"max_height": "12rem", "overflow": "auto"} if len(boxes) > 12 else {}
    return ipywidgets.VBox([inner], layout={"width": "100%", "flex": "0 0 auto", **height})


def chosen(boxes: Sequence[ipywidgets.Checkbox]) -> list[str]:
    """Return the names of the boxes that are ticked."""
    return [box.description for box in boxes if box.value]
