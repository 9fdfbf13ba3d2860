"""Which rule decides for a request: the first of the YAML whose conditions hold (floor 1)."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.settings import ConditionSettings, RuleSettings

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Traits(Protocol):
    """What the conditions of a rule look at."""

    @property
    def priority(self) -> str | int | None: ...
    @property
    def tags(self) -> Mapping[str, Any]: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def needs(self) -> frozenset[str]:
        """Capabilities without which the request can't be answered."""

    @property
    def input_tokens(self) -> int:
        """Estimated length of the prompt. Asked for only by rules that need it: it is no small work."""


def first_match(
    rules: Sequence[RuleSettings], traits: Traits, now: datetime | None = None
) -> RuleSettings | None:
    """Return the first rule whose conditions all hold, or None.

    `max_latency_ms` and `max_cost_usd` are no conditions on the request: they bound the models that
    the rule may pick, see `pipeline.candidates`.

    Args:
        now: for rules with a time of day or weekday; default the present.
    """
    return next((rule for rule in rules if failing(rule.conditions, traits, now) is None), None)


def failing(
    conditions: ConditionSettings, traits: Traits, now: datetime | None = None
) -> str | None:
    """Return the first condition that does not hold, in words, or None."""
    wanted = conditions.priority
    if wanted is not None:
        # A priority may be written as 5 or "5", in the YAML as in the call.
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if traits.priority is None or str(traits.priority) not in map(str, allowed):
            given = "none" if traits.priority is None else repr(traits.priority)
            return f"priority is {given}, not {' or '.join(map(str, allowed))}"
    for name, value in conditions.tags.items():
        if name not in traits.tags:
            return f"tag {name} is not given; {value!r} is wanted"
        if traits.tags[name] != value:
            return f"tag {name} is {traits.tags[name]!r}, not {value!r}"
    pattern = conditions.session
    if pattern is not None:
        session = traits.session_id
        if session is None or not fnmatchcase(session, pattern):
            return f"session_id is {session!r}, which does not match {pattern!r}"
    if conditions.depends_on_time and (reason := _off_time(conditions, now)) is not None:
        return reason
    if conditions.capabilities and not traits.needs.issuperset(conditions.capabilities):
        missing = sorted(set(conditions.capabilities) - traits.needs)
        return f"the request does not need {', '.join(missing)}"
    least, most = conditions.min_input_tokens, conditions.max_input_tokens
    if least is None and most is None:
        return None
    tokens = traits.input_tokens
    if least is not None and tokens < least:
        return f"the prompt has about {tokens:,} tokens, fewer than {least:,}"
    if most is not None and tokens > most:
        return f"the prompt has about {tokens:,} tokens, more than {most:,}"
    return None


def _off_time(conditions: ConditionSettings, now: datetime | None) -> str | None:
    local = (now or datetime.now(UTC)).astimezone(ZoneInfo(conditions.time_zone))
    minute = local.hour * 60 + local.minute
    day = local.weekday()
    told = f"it is {WEEKDAYS[day].capitalize()} {local:%H:%M} in {conditions.time_zone}"
    if conditions.time is not None:
        start, end = conditions.minutes
        if start < end:
            within = start <= minute < end
        else:  # over midnight: its early hours belong to the day on which it began
            within = minute >= start or minute < end
            if minute < end:
                day = (day - 1) % 7
        if not within:
            return f"{told}, not within {conditions.time}"
    if conditions.weekdays and WEEKDAYS[day] not in conditions.weekdays:
        return f"{told}, and the rule holds on {', '.join(conditions.weekdays)}"
    return None
