"""`lab.widgets`: to click instead of to type. They work in JupyterLab, Notebook 7 and VS Code."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from novellus_lab.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.widgets.compare import CompareWidget
    from novellus_lab.widgets.dashboard import DashboardWidget
    from novellus_lab.widgets.explore import ExploreWidget
    from novellus_lab.widgets.judge_hits import JudgeHitsWidget
    from novellus_lab.widgets.playground import PlaygroundWidget
    from novellus_lab.widgets.source import WidgetLab

_NEEDED = ("ipywidgets", "anywidget", "plotly")


class LabWidgets:
    """Widgets over a lab. What they do runs beside the kernel; `close()` and the lab's end stop it."""

    def __init__(self, lab: WidgetLab) -> None:
        self._lab = lab

    def __repr__(self) -> str:
        return "lab.widgets: dashboard, compare, explore, playground, judge_hits"

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

    def playground(self, models: Sequence[str] = (), prompt: str = "") -> PlaygroundWidget:
        """Ask several models the same, side by side, with cost and latency.

        Its `answers` are the completions, by model.

        Args:
            models: those that are ticked at first; default the first two.

        Raises:
            InvalidRequestError: a model is none that can be asked.
            MissingDependencyError: widgets are not installed.
        """
        _check()
        from novellus_lab.widgets.playground import PlaygroundWidget

        return PlaygroundWidget(self._lab, models=models, prompt=prompt)

    def explore(self, since: str = "24h") -> ExploreWidget:
        """Filter the log, open a request, see its way through cache and router, ask it again elsewhere.

        Its `request` is the one that is open, `replayed` the new answer.

        Raises:
            InvalidRequestError: `since` is no duration.
            MissingDependencyError: widgets are not installed.
        """
        _check()
        from novellus_lab.widgets.explore import ExploreWidget

        return ExploreWidget(self._lab, since=since)

    def dashboard(self, since: str = "24h", *, every: float = 15.0) -> DashboardWidget:
        """Watch the log: headline numbers, spend, latency, cache, health, anomalies.

        Args:
            since: a duration back from now.
            every: seconds between two looks.

        Raises:
            InvalidRequestError: an argument is wrong.
            MissingDependencyError: widgets, or analytics, are not installed.
        """
        _check("polars", "duckdb", "adbc_driver_postgresql", "numpy")
        from novellus_lab.widgets.dashboard import DashboardWidget

        return DashboardWidget(self._lab, since=since, every=every)

    def judge_hits(
        self, sample: int = 50, *, since: str = "7d", by: str = "person"
    ) -> JudgeHitsWidget:
        """Judge semantic cache hits by hand: does the answer fit? `lab.cache.judge` with buttons.

        Args:
            sample: how many to draw, of those that nobody has judged yet.
            since: how far back to look.
            by: whose verdicts they are.

        Raises:
            InvalidRequestError: an argument is wrong.
            MissingDependencyError: widgets are not installed.
        """
        _check()
        from novellus_lab.widgets.judge_hits import JudgeHitsWidget

        return JudgeHitsWidget(self._lab, sample=sample, since=since, by=by)


def _check(*more: str) -> None:
    for name in (*_NEEDED, *more):
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"widgets need {name}: pip install 'novellus_lab[notebook]'"
            )
