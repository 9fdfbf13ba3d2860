"""What a benchmark's run came to: each arm on every item, with intervals; and what two runs differ by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self
from xml.etree import ElementTree as Xml

import orjson

from novellus_lab.display import duration, findings_html, money
from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.comparison import Comparison, Ending
from novellus_lab.experiments.observation import frame_of, total_usd
from novellus_lab.experiments.stats.confidence import Confidence
from novellus_lab.experiments.stats.means import mean
from novellus_lab.experiments.stats.proportions import rate
from novellus_lab.experiments.stats.quantiles import rank
from novellus_lab.experiments.trial import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import polars as pl

    from novellus_lab.experiments.design import Design
    from novellus_lab.experiments.observation import Observation
    from novellus_lab.experiments.stats.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Standing:
    """One arm of a run."""

    arm: str
    asked: int
    answered: int
    scored: int
    quality: Estimate | None
    """Mean score; a call that failed scores 0. None: nothing could be scored."""
    cost_usd: Decimal
    """Of the calls with a known cost."""
    unpriced: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None

    @property
    def cost_per_good_answer_usd(self) -> Decimal | None:
        """What was paid for one whole point of score."""
        if self.quality is None or not self.quality.value or self.unpriced:
            return None
        return self.cost_usd / Decimal(repr(self.quality.value * self.scored))


@dataclass(frozen=True)
class BenchmarkRun:
    """A run: arms, items, what was observed. `design.id` is the run's id."""

    design: Design
    ending: Ending
    outcomes: tuple[Outcome, ...]
    """In the order of the items; also those that were not asked in every arm."""
    started_at: datetime | None = None

    @property
    def id(self) -> str:
        return str(self.design.id)

    @property
    def complete(self) -> bool:
        """Whether every item was asked in every arm."""
        return len(self.outcomes) == self.design.n and all(o.whole for o in self.outcomes)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Each arm, the best first; where quality is the same, the cheapest."""
        told = [self._standing(place) for place in range(len(self.design.names))]

        def place(standing: Standing) -> tuple[float, Decimal]:
            quality = standing.quality
            value = quality.value if quality is not None and quality.value is not None else -1.0
            return -value, standing.cost_usd

        return tuple(sorted(told, key=place))

    def _standing(self, place: int) -> Standing:
        seen = [o.observations[place] for o in self.outcomes]
        seen = [one for one in seen if one.status != "unfinished"]
        scores = [one.score for one in seen if one.score is not None]
        groups = [one.group or f"\0{i}" for i, one in enumerate(seen) if one.score is not None]
        clustered = groups if any(one.group for one in seen) else None
        quality: Estimate | None = None
        if scores:
            estimate = rate if all(score in (0.0, 1.0) for score in scores) else mean
            quality = estimate(scores, clusters=clustered, confidence=Confidence(self.design.level))
        known, unpriced = total_usd([one.cost_usd for one in seen])
        times = sorted(one.latency_ms for one in seen if one.ok and one.latency_ms is not None)
        return Standing(
            self.design.names[place],
            len(seen),
            sum(one.ok for one in seen),
            len(scores),
            quality,
            known,
            unpriced,
            _nearest(times, 0.5),
            _nearest(times, 0.95),
        )

    def standing(self, arm: str) -> Standing:
        """Return one arm's.

        Raises:
            InvalidRequestError: the run has no such arm.
        """
        for one in self.standings:
            if one.arm == arm:
                return one
        raise InvalidRequestError(
            f"the run has no arm {arm!r}; it has {', '.join(self.design.names)}"
        )

    def against(self) -> Comparison:
        """Compare the arms with the first one, on the items that all of them were asked.

        Raises:
            InvalidRequestError: there is one arm only.
        """
        if len(self.design.names) < 2:
            raise InvalidRequestError("the run has one arm: there is nothing to compare it with")
        return Comparison.of(self.design, self.outcomes, self.ending)

    @property
    def cost_usd(self) -> tuple[Decimal, int]:
        """What all calls cost, scoring included, and of how many nobody knows it."""
        seen = [s for o in self.outcomes for s in o.observations if s.status != "unfinished"]
        asked, unknown = total_usd([one.cost_usd for one in seen])
        scored, more = total_usd(
            [
                one.scoring_cost_usd
                for one in seen
                if one.request_id is not None and one.score_reason
            ]
        )
        return asked + scored, unknown + more

    @property
    def frame(self) -> pl.DataFrame:
        """One row an item and arm."""
        return frame_of(seen for outcome in self.outcomes for seen in outcome.observations)

    # --- for people and programs ---------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [f"<BenchmarkRun {self.id} of {self.design.name!r}: {self.ending.value}>"]
        lines += [f"  {s.arm}: {_quality(s)}, {money(s.cost_usd)}" for s in self.standings]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        header = ("", "quality", "interval", "cost", "of a good answer", "p50", "p95", "failed")
        rows = [_row(one) for one in self.standings]
        design = self.design
        asked = sum(o.whole for o in self.outcomes)
        spent, unknown = self.cost_usd
        about = [
            f"{asked} of {design.n} items of {design.workload!r}, scored by {design.scorer} · "
            f"{self.ending.value} · {money(spent)} spent"
            + (f", {unknown} calls of unknown cost" if unknown else ""),
            f"run {self.id} · benchmark {design.benchmark}"
            + (f" · repeats {design.rerun_of}" if design.rerun_of else "")
            + (" · answers from the log" if design.from_log else ""),
        ]
        if any(s.provider == "replay" for o in self.outcomes for s in o.observations):
            about.append("REPLAY: recorded answers; latencies are drawn from a stated distribution")
        return findings_html((), [("", header, rows)], about)

    def to_json(self) -> str:
        """Write the standings, for programs."""
        design = self.design
        told = {
            "run": self.id,
            "benchmark": design.name,
            "benchmark_hash": design.benchmark,
            "items": design.n,
            "complete": self.complete,
            "ending": self.ending.value,
            "seed": design.seed,
            "rerun_of": design.rerun_of,
            "arms": [
                {
                    "arm": one.arm,
                    "asked": one.asked,
                    "answered": one.answered,
                    "scored": one.scored,
                    "quality": None if one.quality is None else one.quality.value,
                    "quality_low": None if one.quality is None else one.quality.low,
                    "quality_high": None if one.quality is None else one.quality.high,
                    "cost_usd": str(one.cost_usd),
                    "unpriced": one.unpriced,
                    "latency_p50_ms": one.latency_p50_ms,
                    "latency_p95_ms": one.latency_p95_ms,
                }
                for one in self.standings
            ],
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()

    def to_junit(self, *, passes_from: float = 1.0) -> str:
        """Write one test case an item and arm, for what shows tests.

        Args:
            passes_from: the score from which an answer passes.
        """
        suites = Xml.Element("testsuites", name=_xml(self.design.name))
        for place, arm in enumerate(self.design.names):
            seen = [o.observations[place] for o in self.outcomes]
            failed = [s for s in seen if s.ok and s.score is not None and s.score < passes_from]
            suite = Xml.SubElement(
                suites,
                "testsuite",
                name=_xml(arm),
                tests=str(len(seen)),
                failures=str(len(failed)),
                errors=str(sum(s.status == "error" for s in seen)),
                skipped=str(
                    sum(s.status == "unfinished" or (s.ok and s.score is None) for s in seen)
                ),
            )
            for one in seen:
                case = Xml.SubElement(
                    suite,
                    "testcase",
                    classname=_xml(f"{self.design.name}.{arm}"),
                    name=_xml(one.item_id),
                    time=f"{(one.latency_ms or 0) / 1000:.3f}",
                )
                if one.status == "error":
                    Xml.SubElement(
                        case,
                        "error",
                        type=_xml(one.error_class or ""),
                        message=_xml(one.error_message or ""),
                    )
                elif one.status == "unfinished" or one.score is None:
                    Xml.SubElement(case, "skipped", message=_xml(one.score_reason or one.status))
                elif one.score < passes_from:
                    Xml.SubElement(
                        case,
                        "failure",
                        message=_xml(f"score {one.score:g}: {one.score_reason or ''}"),
                    )
        Xml.indent(suites)
        return Xml.tostring(suites, encoding="unicode", xml_declaration=True)


@dataclass(frozen=True)
class BenchmarkDiff:
    """What changed from one run to another, arm by arm, on the items that both asked."""

    before: BenchmarkRun
    after: BenchmarkRun
    comparisons: dict[str, Comparison]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, before: BenchmarkRun, after: BenchmarkRun, *, margin: float | None = None) -> Self:
        """Pair two runs.

        Args:
            margin: a loss of quality (0 to 1) that does not matter.

        Raises:
            InvalidRequestError: they have no arm, or no item, in common.
        """
        arms = [name for name in before.design.names if name in after.design.names]
        if not arms:
            raise InvalidRequestError(
                f"the runs have no arm in common: {', '.join(before.design.names)} before, "
                f"{', '.join(after.design.names)} after"
            )
        notes = []
        if before.design.benchmark != after.design.benchmark:
            notes.append(
                "The benchmark itself changed between the runs (its items, scorer or arguments): "
                "differences may be of the benchmark."
            )
        comparisons = {}
        for arm in arms:
            old, new = _by_item(before, arm), _by_item(after, arm)
            both = [item for item in old if item in new]
            if not both:
                raise InvalidRequestError(
                    "the runs have no item in common: there is nothing to pair"
                )
            design = replace(
                after.design,
                name=arm,
                arms=({"name": "before"}, {"name": "after"}),
                n=len(both),
                margin=margin,
                margin_relative=False,
                sequential=False,
            )
            outcomes = [Outcome(i, (old[item], new[item])) for i, item in enumerate(both)]
            comparisons[arm] = Comparison.of(design, outcomes, Ending.WHOLE)
            left = len(old) + len(new) - 2 * len(both)
            if left:
                notes.append(f"{arm}: {left} items were asked in one of the runs only.")
        return cls(before, after, comparisons, tuple(notes))

    @property
    def regressions(self) -> tuple[str, ...]:
        """Arms whose quality is worse than before, by more than the margin, and surely so."""
        found = []
        for arm, comparison in self.comparisons.items():
            for effect in comparison.effects:
                limit = comparison.design.margin or 0.0
                if effect.metric.name == "score" and effect.difference.high < -limit:
                    found.append(arm)
        return tuple(found)

    @property
    def changed(self) -> pl.DataFrame:
        """The items whose score or answer changed: one row an item and arm."""
        import polars as pl

        rows = [
            {
                "arm": arm,
                "item_id": old.item_id,
                "score_before": old.score,
                "score_after": new.score,
                "status_before": old.status,
                "status_after": new.status,
                "answer_before": old.content,
                "answer_after": new.content,
                "request_before": str(old.request_id or "") or None,
                "request_after": str(new.request_id or "") or None,
            }
            for arm, comparison in self.comparisons.items()
            for old, new in comparison.observations
            if old.score != new.score
            or old.status != new.status
            or _differ(old.content, new.content)
        ]
        text, number = pl.String, pl.Float64
        schema = {
            "arm": text, "item_id": text, "score_before": number, "score_after": number,
            "status_before": text, "status_after": text, "answer_before": text,
            "answer_after": text, "request_before": text, "request_after": text,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema)

    @property
    def verdict(self) -> str:
        """What changed, in a sentence or two for each arm."""
        told = [f"{arm}: {comparison.verdict}" for arm, comparison in self.comparisons.items()]
        return " ".join([*told, *self.notes])

    def __repr__(self) -> str:
        return f"<BenchmarkDiff {self.before.id} to {self.after.id}>\n{self.verdict}"

    def _repr_html_(self) -> str:
        lead, tables = [], []
        for arm, comparison in self.comparisons.items():
            lead.append(f"{arm}: {comparison.verdict}")
            tables += [(arm, header, rows) for _, header, rows in comparison.tables]
        about = [
            f"run {self.before.id} before, run {self.after.id} after, {len(self.changed)} items changed"
        ]
        return findings_html([*lead, *self.notes], tables, about)


def _by_item(run: BenchmarkRun, arm: str) -> dict[str, Observation]:
    place = run.design.names.index(arm)
    seen = (o.observations[place] for o in run.outcomes)
    return {one.item_id: one for one in seen if one.status != "unfinished"}


def _differ(old: str | None, new: str | None) -> bool:
    return old is not None and new is not None and old != new


def _nearest(ordered: Sequence[float], q: float) -> float | None:
    return ordered[rank(len(ordered), q) - 1] if ordered else None


def _quality(one: Standing) -> str:
    if one.quality is None or one.quality.value is None:
        return "not scored"
    return f"{one.quality.value:.1%} [{one.quality.low:.1%}, {one.quality.high:.1%}]"


def _row(one: Standing) -> tuple[Any, ...]:
    quality = one.quality
    each = one.cost_per_good_answer_usd
    return (
        one.arm,
        "not scored" if quality is None or quality.value is None else f"{quality.value:.1%}",
        "" if quality is None else f"{quality.low:.1%} to {quality.high:.1%}",
        money(one.cost_usd) + (f" + {one.unpriced} unknown" if one.unpriced else ""),
        "" if each is None else money(each),
        "" if one.latency_p50_ms is None else duration(one.latency_p50_ms),
        "" if one.latency_p95_ms is None else duration(one.latency_p95_ms),
        f"{one.asked - one.answered} of {one.asked}",
    )


def _xml(text: str) -> str:
    """What XML can hold of a text."""
    return "".join(
        c
        if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
        else "\ufffd"
        for c in text
    )
