"""Whom not to ask for a while: one circuit breaker a model.

A circuit is *closed* while calls go through, *open* while none does, *half-open* while a few probe
whether the model is back. It opens on the provider's faults only:

| what came of a call | counts as |
| --- | --- |
| timeout, lost connection, 5xx, an answer that can't be read | a failure: it opens at `failure_share` of a decayed window, or after `consecutive_failures` |
| the key is refused, or the account has no credit | opens at once, for `auth_cooldown_s`: no retry mends a key, and each attempt costs a round trip |
| 429 | no failure: the model *cools* for as long as it asked, then is as it was |
| a bad request, a prompt too long, a filtered answer | an answer: somebody was there to say no |
| our own limit or budget, a caller who left | nothing |

Every call of a model that did not come to an end before its circuit changed is heard no more: an
old success does not close an open circuit, an old failure does not open it again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Literal

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextWindowExceededError,
    DeadlineExceededError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open", "cooling"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a circuit opens, and for how long."""

    failure_share: float = 0.5
    """Of the window's calls, from which on the circuit opens …"""
    min_calls: float = 10.0
    """… if the window holds this many."""
    consecutive_failures: int = 5
    """In a row; they open it whatever the window holds."""
    half_life_s: float = 30.0
    """After which a call counts half in the window."""
    cooldown_s: float = 5.0
    """First time open; it doubles with each probe that fails."""
    max_cooldown_s: float = 300.0
    auth_cooldown_s: float = 300.0
    """First time open after the key was refused; it doubles up to an hour."""
    max_retry_after_s: float = 3600.0
    """A provider's retry-after is honoured up to this: nobody is written off for days."""
    probes: int = 2
    """Calls let through while half-open; when all of them succeed the circuit closes."""
    probe_timeout_s: float = 120.0
    """A probe of which nothing was heard for so long is given to somebody else."""
    patience_s: float = 10.0
    """A call that ended by its own deadline says something of the model if it had this long."""
    jitter: float = 0.2
    """Share by which a time open is drawn out at random, so that processes don't probe together."""


@dataclass(frozen=True, slots=True)
class CircuitState:
    """What a breaker thinks of one model."""

    model_id: str
    state: State
    calls: float
    """Decayed number of calls in the window."""
    failure_share: float | None
    """Of those; None if there were none."""
    consecutive_failures: int
    wait_s: float
    """Until it may be called again; 0 when it may be."""
    reason: str | None
    """What opened it, or why it cools."""


@dataclass(slots=True)
class _Circuit:
    calls: float = 0.0
    failures: float = 0.0
    at: float = 0.0
    """When the two were last decayed."""
    consecutive: int = 0
    epoch: int = 0
    """Grows with each change of state; a call that began in another one is not heard."""
    opened: bool = False
    auth: bool = False
    reason: str = ""
    open_until: float = 0.0
    cooldown_s: float = 0.0
    probing: int = 0
    succeeded: int = 0
    """Probes, since it was opened."""
    probe_at: float = 0.0
    cooling_until: float = 0.0
    cooling_reason: str = ""
    cooldowns: int = 0
    """429s without a retry-after since the last answer."""


class CircuitBreaker:
    """One for all models of a lab; safe from any thread, every method in constant time.

    Around a call: `ticket = breaker.enter(model_id)`, then one of `on_success`, `on_failure` and
    `on_abandoned` with that ticket. A rank of candidates asks `allows`, which changes nothing.

    Args:
        policy: the same for all models.
        clock: seconds, monotonic.
        random: for jitter.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._random = random or Random()
        self._circuits: dict[str, _Circuit] = {}
        self._restless: set[str] = set()
        """Whose circuit is not simply closed."""
        self._lock = Lock()

    def allows(self, model_id: str) -> str | None:
        """Return None if a call may go to this model now, else why not. Changes nothing."""
        circuit = self._circuits.get(model_id)
        if circuit is None or not (circuit.opened or circuit.cooling_until):
            return None  # the common case: no lock, no clock
        return self._why_not(circuit, self._clock())

    @property
    def quiet(self) -> bool:
        """Whether calls may go to all models: `allows` has nothing against any."""
        return not self._restless

    def wait_s(self, model_id: str) -> float:
        """Return the seconds until this model may be called again; 0 when it may be, or is probed."""
        circuit = self._circuits.get(model_id)
        return 0.0 if circuit is None else _wait_s(circuit, self._clock())

    def is_open(self, model_id: str) -> bool:
        """Return whether its calls failed (or its key was refused); cooling is not that."""
        circuit = self._circuits.get(model_id)
        return circuit is not None and circuit.opened

    def enter(self, model_id: str, *, force: bool = False) -> int | None:
        """Begin a call: return its ticket, or None where `allows` has a reason against it.

        Args:
            force: call all the same (the caller named this model, or no other is left). What comes
                of it counts as a probe's outcome.
        """
        circuit = self._circuits.get(model_id)
        if circuit is None:
            with self._lock:
                circuit = self._circuits.setdefault(model_id, _Circuit())
        if not (circuit.opened or circuit.cooling_until):
            return circuit.epoch
        with self._lock:
            now = self._clock()
            if not force and self._why_not(circuit, now) is not None:
                return None
            if circuit.opened:
                if now - circuit.probe_at >= self._policy.probe_timeout_s:
                    circuit.probing = 0
                circuit.probing += 1
                circuit.probe_at = now
            return circuit.epoch

    def on_success(self, model_id: str, ticket: int) -> None:
        """The model answered."""
        circuit = self._circuits[model_id]
        with self._lock:
            if ticket != circuit.epoch:
                return
            # One that began before the 429 and is answered after it does not end the cooling.
            if circuit.cooling_until and circuit.cooling_until <= self._clock():
                circuit.cooling_until, circuit.cooldowns = 0.0, 0
                self._watch(model_id, circuit)
            if circuit.opened:
                circuit.probing = max(0, circuit.probing - 1)
                circuit.succeeded += 1
                if circuit.succeeded >= self._policy.probes:
                    self._close(circuit)
                    self._watch(model_id, circuit)
                return
            self._decay(circuit)
            circuit.calls += 1.0
            circuit.consecutive = 0

    def on_failure(
        self, model_id: str, ticket: int, error: BaseException, *, waited_s: float | None = None
    ) -> None:
        """The call ended with an error, whoever's fault it was.

        Args:
            waited_s: how long the model had. Only a `DeadlineExceededError` is judged by it.
        """
        if isinstance(error, RateLimitError):
            if error.never_sent:
                self.on_abandoned(
                    model_id, ticket
                )  # our own limit: the provider knows nothing of it
            else:
                self._cool(model_id, ticket, error)
        elif isinstance(error, AuthenticationError):
            self._fail(model_id, ticket, error, auth=True)
        elif _is_the_providers(error) or (
            isinstance(error, DeadlineExceededError)
            and (waited_s or 0.0) >= self._policy.patience_s
        ):
            self._fail(model_id, ticket, error)
        elif isinstance(error, (BadRequestError, ContextWindowExceededError, ContentFilteredError)):
            self.on_success(model_id, ticket)
        else:
            self.on_abandoned(model_id, ticket)

    def on_abandoned(self, model_id: str, ticket: int) -> None:
        """The call says nothing of the model: it was cancelled, or never sent."""
        circuit = self._circuits[model_id]
        with self._lock:
            if ticket == circuit.epoch and circuit.opened:
                circuit.probing = max(0, circuit.probing - 1)

    def reset(self, model_id: str | None = None) -> None:
        """Forget what was held against a model, or against all (a key was mended, say)."""
        with self._lock:
            for name in [model_id] if model_id is not None else list(self._circuits):
                if (circuit := self._circuits.get(name)) is not None:
                    self._close(circuit)
                    circuit.cooling_until, circuit.cooldowns = 0.0, 0
                    self._watch(name, circuit)

    def state(self) -> dict[str, CircuitState]:
        """Return what is thought of each model that was called so far."""
        with self._lock:
            now = self._clock()
            return {name: self._shown(name, c, now) for name, c in self._circuits.items()}

    # --- with the lock held ------------------------------------------------------------------

    def _why_not(self, circuit: _Circuit, now: float) -> str | None:
        if circuit.cooling_until > now:
            return f"{circuit.cooling_reason}; asked again in {circuit.cooling_until - now:.1f} s"
        if not circuit.opened:
            return None
        if circuit.open_until > now:
            return f"circuit open: {circuit.reason}; probed in {circuit.open_until - now:.1f} s"
        busy = circuit.probing + circuit.succeeded >= self._policy.probes
        if busy and circuit.probing and now - circuit.probe_at < self._policy.probe_timeout_s:
            return f"circuit half-open: {circuit.reason}; others are probing it"
        return None

    def _cool(self, model_id: str, ticket: int, error: RateLimitError) -> None:
        circuit = self._circuits[model_id]
        with self._lock:
            now = self._clock()
            if ticket == circuit.epoch and circuit.opened:
                circuit.probing = max(0, circuit.probing - 1)
            if error.retry_after_s is not None:
                wait_s = min(max(error.retry_after_s, 0.0), self._policy.max_retry_after_s)
            elif circuit.cooling_until > now:
                return  # one of a burst: the first has said it
            else:
                wait_s = min(
                    self._policy.max_cooldown_s, self._policy.cooldown_s * 2.0**circuit.cooldowns
                )
                circuit.cooldowns = min(circuit.cooldowns + 1, 30)
            until = now + wait_s * self._drawn_out()
            if until > circuit.cooling_until:
                circuit.cooling_until = until
                circuit.cooling_reason = "rate limited by the provider"
                self._watch(model_id, circuit)

    def _fail(
        self, model_id: str, ticket: int, error: BaseException, *, auth: bool = False
    ) -> None:
        circuit = self._circuits[model_id]
        with self._lock:
            if ticket != circuit.epoch:
                return
            if circuit.opened:
                self._open(circuit, error, auth=auth)
                return
            self._decay(circuit)
            circuit.calls += 1.0
            circuit.failures += 1.0
            circuit.consecutive += 1
            policy = self._policy
            # Each call loses weight from the moment it is counted: half a call of slack.
            enough = circuit.calls >= policy.min_calls - 0.5
            if (
                auth
                or circuit.consecutive >= policy.consecutive_failures
                or (enough and circuit.failures >= policy.failure_share * circuit.calls)
            ):
                self._open(circuit, error, auth=auth)
                self._watch(model_id, circuit)

    def _open(self, circuit: _Circuit, error: BaseException, *, auth: bool) -> None:
        policy = self._policy
        first, most = policy.cooldown_s, policy.max_cooldown_s
        if auth:
            first, most = policy.auth_cooldown_s, max(policy.auth_cooldown_s, 3600.0)
        again = circuit.opened and circuit.auth == auth
        circuit.cooldown_s = min(most, circuit.cooldown_s * 2 if again else first)
        asked = getattr(error, "retry_after_s", None) or 0.0
        wait_s = max(circuit.cooldown_s, min(asked, policy.max_retry_after_s))
        what = type(error).__name__
        if auth:
            circuit.reason = f"{what}, its key or account is refused"
        elif circuit.opened:
            circuit.reason = f"{what} of a probe"
        else:
            circuit.reason = (
                f"{circuit.failures:.0f} of {circuit.calls:.0f} calls failed, last {what}"
            )
        circuit.opened, circuit.auth = True, auth
        circuit.open_until = self._clock() + wait_s * self._drawn_out()
        circuit.probing = circuit.succeeded = 0
        circuit.epoch += 1

    def _close(self, circuit: _Circuit) -> None:
        circuit.opened = circuit.auth = False
        circuit.calls = circuit.failures = 0.0
        circuit.consecutive = circuit.probing = circuit.succeeded = 0
        circuit.cooldown_s = circuit.open_until = 0.0
        circuit.epoch += 1

    def _watch(self, model_id: str, circuit: _Circuit) -> None:
        if circuit.opened or circuit.cooling_until:
            self._restless.add(model_id)
        else:
            self._restless.discard(model_id)

    def _decay(self, circuit: _Circuit) -> None:
        now = self._clock()
        if circuit.calls:
            factor = math.exp2((circuit.at - now) / self._policy.half_life_s)
            circuit.calls *= factor
            circuit.failures *= factor
        circuit.at = now

    def _drawn_out(self) -> float:
        """At least what was asked for: coming back early is what nobody wants."""
        return 1.0 + self._policy.jitter * self._random.random()

    def _shown(self, model_id: str, circuit: _Circuit, now: float) -> CircuitState:
        factor = math.exp2((circuit.at - now) / self._policy.half_life_s)
        cooling = circuit.cooling_until > now
        state: State = "closed"
        if circuit.opened:
            state = "open" if circuit.open_until > now else "half_open"
        elif cooling:
            state = "cooling"
        return CircuitState(
            model_id=model_id,
            state=state,
            calls=circuit.calls * factor,
            failure_share=circuit.failures / circuit.calls if circuit.calls else None,
            consecutive_failures=circuit.consecutive,
            wait_s=_wait_s(circuit, now),
            reason=circuit.reason
            if circuit.opened
            else circuit.cooling_reason
            if cooling
            else None,
        )


def _wait_s(circuit: _Circuit, now: float) -> float:
    until = max(circuit.cooling_until, circuit.open_until if circuit.opened else 0.0)
    return max(0.0, until - now) if until else 0.0


def _is_the_providers(error: BaseException) -> bool:
    if isinstance(error, (ProviderTimeoutError, ProviderUnavailableError)):
        return True
    return isinstance(error, ProviderError) and (error.status_code or 0) >= 500
