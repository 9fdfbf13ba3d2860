"""Everything of a lab that lives in one process: loop, connections, caches, log.

A forked child can inherit none of it, so it is one object that can be made again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import psycopg

from novellus_lab.cache.manager import ResponseCache
from novellus_lab.cache.memory import MemoryTier
from novellus_lab.cache.postgres import PostgresTier
from novellus_lab.pipeline.attempts import Attempts
from novellus_lab.pipeline.candidates import Candidates
from novellus_lab.pipeline.catalog import Catalog
from novellus_lab.pipeline.embedding import Embedder
from novellus_lab.pipeline.intake import Intake
from novellus_lab.pipeline.loop_thread import LoopThread
from novellus_lab.pipeline.pipeline import Pipeline
from novellus_lab.pipeline.recording import ContentPolicy
from novellus_lab.pricing import PriceBook
from novellus_lab.routing.latency import LatencyTracker
from novellus_lab.routing.strategies import make_strategies, strategy_named
from novellus_lab.store.mirror import sync_models, sync_rules
from novellus_lab.store.request_log import RequestLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from novellus_lab.settings import Settings
    from novellus_lab.store.database import Database


@dataclass(frozen=True)
class Runtime:
    """The parts, wired."""

    pid: int
    catalog: Catalog
    thread: LoopThread
    pipeline: Pipeline
    intake: Intake
    embedder: Embedder
    cache: ResponseCache
    log: RequestLog
    content: ContentPolicy

    @classmethod
    def open(
        cls,
        settings: Settings,
        database: Database,
        *,
        redact: Callable[[str], str] | None,
        seed: int | None,
    ) -> Runtime:
        """Wire the parts for this process.

        Raises:
            ConfigurationError, UnknownStrategyError: before anything is started.
        """
        strategies = make_strategies()
        strategy_named(settings.load_balancing.default_strategy, strategies)
        for rule in settings.load_balancing.rules:
            strategy_named(rule.strategy, strategies)
        catalog = Catalog(settings)
        random = Random(seed)
        prices = PriceBook()
        latencies = LatencyTracker()
        # Back-off draws from a lottery of its own: a retry must not shift the picks that follow.
        attempts = Attempts(catalog, prices, latencies, settings.retries, Random(seed))
        content = ContentPolicy(settings.logging.content, redact, catalog.secrets())
        cache = ResponseCache(
            MemoryTier(max_entries=settings.cache.max_entries, max_bytes=settings.cache.max_bytes),
            PostgresTier(database.conninfo),
            ttl_s=settings.cache.ttl_seconds,
        )
        log = RequestLog(
            database.conninfo,
            database.home / "spool" / database.identity,
            revive=database.revive if database.embedded else None,
        )
        pipeline = Pipeline(
            settings=settings,
            catalog=catalog,
            candidates=Candidates(catalog, settings.load_balancing.rules, prices, latencies),
            strategies=strategies,
            attempts=attempts,
            cache=cache,
            log=log,
            content=content,
            latencies=latencies,
            random=random,
        )
        embedder = Embedder(catalog, cache, attempts, log, content, caching=settings.cache.enabled)
        log.start()
        intake = Intake(pipeline, log, content, default_timeout_s=settings.timeout_s)
        return cls(
            os.getpid(), catalog, LoopThread(), pipeline, intake, embedder, cache, log, content
        )

    def flush(self, timeout_s: float) -> None:
        """Wait until the log and the shared cache hold all that was done before."""
        until = time.monotonic() + timeout_s
        self.thread.run(self.cache.postgres.flush, timeout_s)
        self.log.flush(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Cancel what is under way, close connections, stop the loop, bring the log home."""
        self.thread.stop(self._close_connections)
        self.log.close()

    async def _close_connections(self) -> None:
        await self.catalog.aclose()
        await self.cache.postgres.close()


def mirror_configuration(settings: Settings, conninfo: str) -> None:
    """Keep `ai_models` and `load_balancing_rules` in step with the YAML, with history."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        sync_models(connection, [m.mirror() for m in settings.models])
        sync_rules(connection, [r.mirror() for r in settings.load_balancing.rules])
