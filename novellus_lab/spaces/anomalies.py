"""What `lab.anomalies` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from novellus_lab.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    import polars as pl

    from novellus_lab.monitoring.anomaly import Anomaly
    from novellus_lab.monitoring.series_history import SeriesHistory

_SHOWN = 30


class Anomalies(Sequence["Anomaly"]):
    """Anomalies, newest first. Shows itself as a table.

    `anomalies.frame` is a Polars frame, one row each; `anomalies.figure()` draws the worst of them,
    `anomalies.figure(3)` the fourth; `anomalies.contributions(3)` says by whom.
    """

    def __init__(
        self, found: Sequence[Anomaly], about: str, history: Callable[[Anomaly], SeriesHistory]
    ) -> None:
        self._found = tuple(found)
        self._about = about
        self._history = history

    @overload
    def __getitem__(self, index: int) -> Anomaly: ...
    @overload
    def __getitem__(self, index: slice) -> Anomalies: ...
    def __getitem__(self, index: int | slice) -> Anomaly | Anomalies:
        if isinstance(index, slice):
            return Anomalies(self._found[index], self._about, self._history)
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def worst(self) -> Anomaly | None:
        """The one with the highest severity and score; of equals the newest."""
        from novellus_lab.monitoring.anomaly import Severity

        order = list(Severity)
        return max(
            self._found, key=lambda one: (order.index(one.severity), one.score), default=None
        )

    @property
    def frame(self) -> pl.DataFrame:
        """One row an anomaly, in the order shown (`.to_pandas()` for pandas).

        Raises:
            MissingDependencyError: Polars is not installed.
        """
        try:
            import polars as pl
        except ImportError:
            raise MissingDependencyError(
                "frames need polars: pip install 'novellus_lab[analytics]'"
            ) from None
        from novellus_lab.monitoring.wording import carrier

        time = pl.Datetime("us", "UTC")
        columns: dict[str, tuple[Any, Callable[[Anomaly], object]]] = {
            "id": (pl.String, lambda one: str(one.id)),
            "model": (pl.String, lambda one: one.model),
            "kind": (pl.String, lambda one: one.kind.value),
            "metric": (pl.String, lambda one: one.metric),
            "severity": (pl.String, lambda one: one.severity.value),
            "score": (pl.Float64, lambda one: one.score),
            "started_at": (time, lambda one: one.start),
            "ended_at": (time, lambda one: one.end),
            "observed": (pl.Float64, lambda one: one.observed),
            "expected": (pl.Float64, lambda one: one.expected),
            "detectors": (
                pl.List(pl.String),
                lambda one: sorted({said.detector.value for said in one.evidence}),
            ),
            "carried_by": (pl.String, lambda one: carrier(one) or None),
            "example_ids": (pl.List(pl.String), lambda one: [str(id) for id in one.example_ids]),
            "acknowledged_at": (time, lambda one: one.acknowledged_at),
            "acknowledged_by": (pl.String, lambda one: one.acknowledged_by),
            "note": (pl.String, lambda one: one.note),
        }
        return pl.DataFrame(
            {name: [value(one) for one in self._found] for name, (_, value) in columns.items()},
            schema={name: kind for name, (kind, _) in columns.items()},
        )

    def figure(self, which: int | str | UUID | Anomaly | None = None) -> Any:
        """Return a Plotly figure: the series around an anomaly, what is usual, and where it left it.

        Args:
            which: its place, its id or itself; default the worst.

        Raises:
            InvalidRequestError: there is no such anomaly here.
            MissingDependencyError: Plotly is not installed.
        """
        from novellus_lab.plots.anomalies import anomaly_figure

        anomaly = self._one(which)
        return anomaly_figure(self._history(anomaly), anomaly)

    def contributions(self, which: int | str | UUID | Anomaly | None = None) -> pl.DataFrame:
        """Return who carries an anomaly as a Polars frame: one row a value of a dimension.

        `share` is its part of the change, `weight` the part that it would have if all changed alike.

        Raises:
            InvalidRequestError: there is no such anomaly here.
            MissingDependencyError: Polars is not installed.
        """
        try:
            import polars as pl
        except ImportError:
            raise MissingDependencyError(
                "frames need polars: pip install 'novellus_lab[analytics]'"
            ) from None
        from dataclasses import asdict, fields

        from novellus_lab.monitoring.contributions import Contribution

        parts = [asdict(part) for part in self._one(which).contributions]
        names = [field.name for field in fields(Contribution)]
        texts = ("dimension", "value")
        return pl.DataFrame(
            {name: [part[name] for part in parts] for name in names},
            schema={name: pl.String if name in texts else pl.Float64 for name in names},
        )

    def _one(self, which: int | str | UUID | Anomaly | None) -> Anomaly:
        if not self._found:
            raise InvalidRequestError("there is no anomaly here")
        if which is None:
            return self.worst or self._found[0]
        if isinstance(which, int) and -len(self) <= which < len(self):
            return self._found[which]
        wanted = str(getattr(which, "id", which))
        for one in self._found:
            if str(one.id) == wanted:
                return one
        raise InvalidRequestError(f"there is no anomaly {wanted:.80} among these {len(self)}")

    @property
    def _count(self) -> str:
        return {0: "no anomaly", 1: "1 anomaly"}.get(len(self), f"{len(self)} anomalies")

    def __repr__(self) -> str:
        from novellus_lab.monitoring.wording import sentence

        lines = [f"{self._count} ({self._about})"]
        lines += [f"  {sentence(one)}" for one in self._found[:_SHOWN]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html
        from novellus_lab.monitoring.watched import METRICS
        from novellus_lab.monitoring.wording import brief_span, carrier, name

        header = ["severity", "anomaly", "model", "when (UTC)", "worst", "usual", "by"]
        rows = [
            [
                one.severity.value,
                name(one),
                one.model or "all models",
                brief_span(one),
                METRICS[one.metric].shown(one.observed),
                METRICS[one.metric].shown(one.expected),
                carrier(one),
            ]
            for one in self._found[:_SHOWN]
        ]
        if any(one.acknowledged for one in self._found[:_SHOWN]):
            header.append("acknowledged")
            for row, one in zip(rows, self._found, strict=False):
                row.append(
                    f"{one.acknowledged_by}: {one.note or 'seen'}" if one.acknowledged else ""
                )
        more = f"{len(self) - _SHOWN} more in .frame" if len(self) > _SHOWN else ""
        return table_html(header, rows, [text for text in (self._count, self._about, more) if text])
