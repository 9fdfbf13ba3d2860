"""What `lab.monitor.watch` returns: a watcher in the background of a lab."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from novellus_lab.monitoring.anomaly import Anomaly
    from novellus_lab.monitoring.watcher import Watcher
    from novellus_lab.pipeline.loop_thread import LoopThread

_STOP_S = 4.0
"""Less than what a closing lab gives to whatever still runs in it."""


class Watch:
    """A watcher at work: `watch.stop()`, or `with lab.monitor.watch(…):`. It ends with its lab."""

    def __init__(self, watcher: Watcher, thread: LoopThread) -> None:
        self._watcher = watcher
        self._thread = thread
        watcher.start()
        self._held = thread.start(self._hold, lambda: None)

    async def _hold(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._watcher.stop_soon()
            await asyncio.to_thread(self._watcher.stop, _STOP_S)

    def stop(self, timeout: float = 10.0) -> None:
        """Stop looking, and wait for what is under way. Idempotent."""
        self._watcher.stop(timeout)
        self._thread.cancel(self._held)

    @property
    def running(self) -> bool:
        return self._watcher.running

    @property
    def looks(self) -> int:
        """How many times the log was looked at."""
        return self._watcher.looks

    @property
    def told(self) -> int:
        """How many anomalies it told of."""
        return self._watcher.told

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"Watch({state}, {self.looks} looks, {self.told} anomalies told)"


def watcher_of(
    conninfo: str,
    *,
    callback: Callable[[Anomaly], object] | None,
    every: float | timedelta,
    webhook: str | Sequence[str] | None,
    since: str | timedelta,
    model: str | None,
    kinds: str | Sequence[str] | None,
    severity: str | None,
    metrics: str | Sequence[str] | None,
    bucket: str | float | timedelta | None,
    false_alarms: float,
    settle: float | timedelta,
    name: str,
    quietly: bool = False,
) -> Watcher:
    """Return a watcher by what a person asked for; arguments as of `lab.monitor.watch`.

    Raises:
        InvalidRequestError: an argument is wrong.
        MissingDependencyError: NumPy is not installed.
    """
    try:
        from novellus_lab.monitoring.watcher import Telling, Watcher, webhooks
    except ImportError as error:
        raise MissingDependencyError(
            f"watching needs {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    from novellus_lab.analytics.requests import moment
    from novellus_lab.monitoring.anomaly import AnomalyKind, Severity, one_of
    from novellus_lab.monitoring.log_buckets import bucket_width
    from novellus_lab.monitoring.scan import Watching
    from novellus_lab.monitoring.watched import watched

    if not isinstance(name, str) or not name or len(name) > 100:
        raise InvalidRequestError(f"name must be a text of 1 to 100 characters, not {name!r:.80}")
    if callback is not None and not callable(callback):
        raise InvalidRequestError(f"callback must be a function, not {callback!r:.80}")
    start = moment("since", since)
    now = datetime.now(UTC)
    if start is None or start >= now:
        raise InvalidRequestError(f"since must be a duration such as '1h', not {since!r:.80}")
    wanted = [kinds] if isinstance(kinds, str) else kinds
    return Watcher(
        conninfo,
        Watching(timedelta(minutes=1), false_alarms, watched(metrics), model),
        Telling(
            name=name,
            callback=callback,
            webhooks=webhooks(webhook),
            severity=None if severity is None else one_of(Severity, "severity", severity),
            kinds=None
            if wanted is None
            else frozenset(one_of(AnomalyKind, "kinds", kind) for kind in wanted),
            quietly=quietly,
        ),
        bucket=None if bucket is None else bucket_width(bucket),
        every_s=_seconds("every", every),
        settle_s=_seconds("settle", settle),
        since=now - start,
    )


def _seconds(argument: str, given: float | timedelta) -> float:
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1e7:
        raise InvalidRequestError(f"{argument} must be a number of seconds, not {given!r:.80}")
    return float(given)
