"""Experiments on live traffic: begun, ended, and told of."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.arms import arms_of
from novellus_lab.experiments.design import Design
from novellus_lab.experiments.live import live_calls
from novellus_lab.experiments.metrics import metric_of
from novellus_lab.experiments.store import ExperimentStore, StoredExperiment
from novellus_lab.ids import uuid7
from novellus_lab.routing.assignment import HOLDOUT, REQUEST
from novellus_lab.spaces.comparisons import LabLiveComparison, margin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.pipeline.runtime import Runtime


async def start_live(runtime: Runtime, name: str, design: dict[str, Any]) -> StoredExperiment:
    store = ExperimentStore(runtime.experiments.connection)
    for one in await store.stored(1_000):
        if one.kind == "live" and one.ended_at is None and one.name == name:
            raise InvalidRequestError(
                f"the experiment {name!r} is under way since {one.started_at:%Y-%m-%d %H:%M}: stop "
                f"it first, lab.experiments.stop({name!r})"
            )
    id = uuid7()
    await store.begin(id, name, f"{name} {id.hex[-8:]}", "live", design)
    await runtime.experiments.refresh()
    return await store.find(str(id))


async def stop_live(runtime: Runtime, name: str) -> StoredExperiment:
    store = ExperimentStore(runtime.experiments.connection)
    one = await store.find(name)
    if one.kind != "live":
        raise InvalidRequestError(f"{name!r} is no experiment on live traffic")
    await store.end(one.id, "stopped", None)
    await runtime.experiments.refresh()
    return await store.find(str(one.id))


def live_design(
    runtime: Runtime,
    name: str,
    arms: Any,
    unit: str,
    share: float,
    holdout: float,
    weights: Mapping[str, float] | None,
    expected_units: int,
) -> tuple[str, dict[str, Any]]:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidRequestError("an experiment needs a name of 1 to 200 characters")
    found = arms_of(
        arms,
        strategies=runtime.strategies.names(),
        models=[model.id for model in runtime.catalog],
    )
    for arm in found:
        if arm.balancer is not None or arm.config is not None:
            raise InvalidRequestError(
                f"arm {arm.name!r}: live arms are plain arguments. Register a strategy of yours in "
                f"every process (lab.router.register) and give its name"
            )
        runtime.intake.question("?", arm.arguments)
    if unit not in ("session_id", REQUEST) and not (
        unit.startswith("tag:") and len(unit) > len("tag:")
    ):
        raise InvalidRequestError(
            f"unit must be 'session_id', 'tag:<key>' or 'request', not {unit!r:.80}"
        )
    for what, value in (("share", share), ("holdout", holdout)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InvalidRequestError(f"{what} must be between 0 and 1, not {value!r:.80}")
    if HOLDOUT in (names := [arm.name for arm in found]):
        raise InvalidRequestError(f"no arm may be named {HOLDOUT!r}: holdout= makes that one")
    wanted = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    if set(wanted) != set(names) or not all(
        isinstance(w, (int, float)) and math.isfinite(w) and w > 0 for w in wanted.values()
    ):
        raise InvalidRequestError(
            f"weights must have a number above 0 for each of {', '.join(names)}"
        )
    total = sum(wanted.values())
    rest = share * (1 - holdout)
    told = [{**arm.told(), "share": rest * wanted[arm.name] / total} for arm in found]
    if holdout:
        told.append({"name": HOLDOUT, "arguments": {}, "share": share * holdout})
    if (
        isinstance(expected_units, bool)
        or not isinstance(expected_units, int)
        or expected_units < 1
    ):
        raise InvalidRequestError(
            f"expected_units must be a whole number above 0, not {expected_units!r:.80}"
        )
    return name, {
        "arms": told,
        "unit": unit,
        "share": share,
        "holdout": holdout,
        "expected_units": expected_units,
    }


async def analyse_live(
    runtime: Runtime,
    name: str,
    metric: str,
    scorer: str | None,
    level: float,
    margin: float | str | None,
    sequential: bool,
) -> LabLiveComparison:
    decides = metric_of(metric)
    size, relative = margin_of(margin)
    one = await ExperimentStore(runtime.experiments.connection).find(name)
    if one.kind != "live":
        raise InvalidRequestError(
            f"{name!r} is a {one.kind}, not an experiment on live traffic: lab.experiments.load has it"
        )
    unit = one.design["unit"]
    calls = await live_calls(runtime.experiments.connection, one.label, unit, scorer)
    if not calls:
        raise InvalidRequestError(
            f"no call fell into {name!r} yet: its unit is {unit!r}, and calls without one, or that "
            f"state what an arm would set, take no part"
        )
    scored = any(call.score is not None for call in calls)
    if decides.needs_score and not scored:
        raise InvalidRequestError(
            f"no answer of {name!r} was scored: lab.experiments.score(request_id, value)"
        )
    design = Design(
        id=one.id,
        name=one.name,
        label=one.label,
        arms=tuple(one.design["arms"]),
        workload="live traffic",
        workload_hash="",
        n=int(one.design.get("expected_units") or 1_000),
        metric=decides.name,
        scorer=(scorer or "scored") if scored else None,
        level=level,
        sequential=bool(sequential),
        margin=size,
        margin_relative=relative,
    )
    shares = {arm["name"]: float(arm["share"]) for arm in one.design["arms"]}
    return await asyncio.to_thread(LabLiveComparison.of_live, design, calls, shares, unit)
