"""What a budget is: how much, for how long, and whose calls count."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from novellus_lab.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

Per = Literal["day", "month", "total"]
OnExceed = Literal["warn", "downgrade", "refuse"]

EACH = "*"
"""In a scope: every value has the whole budget for itself."""
_NOBODY: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class CallScope:
    """What of a call decides whose budgets it counts in."""

    model_id: str
    tags: Mapping[str, Any] = field(default_factory=lambda: _NOBODY)
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose calls count: those for which all that is stated holds; nothing stated: all of the lab's.

    Each is a value, or `*` for a budget that every value has for itself.
    """

    model: str | None = None
    tag: str | None = None
    """`key=value` or `key=*`."""
    session: str | None = None

    def subject(self, call: CallScope) -> str | None:
        """Return whom a call counts for ("" where the budget is one), or None if it does not count."""
        subject = []
        if self.model is not None:
            if self.model == EACH:
                subject.append(call.model_id)
            elif self.model != call.model_id:
                return None
        if self.tag is not None:
            key, _, wanted = self.tag.partition("=")
            if key not in call.tags:
                return None
            value = _text(call.tags[key])
            if wanted == EACH:
                subject.append(f"{key}={value}")
            elif wanted != value:
                return None
        if self.session is not None:
            if call.session_id is None:
                return None
            if self.session == EACH:
                subject.append(call.session_id)
            elif self.session != call.session_id:
                return None
        return ", ".join(subject)


@dataclass(frozen=True, slots=True)
class Budget:
    """One entry of `budgets`.

    Raises:
        ConfigurationError: it makes no sense.
    """

    name: str
    usd: Decimal
    per: Per = "month"
    scope: Scope = field(default_factory=Scope)
    on_exceed: OnExceed = "refuse"
    """`refuse` is hard: no call is sent that might pass it. `downgrade` asks the router for cheaper
    models once it is spent, `warn` only tells."""
    warn_at: float = 0.8
    """Share of it at which a warning is logged, once a period."""
    time_zone: str = "UTC"
    """Where days and months begin."""

    def __post_init__(self) -> None:
        if not self.usd.is_finite() or self.usd < 0:
            raise ConfigurationError(
                f"budget {self.name!r}: usd must be a number of dollars from 0 on, not {self.usd}"
            )
        if self.per not in ("day", "month", "total"):
            raise ConfigurationError(
                f"budget {self.name!r}: per must be day, month or total, not {self.per!r}"
            )
        if self.on_exceed not in ("warn", "downgrade", "refuse"):
            raise ConfigurationError(
                f"budget {self.name!r}: on_exceed must be warn, downgrade or refuse, not "
                f"{self.on_exceed!r}"
            )
        tag = self.scope.tag
        if tag is not None and not all(tag.partition("=")):
            raise ConfigurationError(
                f"budget {self.name!r}: scope.tag must look like team=search or user=*, not {tag!r}"
            )
        _check_zone(self.name, self.time_zone)

    @property
    def hard(self) -> bool:
        return self.on_exceed == "refuse"

    @property
    def key(self) -> str:
        """The same in every process that means the same; its amount may be changed meanwhile."""
        scope = self.scope
        means = "\0".join(
            (self.per, self.time_zone, *(v or "" for v in (scope.model, scope.tag, scope.session)))
        )
        return f"{self.name}:{blake2b(means.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Counter:
    """What is counted for one budget and one subject, in whatever period it is."""

    budget: Budget
    subject: str
    key: str
    """Of the budget."""
    limit_usd: Decimal | None
    """None: soft."""

    @property
    def place(self) -> tuple[str, str]:
        return self.key, self.subject

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.budget.name!r}" + (f" of {self.subject}" if self.subject else "")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_zone(name: str, zone: str) -> None:
    if zone == "UTC":
        return
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"budget {name!r}: time_zone must be a name such as Europe/Berlin or UTC, not {zone!r}"
        ) from None
