"""`novellus metrics serve`: the whole log's metrics over HTTP."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from novellus_lab.errors import ConfigurationError, StoreError
from novellus_lab.monitoring.prometheus.exposition import Exposition, registry_of
from novellus_lab.monitoring.prometheus.log_reader import LogTotals
from novellus_lab.monitoring.prometheus.metrics import BACKLOG, DATABASE_UP, Metric
from novellus_lab.store.admin import waiting_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from novellus_lab.store.database import Database

logger = logging.getLogger("novellus_lab.monitoring")


class MetricsServer:
    """Serves `/metrics` of a database, looking at its log every so often.

    A context manager. While the database is away the counters stand still, and `ai_log_database_up`
    is 0.

    Args:
        every_s: seconds between two looks. Scrapes cost the database nothing.
        health: returns scores by model, None where there is too little to tell; waits for nothing
            long, and does not raise.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
        StoreError: the log can't be read.
        ConfigurationError: host or port can't be listened on.
    """

    def __init__(
        self,
        database: Database,
        *,
        host: str = "127.0.0.1",
        port: int = 9464,
        every_s: float = 5.0,
        health: Callable[[], Mapping[str, float | None]] = dict,
    ) -> None:
        self._database = database
        self._every_s = every_s
        self._health = health
        self._log = LogTotals(database.conninfo)
        self._readings: Mapping[Metric, float] = {}
        self._scores: Mapping[str, float | None] = {}
        self._stopping = threading.Event()
        registry = registry_of(
            Exposition(self._log.totals, lambda: self._readings, lambda: self._scores)
        )
        self._log.look()
        self._read_rest()
        from prometheus_client import start_http_server

        try:
            self._server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served on {host}:{port}: {error.strerror or error}"
            ) from None
        self._thread = threading.Thread(target=self._keep_up, name="novellus-metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        shown = host if isinstance(host, str) else host.decode()
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/metrics"

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving. Idempotent."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5.0)

    def refresh(self) -> None:
        """Look at the log now; what can't be read is told by `ai_log_database_up`."""
        was_reachable = self._log.reachable
        try:
            self._log.look()
        except StoreError as error:
            if was_reachable:
                logger.warning("%s: counters stand still until it can", error)
        else:
            if not was_reachable:
                logger.warning("the log can be read again")
        self._read_rest()

    def _read_rest(self) -> None:
        readings = {DATABASE_UP: float(self._log.reachable)}
        if self._log.reachable:
            with contextlib.suppress(StoreError):  # the next look tells
                readings[BACKLOG] = float(waiting_bytes(self._database))
        self._scores = self._health() if self._log.reachable else {}
        self._readings = readings

    def _keep_up(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.refresh()
            except Exception:
                logger.exception("the metrics server stumbled and goes on")
