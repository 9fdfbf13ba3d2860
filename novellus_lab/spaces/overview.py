"""`lab.monitor.overview`: health, metrics and anomalies on one page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novellus_lab.monitoring.health import HealthScores
    from novellus_lab.monitoring.metrics import ModelMetrics
    from novellus_lab.spaces.anomalies import Anomalies

_FIGURES = 3
_NOTHING = "-"
_STYLE = """
:root{color-scheme:light dark}
body{max-width:62rem;margin:2rem auto;padding:0 1.2rem;font-family:system-ui,-apple-system,"Segoe UI",sans-serif}
.nvl{max-width:none!important}
h1{font-size:1.3rem;font-weight:650;margin:0 0 .2rem}
p{margin:0 0 1rem;opacity:.75;font-size:.9rem}
"""


@dataclass(frozen=True, slots=True)
class Overview:
    """How the models do: shows itself in a notebook, `save` makes a page that needs nothing else."""

    health: HealthScores
    metrics: tuple[ModelMetrics, ...]
    """All models together, then each."""
    anomalies: Anomalies
    time_range: str

    def figures(self) -> list[Any]:
        """Return Plotly figures of the worst anomalies that nobody acknowledged, three at most.

        Raises:
            MissingDependencyError: Plotly is not installed.
        """
        order = ("low", "medium", "high")
        open_ones = [one for one in self.anomalies if not one.acknowledged]
        worst = sorted(open_ones, key=lambda one: (-order.index(one.severity), -one.score))
        return [self.anomalies.figure(one) for one in worst[:_FIGURES]]

    def save(self, path: str | Path) -> Path:
        """Write a page of HTML, figures included, that can be opened and sent without anything else.

        Raises:
            MissingDependencyError: Plotly is not installed.
        """
        drawn = "".join(
            figure.to_html(full_html=False, include_plotlyjs=n == 0, config={"displaylogo": False})
            for n, figure in enumerate(self.figures())
        )
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>Overview of the models</title><style>{_STYLE}</style></head><body>"
            f"<h1>Overview of the models</h1><p>{escape(self._about)}</p>"
            f"{self._repr_html_()}{drawn}</body></html>"
        )
        target = Path(path)
        target.write_text(page, encoding="utf-8")
        return target

    @property
    def _about(self) -> str:
        return f"the last {self.time_range}, as of {self.metrics[0].end:%Y-%m-%d %H:%M} UTC"

    def __repr__(self) -> str:
        return f"Overview({self._about}: {self.health!r}; {len(self.anomalies)} anomalies)"

    def _repr_html_(self) -> str:
        from novellus_lab.display import duration, money, table_html
        from novellus_lab.monitoring.showing import percent, score_rows

        rows = [
            (
                m.model_id or "all models",
                f"{m.requests.total:,}",
                percent(m.success_rate),
                _NOTHING if m.latency.p50 is None else duration(m.latency.p50),
                _NOTHING if m.latency.p95 is None else duration(m.latency.p95),
                _NOTHING if m.cost.total is None else money(m.cost.total),
                percent(None if m.cache.hit_rate is None else 100 * m.cache.hit_rate),
            )
            for m in self.metrics
        ]
        header = ("model", "requests", "success", "median", "95 %", "cost", "cache hits")
        health = table_html(("model", "health", "requests", "taken off"), score_rows(self.health))
        return health + table_html(header, rows, (self._about,)) + self.anomalies._repr_html_()

    def _ipython_display_(self) -> None:
        from IPython import display as shown

        from novellus_lab.errors import MissingDependencyError

        shown.display(shown.HTML(self._repr_html_()))  # type: ignore[no-untyped-call]
        try:
            figures = self.figures()
        except MissingDependencyError:
            return
        for figure in figures:
            shown.display(figure)  # type: ignore[no-untyped-call]
