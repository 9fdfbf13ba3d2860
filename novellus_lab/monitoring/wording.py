"""An anomaly in words: for tables, log lines and webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.monitoring.causes import headline
from novellus_lab.monitoring.watched import METRICS

if TYPE_CHECKING:
    from novellus_lab.monitoring.anomaly import Anomaly


def sentence(anomaly: Anomaly) -> str:
    """What happened, how big, since when, and who carries it; in one line."""
    metric = METRICS[anomaly.metric]
    told = (
        f"{anomaly.severity.value} {name(anomaly)} of {anomaly.model or 'all models'}: "
        f"{metric.label} {metric.shown(anomaly.observed)}, usual {metric.shown(anomaly.expected)}, "
        f"{span(anomaly)}"
    )
    carried = carrier(anomaly)
    return " ".join(f"{told}; {carried}".split() if carried else told.split())


def name(anomaly: Anomaly) -> str:
    """The kind, as people write it; for drift and unusual, of which metric."""
    kind = anomaly.kind.value.replace("_", " ")
    named = anomaly.kind.value in ("drift", "unusual")
    return f"{kind} ({METRICS[anomaly.metric].label})" if named else kind


def carrier(anomaly: Anomaly) -> str:
    """Which value of which dimension carries it; empty where all changed alike."""
    part = headline(anomaly.contributions)
    if part is None or part.share is None:
        return ""
    return f"{min(part.share, 1.0):.0%} of it by {part.dimension} {part.value[:80]}"


def span(anomaly: Anomaly) -> str:
    """From when to when, in UTC."""
    start = f"{anomaly.start:%Y-%m-%d %H:%M}"
    if anomaly.end is None:
        return f"since {start} UTC"
    same_day = anomaly.start.date() == anomaly.end.date()
    return f"{start} to {anomaly.end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def brief_span(anomaly: Anomaly) -> str:
    """From when to when, in UTC, as short as can be, in one piece."""
    start = f"{anomaly.start:%m-%d %H:%M}"
    if anomaly.end is None:
        told = f"since {start}"
    else:
        same_day = anomaly.start.date() == anomaly.end.date()
        told = f"{start}–{anomaly.end:{'%H:%M' if same_day else '%m-%d %H:%M'}}"
    return told.replace(" ", "\u00a0").replace("-", "\u2011")


def message(anomaly: Anomaly) -> dict[str, Any]:
    """What a webhook is sent: plain JSON. `text` is what chat programs show."""
    return {
        "text": sentence(anomaly),
        "id": str(anomaly.id),
        "model": anomaly.model,
        "kind": anomaly.kind.value,
        "metric": anomaly.metric,
        "severity": anomaly.severity.value,
        "score": anomaly.score,
        "started_at": anomaly.start.isoformat(),
        "ended_at": anomaly.end and anomaly.end.isoformat(),
        "observed": anomaly.observed,
        "expected": anomaly.expected,
        "detectors": sorted({one.detector.value for one in anomaly.evidence}),
        "contributions": [
            {
                "dimension": part.dimension,
                "value": part.value,
                "share": part.share,
                "change": part.change,
            }
            for part in anomaly.contributions
        ],
        "example_ids": [str(id) for id in anomaly.example_ids],
    }
