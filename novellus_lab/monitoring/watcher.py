"""Looks at new rows of the log every so often, and tells of what it finds, once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.errors import (
    InvalidRequestError,
    NovellusError,
    StoreUnavailableError,
    WebhookError,
)
from novellus_lab.monitoring.anomaly_table import claim, load, sent
from novellus_lab.monitoring.detection import connected, store
from novellus_lab.monitoring.log_buckets import floor, read_buckets, rules_width
from novellus_lab.monitoring.scan import Scan, Watching, feed, prepared
from novellus_lab.monitoring.webhook import Webhook
from novellus_lab.monitoring.wording import message, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from novellus_lab.monitoring.anomaly import Anomaly, AnomalyKind, Severity

logger = logging.getLogger("novellus_lab")

_WIDEST = timedelta(minutes=15)
_DAY = timedelta(days=1)
_LATE_BUCKETS = 5
"""What ended so many buckets ago is looked at once more, for its end."""


@dataclass(frozen=True, slots=True)
class Telling:
    """Whom to tell of what.

    `name`: watchers of one name tell of an anomaly once, in whatever processes they are. `callback`
    is called on the watcher's thread. `quietly`: no log line.
    """

    name: str = "watch"
    callback: Callable[[Anomaly], object] | None = None
    webhooks: tuple[Webhook, ...] = ()
    severity: Severity | None = None
    kinds: frozenset[AnomalyKind] | None = None
    quietly: bool = False

    def names(self) -> dict[str, Webhook | None]:
        """Each that is told on its own, by the name that its notices are kept under."""
        told: dict[str, Webhook | None] = {self.name: None}
        for webhook in self.webhooks:
            digest = hashlib.blake2b(webhook.url.encode(), digest_size=8).hexdigest()
            told[f"{self.name}:{digest}"] = webhook
        return told


class Watcher:
    """One look after the other; a thread of its own (`start`) or call by call (`look`).

    Args:
        asked: what to look at; the width is chosen by traffic where `bucket` is None.
        every_s: seconds between two looks.
        settle_s: seconds that a bucket is left alone after its end: answers are logged when they are
            there, under the time at which they were asked for.
        since: how far back the first look reaches, for what nobody was told of yet.

    Raises:
        InvalidRequestError: a time is not positive.
    """

    def __init__(
        self,
        conninfo: str,
        asked: Watching,
        telling: Telling,
        *,
        bucket: timedelta | None = None,
        every_s: float = 60.0,
        settle_s: float = 30.0,
        since: timedelta = timedelta(hours=1),
    ) -> None:
        if not every_s > 0 or not settle_s >= 0 or not since > timedelta():
            raise InvalidRequestError("every and since must be above 0, settle 0 or more")
        self._conninfo = conninfo
        self._asked = asked
        self._telling = telling
        self._bucket = bucket
        self._every_s = every_s
        self._settle = timedelta(seconds=settle_s)
        self._first = datetime.now(UTC) - since
        self._watching: Watching | None = None
        self._scan: Scan | None = None
        self._seen_to = self._stored_to = self._first
        self._stopping = threading.Event()
        self._outbox: queue.SimpleQueue[tuple[Anomaly, str, Webhook] | None] = queue.SimpleQueue()
        self._threads: tuple[threading.Thread, ...] = ()
        self.looks = 0
        """How many times the log was looked at."""
        self.told = 0
        """How many anomalies this watcher told of, by log line and callback."""

    # --- by itself -------------------------------------------------------------------------

    def start(self) -> None:
        """Look until `stop`."""
        self._threads = tuple(
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in (
                (self._main, "novellus-watch"),
                (self._deliver, "novellus-webhook"),
            )
        )
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop looking, and wait for what is under way. Idempotent."""
        self.stop_soon()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def stop_soon(self) -> None:
        """Stop looking, without waiting."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._outbox.put(None)

    @property
    def running(self) -> bool:
        return bool(self._threads) and self._threads[0].is_alive() and not self._stopping.is_set()

    def _main(self) -> None:
        while not self._stopping.is_set():
            try:
                for anomaly, name, webhook in self.look():
                    self._outbox.put((anomaly, name, webhook))
            except StoreUnavailableError as error:
                if not self._stopping.is_set():
                    logger.warning("watch: %s; trying again in %g s", error, self._every_s)
            except NovellusError as error:
                logger.error("watch: %s", error)
            except Exception:
                if not self._stopping.is_set():
                    logger.exception("watch: a look at the log failed")
            self._stopping.wait(self._every_s)

    def _deliver(self) -> None:
        while (notice := self._outbox.get()) is not None:
            with contextlib.suppress(WebhookError, StoreUnavailableError):
                self.deliver(*notice)

    # --- one step --------------------------------------------------------------------------

    def look(self) -> list[tuple[Anomaly, str, Webhook]]:
        """Look at what is new in the log, store what is found, log it and call back.

        Returns the messages that are left to `deliver`.

        Raises:
            StoreUnavailableError: the database does not answer; nothing is lost.
        """
        with connected(self._conninfo) as connection:
            self._detect(connection)
            self.looks += 1
            return self._tell(connection)

    def deliver(self, anomaly: Anomaly, name: str, webhook: Webhook) -> None:
        """Send a message to its webhook, and note that it was sent.

        Raises:
            WebhookError: it was not taken, which was logged. Somebody tries again in two minutes.
        """
        try:
            webhook.post(message(anomaly), self._stopping.wait if self._threads else _sleep)
        except WebhookError as error:
            logger.warning("watch: %s; trying again in 2 min", error)
            raise
        with connected(self._conninfo) as connection:
            if anomaly.id is not None:
                sent(connection, anomaly.id, name)

    def _detect(self, connection: psycopg.Connection) -> None:
        now = datetime.now(UTC)
        if self._watching is None:
            width = self._bucket or min(
                _WIDEST, rules_width(connection, now - _DAY, now, self._asked.model)
            )
            self._watching = replace(self._asked, width=width)
        watching = self._watching
        width = watching.width
        end = floor(now - self._settle, width)
        if self._scan is None:
            self._stored_to = min(self._first, end - width)
            self._scan = prepared(connection, watching, self._stored_to, end)
            self._seen_to = end
        elif self._seen_to < end:
            new = read_buckets(connection, [(self._seen_to, end)], width, watching.model)
            feed(self._scan, new, end, width, self._seen_to)
            self._seen_to = end
        since = self._stored_to - _LATE_BUCKETS * width
        store(connection, [self._scan], [watching], since, end)
        self._stored_to = end
        self._scan.forget(end - _DAY)

    def _tell(self, connection: psycopg.Connection) -> list[tuple[Anomaly, str, Webhook]]:
        telling = self._telling
        recent = max(self._first, datetime.now(UTC) - _DAY)
        found = load(
            connection,
            since=recent,
            model=self._asked.model,
            severity=telling.severity,
            acknowledged=False,
        )
        left = []
        for anomaly in reversed(found):
            if anomaly.id is None or (telling.kinds and anomaly.kind not in telling.kinds):
                continue
            for name, webhook in telling.names().items():
                if not claim(connection, anomaly.id, name):
                    continue
                if webhook is not None:
                    left.append((anomaly, name, webhook))
                    continue
                self._say(anomaly)
                sent(connection, anomaly.id, name)
        return left

    def _say(self, anomaly: Anomaly) -> None:
        self.told += 1
        if not self._telling.quietly:
            logger.warning("anomaly: %s", sentence(anomaly))
        if self._telling.callback is not None:
            try:
                self._telling.callback(anomaly)
            except Exception:
                logger.exception("watch: the callback failed")


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


def webhooks(given: str | Sequence[str] | None) -> tuple[Webhook, ...]:
    """Return webhooks by their URLs: one, several or none.

    Raises:
        InvalidRequestError: one is no URL.
    """
    if given is None:
        return ()
    return tuple(Webhook(url) for url in ([given] if isinstance(given, str) else given))
