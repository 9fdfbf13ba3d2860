"""Which rule decides for a request: the first of the YAML whose conditions hold (floor 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.settings import ConditionSettings, RuleSettings


class Traits(Protocol):
    """What the conditions of a rule look at."""

    @property
    def priority(self) -> str | int | None: ...
    @property
    def tags(self) -> Mapping[str, Any]: ...
    @property
    def needs(self) -> frozenset[str]:
        """Capabilities without which the request can't be answered."""

    @property
    def input_tokens(self) -> int:
        """Estimated length of the prompt. Asked for only by rules that need it: it is no small work."""


def first_match(rules: Sequence[RuleSettings], traits: Traits) -> RuleSettings | None:
    """Return the first rule whose conditions all hold, or None.

    `max_latency_ms` and `max_cost_usd` are no conditions on the request: they bound the models that
    the rule may pick, see `pipeline.candidates`.
    """
    return next((rule for rule in rules if _holds(rule.conditions, traits)), None)


def _holds(conditions: ConditionSettings, traits: Traits) -> bool:
    wanted = conditions.priority
    if wanted is not None:
        # A priority may be written as 5 or "5", in the YAML as in the call.
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if traits.priority is None or str(traits.priority) not in map(str, allowed):
            return False
    for name, value in conditions.tags.items():
        if name not in traits.tags or traits.tags[name] != value:
            return False
    if conditions.capabilities and not traits.needs.issuperset(conditions.capabilities):
        return False
    least, most = conditions.min_input_tokens, conditions.max_input_tokens
    if least is None and most is None:
        return True
    tokens = traits.input_tokens
    return (least is None or tokens >= least) and (most is None or tokens <= most)
