"""Strategies judged by the log: what each would have chosen, call by call."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.requests import moment
from novellus_lab.errors import InvalidRequestError, NovellusError
from novellus_lab.experiments.arms import Arm, arms_of
from novellus_lab.experiments.logged_calls import logged_calls
from novellus_lab.experiments.offline import OfflineEvaluation, evaluate
from novellus_lab.experiments.pilots import features_of, values_of
from novellus_lab.experiments.planned import Pilot, pilot_of
from novellus_lab.spaces.open_arms import LabAccess, open_arms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.experiments.comparison import Comparison
    from novellus_lab.experiments.metrics import Metric
    from novellus_lab.pipeline.question import Question
    from novellus_lab.pipeline.runtime import Runtime

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)


def window_of(
    since: str | datetime | timedelta | None, until: str | datetime | timedelta | None
) -> tuple[datetime, datetime]:
    return moment("since", since) or _BEGINNING, moment("until", until) or _END


async def evaluate_strategies(
    access: LabAccess,
    runtime: Runtime,
    specs: Mapping[str, Any],
    window: tuple[datetime, datetime],
    scorer: str | None,
    experiment: str | None,
    limit: int,
    level: float,
    clip: float | None,
) -> dict[str, OfflineEvaluation]:
    arms = {name: arm_of(runtime, name or None, spec) for name, spec in specs.items()}
    for arm in arms.values():
        if arm.config is not None:
            raise InvalidRequestError(
                f"{arm.name!r}: a whole configuration can't be judged from the log: its models and "
                f"rules are others. Open a lab with it and ask that"
            )
    calls = await logged_calls(
        runtime.experiments.connection,
        since=window[0],
        until=window[1],
        limit=limit,
        scorer=scorer,
        experiment=experiment,
    )
    left_out: Counter[str] = Counter()
    usable, questions = [], []
    for call in calls:
        if not call.arguments:
            left_out["whose text is not in the log"] += 1
            continue
        try:
            asked = runtime.intake.question(None, call.arguments, stream=call.stream)
        except NovellusError:
            left_out["that could not be asked again"] += 1
            continue
        usable.append(call)
        questions.append(asked)
    features = [features_of(question) for question in questions]
    found = {}
    async with open_arms(access, runtime, "evaluation", tuple(arms.values()), False) as (
        ready,
        _asks,
    ):
        for (name, _), arm in zip(arms.items(), ready, strict=True):
            kept, choices, rows, lost = [], [], [], Counter(left_out)
            for number, (call, question) in enumerate(zip(usable, questions, strict=True)):
                if number % 50 == 0:
                    await asyncio.sleep(0)  # others have calls under way
                choice = await _choice(runtime, question, arm)
                if not choice:
                    lost["that it could not have answered"] += 1
                    continue
                kept.append(call)
                choices.append(choice)
                rows.append(features[number])
            found[name] = await asyncio.to_thread(
                evaluate, arm.name, kept, choices, rows,
                level=level, left_out=dict(lost.most_common()), clip=clip,
            )  # fmt: skip
    return found


def arm_of(runtime: Runtime, name: str | None, spec: Any) -> Arm:
    (arm,) = arms_of(
        [spec] if name is None else {name: spec},
        strategies=runtime.strategies.names(),
        models=[model.id for model in runtime.catalog],
        least=1,
    )
    return arm


async def _choice(runtime: Runtime, question: Question, arm: Arm) -> dict[str, float]:
    """With which probability the arm would choose each model for a question, now."""
    model_id = arm.arguments.get("model_id")
    asked = replace(
        question,
        model_id=model_id,
        strategy=arm.arguments.get("model_selection_strategy"),
        use_semantic_cache=False,
    )
    explained = await runtime.pipeline.explain(asked)
    return {c.model_id: c.probability for c in explained.candidates if c.probability > 0}


def pilot_of_comparison(earlier: Comparison, metric: Metric) -> Pilot:
    pairs = [
        (x, y)
        for item in earlier.observations
        if (x := metric.of(item[0])) is not None and (y := metric.of(item[1])) is not None
    ]
    each: list[Decimal | None] = []
    for place in (0, 1):
        costs = [
            cost for item in earlier.observations if (cost := item[place].cost_usd) is not None
        ]
        each.append(sum(costs, Decimal(0)) / len(costs) if costs else None)
    return pilot_of(
        [x for x, _ in pairs],
        [y for _, y in pairs],
        cost_usd=each[0],
        treatment_cost_usd=each[1],
        source=f"the comparison {earlier.design.name!r}",
    )


def pilot_of_log(access: LabAccess, metric: Metric, since: str) -> Pilot:
    runtime = access.ready()
    start = moment("since", since) or _BEGINNING
    values, costs = runtime.thread.run(
        values_of, runtime.experiments.connection, metric.name, start
    )
    each = sum(costs, Decimal(0)) / len(costs) if costs else None
    return pilot_of(
        values, None, cost_usd=each, treatment_cost_usd=None, source=f"the log, {since}"
    )
