"""What an anomaly is, whoever found it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from novellus_lab.monitoring.contributions import Contribution

Name = TypeVar("Name", bound=StrEnum)


class AnomalyKind(StrEnum):
    """What happened. The first three have a rule in the seed."""

    LATENCY = "latency"
    ERROR_RATE = "error_rate"
    TRAFFIC = "traffic"
    TRAFFIC_DROP = "traffic_drop"
    SPEND = "spend"
    OUTPUT_LENGTH_DROP = "output_length_drop"
    CACHE_HIT_RATE_DROP = "cache_hit_rate_drop"
    DRIFT = "drift"
    """Slow change, for the worse, of whichever metric."""
    UNUSUAL = "unusual"
    """A pattern that the series never had, such as a flat line; no size of it is alarming."""


_VAGUE = (AnomalyKind.DRIFT, AnomalyKind.UNUSUAL)


class Severity(StrEnum):
    """How much an anomaly matters."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class DetectorName(StrEnum):
    """The seed's rules, or what learns a series by itself."""

    RULES = "rules"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One detector's word. `view` is a rule's name, `drift`, or what `Verdict.view` says."""

    detector: DetectorName
    view: str
    score: float
    start: datetime
    end: datetime | None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One anomaly of one metric, of one model or (`model` None) of all together.

    `end` is the first quiet moment; None while it goes on. `observed` and `expected` are in the
    metric's own unit, observed being the worst of its points. `score` is 0 to 1; 0.5 just is one.
    `bucket` is the time in one point of the series. What stands below `evidence` is there once it
    was looked into and stored.
    """

    kind: AnomalyKind
    metric: str
    start: datetime
    end: datetime | None
    observed: float
    expected: float
    score: float
    severity: Severity
    model: str | None = None
    detector: DetectorName = DetectorName.RULES
    bucket: timedelta = timedelta(minutes=1)
    evidence: tuple[Evidence, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    example_ids: tuple[UUID, ...] = ()
    id: UUID | None = None
    detected_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None

    @property
    def acknowledged(self) -> bool:
        return self.acknowledged_at is not None


def one_of(names: type[Name], argument: str, given: str) -> Name:
    """Return the member of an enumeration that a user's argument names.

    Raises:
        InvalidRequestError: it names none.
    """
    try:
        return names(given)
    except ValueError:
        raise InvalidRequestError(
            f"{argument} must be one of {', '.join(names)}, not {given!r:.80}"
        ) from None


def severity_of(score: float) -> Severity:
    """Low from 0.5 on, medium from 2/3 (twice what an alarm takes), high from 0.75 (three times).

    With `L = s / (1 - s)`: how often the evidence that makes an alarm is in the score.
    """
    if score >= 0.75:
        return Severity.HIGH
    return Severity.MEDIUM if score >= 2 / 3 else Severity.LOW


def merged(found: Iterable[Anomaly]) -> list[Anomaly]:
    """One anomaly an event: those of one model and metric that overlap in time become one.

    A kind that says more wins over drift and unusual, then a rule's figures over learnt ones, then
    the higher score; two kinds that contradict (more traffic, then less) stay two.
    """
    events: list[Anomaly] = []
    for one in sorted(found, key=lambda each: each.start):
        for n, other in enumerate(events):
            if _same_event(one, other):
                events[n] = _together(one, other)
                break
        else:
            events.append(one)
    return events


def overlap(one: Anomaly, other: Anomaly) -> bool:
    """Whether two lie in the same time, or not more than two points apart."""
    apart = 2 * max(one.bucket, other.bucket)
    return (one.end is None or other.start <= one.end + apart) and (
        other.end is None or one.start <= other.end + apart
    )


def without_echoes(found: Iterable[Anomaly]) -> list[Anomaly]:
    """Say once what is seen in all models together and in its parts.

    Where one model has it, it is that model's anomaly; where several have, it is all models'. What was
    dropped stays as evidence.
    """
    kept = list(found)
    for whole in [one for one in kept if one.model is None]:
        parts = [
            one
            for one in kept
            if one.model is not None
            and one.metric == whole.metric
            and (one.kind == whole.kind or one.kind in _VAGUE or whole.kind in _VAGUE)
            and overlap(one, whole)
        ]
        if not parts:
            continue
        alone = len({part.model for part in parts}) == 1
        best = max(parts, key=lambda part: part.score)
        stays, goes = (best, [whole]) if alone else (whole, parts)
        said = tuple(evidence for one in goes for evidence in one.evidence)
        gone = [id(one) for one in (stays, *goes)]
        kept = [one for one in kept if id(one) not in gone]
        kept.append(replace(stays, evidence=_said_once(stays.evidence + said)))
    return kept


def _same_event(one: Anomaly, other: Anomaly) -> bool:
    return (
        (one.model, one.metric) == (other.model, other.metric)
        and (one.kind == other.kind or one.kind in _VAGUE or other.kind in _VAGUE)
        and overlap(one, other)
    )


def _together(one: Anomaly, other: Anomaly) -> Anomaly:
    def says_more(each: Anomaly) -> tuple[int, bool, float]:
        vague = _VAGUE.index(each.kind) + 1 if each.kind in _VAGUE else 0
        return (-vague, each.detector is DetectorName.RULES, each.score)

    best, rest = sorted((one, other), key=says_more, reverse=True)
    vague = rest.kind in _VAGUE and best.kind not in _VAGUE
    score = best.score if rest.kind is AnomalyKind.UNUSUAL else max(one.score, other.score)
    ends = [each.end for each in (one, other)]
    return replace(
        best,
        start=best.start if vague else min(one.start, other.start),
        end=best.end if vague else None if None in ends else max(end for end in ends if end),
        score=score,
        severity=max(best.severity, rest.severity, severity_of(score), key=list(Severity).index),
        evidence=_said_once(best.evidence + rest.evidence),
    )


def _said_once(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """The strongest word of each detector and model."""
    strongest: dict[tuple[DetectorName, str, str | None], Evidence] = {}
    for one in evidence:
        key = (one.detector, one.view, one.model)
        if key not in strongest or one.score > strongest[key].score:
            strongest[key] = one
    return tuple(strongest.values())
