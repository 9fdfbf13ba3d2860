"""Everything of a lab that lives in one process: loop, connections, caches, log.

A forked child can inherit none of it, so it is one object that can be made again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from novellus_lab.pipeline.admission import Admission
from novellus_lab.pipeline.attempts import Attempts
from novellus_lab.pipeline.caching import Caching
from novellus_lab.pipeline.candidates import Candidates
from novellus_lab.pipeline.catalog import Catalog
from novellus_lab.pipeline.embedding import Embedder, ModelEmbedder
from novellus_lab.pipeline.failover import FailoverChains
from novellus_lab.pipeline.intake import Intake
from novellus_lab.pipeline.kept_connection import KeptConnection
from novellus_lab.pipeline.live_experiments import LiveExperiments
from novellus_lab.pipeline.loop_thread import LoopThread
from novellus_lab.pipeline.observing import Observed
from novellus_lab.pipeline.pipeline import Pipeline
from novellus_lab.pipeline.quick_prices import QuickPrices
from novellus_lab.pipeline.recording import ContentPolicy
from novellus_lab.pipeline.shadowing import Shadows
from novellus_lab.pipeline.trained_routers import TrainedRouters
from novellus_lab.pricing import PriceBook
from novellus_lab.routing.registry import Registry
from novellus_lab.store.mirror import sync_models, sync_rules
from novellus_lab.store.request_log import RequestLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.settings import Settings
    from novellus_lab.store.database import Database
    from novellus_lab.store.listeners import Listeners


@dataclass(frozen=True)
class Runtime:
    """The parts, wired."""

    pid: int
    catalog: Catalog
    thread: LoopThread
    pipeline: Pipeline
    intake: Intake
    embedder: Embedder
    caching: Caching
    admission: Admission
    strategies: Registry
    routers: TrainedRouters
    log: RequestLog
    content: ContentPolicy
    settings: Settings
    conninfo: str
    experiments: LiveExperiments

    @classmethod
    def open(
        cls,
        settings: Settings,
        database: Database,
        *,
        redact: Callable[[str], str] | None,
        seed: int | None,
        strategies: dict[str, Any] | None = None,
        checks: dict[str, Any] | None = None,
        listeners: Listeners | None = None,
    ) -> Runtime:
        """Wire the parts for this process.

        Args:
            strategies, checks: what was registered by name; what will be is added to them.
            listeners: are told of requests.

        Raises:
            ConfigurationError, UnknownStrategyError: before anything is started.
        """
        balancing = settings.load_balancing
        registry = Registry(strategies, balancing.options, checks)
        registry.get(balancing.default_strategy)
        for name in balancing.options:
            registry.get(name)
        for rule in balancing.rules:
            registry.get(rule.strategy, rule.options or None)
        catalog = Catalog(settings)
        random = Random(seed)
        prices = PriceBook()
        quick_prices = QuickPrices(prices)
        observed = Observed()
        routers = TrainedRouters(database.conninfo)
        admission = Admission(settings, catalog, quick_prices, database.conninfo)
        # Back-off draws from a lottery of its own: a retry must not shift the picks that follow.
        attempts = Attempts(
            catalog, prices, observed.latencies, settings.retries, Random(seed), admission
        )
        content = ContentPolicy(settings.logging.content, redact, catalog.secrets())
        caching = Caching.open(
            settings,
            database.conninfo,
            kept_text=content.text,
            scope_of=catalog.scope,
            embed=lambda model_id: ModelEmbedder(model_id, embedder),
        )
        if settings.cache.semantic_cache.enabled:
            caching.semantic.check()
        cache = caching.responses
        log = RequestLog(
            database.conninfo,
            database.home / "spool" / database.identity,
            revive=database.revive if database.embedded else None,
            listeners=listeners,
        )
        candidates = Candidates(catalog, balancing.rules, quick_prices, observed, admission)
        pipeline = Pipeline(
            settings=settings,
            catalog=catalog,
            candidates=candidates,
            chains=FailoverChains(settings, catalog, candidates),
            strategies=registry,
            attempts=attempts,
            cache=cache,
            log=log,
            content=content,
            observed=observed,
            routers=routers,
            conninfo=database.conninfo,
            random=random,
            flight=caching.flight,
            semantic=caching.semantic,
        )
        if settings.shadows:
            pipeline.shadows = Shadows(
                settings, catalog, candidates, admission, pipeline.shadow, Random(seed)
            )
        embedder = Embedder(catalog, cache, attempts, log, content, caching=settings.cache.enabled)
        log.start()
        thread = LoopThread()
        experiments = LiveExperiments(KeptConnection(thread, database.conninfo))
        intake = Intake(
            pipeline,
            log,
            content,
            default_timeout_s=settings.timeout_s,
            experiments=experiments,
        )
        thread.start(caching.start, lambda: None)
        thread.start(admission.start, lambda: None)
        thread.start(experiments.follow, lambda: None)
        return cls(
            os.getpid(),
            catalog,
            thread,
            pipeline,
            intake,
            embedder,
            caching,
            admission,
            registry,
            routers,
            log,
            content,
            settings,
            database.conninfo,
            experiments,
        )

    def flush(self, timeout_s: float, *, shadows: bool = False) -> None:
        """Wait until log, shared cache and budgets hold all that was done before.

        Args:
            shadows: wait for shadow calls first, as long again at most.
        """
        if shadows and self.settings.shadows:
            self.thread.run(self.pipeline.settle, timeout_s)
        until = time.monotonic() + timeout_s
        self.thread.run(self._flush, timeout_s)
        self.log.flush(max(0.0, until - time.monotonic()))

    async def _flush(self, timeout_s: float) -> None:
        await self.caching.flush(timeout_s)
        await self.admission.flush()

    def close(self) -> None:
        """Cancel what is under way, close connections, stop the loop, bring the log home."""
        self.thread.stop(self._close_connections)
        self.log.close()

    async def _close_connections(self) -> None:
        await self.pipeline.aclose()
        await self.catalog.aclose()
        await self.caching.close()
        await self.admission.aclose()


def mirror_configuration(settings: Settings, conninfo: str) -> None:
    """Keep `ai_models` and `load_balancing_rules` in step with the YAML, with history."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        sync_models(connection, [m.mirror() for m in settings.models])
        sync_rules(connection, [r.mirror() for r in settings.load_balancing.rules])
