"""`lab.widgets`: to click instead of to type. They work in JupyterLab, Notebook 7 and VS Code."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from novellus_lab.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.widgets.compare import CompareWidget
    from novellus_lab.widgets.source import WidgetLab

_NEEDED = ("ipywidgets", "anywidget", "plotly")


class LabWidgets:
    """Widgets over a lab. What they do runs beside the kernel; `close()` and the lab's end stop it."""

    def __init__(self, lab: WidgetLab) -> None:
        self._lab = lab

    def __repr__(self) -> str:
        return "lab.widgets: compare"

    def compare(
        self,
        arms: Sequence[str] = (),
        workload: str = "gsm8k",
        *,
        scorer: str = "",
        n: int = 100,
        max_usd: str = "1.00",
        sequential: bool = False,
    ) -> CompareWidget:
        """Compare strategies and models: choose, run, see intervals narrow. Same engine as `lab.compare`.

        The arguments are what is chosen at first. Its `result` is the `Comparison`, its `code` the same as a
        line of code.

        Args:
            arms: strategies and models, the control first.
            workload: a dataset's name, prompts with line breaks between them, or a path.

        Raises:
            InvalidRequestError: an arm is nothing that can be asked.
            MissingDependencyError: widgets are not installed.
        """
        _check()
        from novellus_lab.widgets.compare import CompareWidget

        return CompareWidget(
            self._lab,
            arms=arms,
            workload=workload,
            scorer=scorer,
            n=n,
            max_usd=max_usd,
            sequential=sequential,
        )


def _check() -> None:
    for name in _NEEDED:
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"widgets need {name}: pip install 'novellus_lab[notebook]'"
            )
