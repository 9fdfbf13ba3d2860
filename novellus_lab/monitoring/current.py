"""Metrics and health as of now: the rollups are brought up to the log first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg

from novellus_lab.errors import UnknownModelError
from novellus_lab.monitoring.health import HealthRules, HealthScore, score_health
from novellus_lab.monitoring.health_facts import read_facts
from novellus_lab.monitoring.metrics import ModelMetrics, read_metrics, was_seen
from novellus_lab.monitoring.rollups import catch_up, connected
from novellus_lab.store.database import cause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from novellus_lab.monitoring.period import Period
    from novellus_lab.monitoring.rollups import Connection
    from novellus_lab.pipeline.catalog import Catalog
    from novellus_lab.settings import Settings

logger = logging.getLogger("novellus_lab.monitoring")


async def current_metrics(
    conninfo: str, catalog: Catalog, model_id: str | None, period: Period
) -> ModelMetrics:
    """Return what a model, or all together, did in a period.

    Raises:
        UnknownModelError: no such model is configured, nor is one in the log.
        StoreUnavailableError
    """
    async with connected(conninfo) as connection:
        await _bring_up(connection)
        model = None if model_id is None else await _known(connection, catalog, model_id)
        return await read_metrics(connection, period, model)


async def current_health(conninfo: str, catalog: Catalog, settings: Settings) -> list[HealthScore]:
    """Return the health of all models that are routed to or were asked within a day.

    Raises:
        StoreUnavailableError
    """
    async with connected(conninfo) as connection:
        await _bring_up(connection)
        return await _scores(connection, settings, [m.id for m in catalog.chat_pool])


async def current_health_of(
    conninfo: str, catalog: Catalog, settings: Settings, model_id: str
) -> HealthScore:
    """Return a model's health.

    Raises:
        UnknownModelError, StoreUnavailableError
    """
    async with connected(conninfo) as connection:
        await _bring_up(connection)
        model = await _known(connection, catalog, model_id)
        scores = await _scores(connection, settings, [model])
        return next(score for score in scores if score.model_id == model)


async def _bring_up(connection: Connection) -> None:
    """Bring the rollups up to the log; whoever may only read sees them as far as others did."""
    try:
        await catch_up(connection)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        logger.info("this user can't bring rollups up to the log: %s", cause(error))


async def _known(connection: Connection, catalog: Catalog, model_id: str) -> str:
    """Return a model's name in the log: as it is configured, else as it stands there."""
    try:
        return catalog.get(model_id).id
    except UnknownModelError:
        if await was_seen(connection, model_id):
            return model_id
        raise


async def _scores(
    connection: Connection, settings: Settings, models: Iterable[str]
) -> list[HealthScore]:
    rules = HealthRules(**settings.monitoring.health.model_dump())
    facts = await read_facts(connection, rules, models, caching=settings.cache.enabled)
    return [score_health(f, rules) for f in facts]
