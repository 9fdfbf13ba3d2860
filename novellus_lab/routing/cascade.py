"""Cascade: ask a cheap model first, and a dearer one where a check on the answer says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from novellus_lab.errors import ConfigurationError
from novellus_lab.routing.answer_checks import DEFAULT, make_check, why_not_good
from novellus_lab.routing.strategies import CostOptimized, Strategy
from novellus_lab.types import EMPTY, Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from novellus_lab.routing.answer_checks import Answer, Check
    from novellus_lab.routing.strategies import Option, RoutingContext


class Cascade(Strategy):
    """Cheapest model first; the next one where a check on the answer says so.

    Args:
        order: model ids, weakest first; default: by expected cost.
        check: what an answer must pass, one or several: `not_empty`, `complete`, `not_refused`, `sure`,
            `json`, `structured` (JSON where JSON was asked for), `{min_length: 40}`, the name of one
            that was registered, or `module:function`.
        max_steps: models that are asked at most.
    """

    name = "cascade"

    def __init__(
        self,
        order: Sequence[str] = (),
        check: Any = DEFAULT,
        max_steps: int = 3,
        *,
        checks: Mapping[str, Check] = EMPTY,
    ) -> None:
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise ConfigurationError(f"cascade: max_steps must be at least 1, not {max_steps!r}")
        several = list(check) if isinstance(check, (list, tuple)) else [check]
        self._order = tuple(order)
        self._checks = [make_check(one, checks) for one in several]
        self.max_steps = max_steps

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        by_cost = CostOptimized().judge(options, context)
        if not self._order:
            return by_cost
        place = {model_id: n for n, model_id in enumerate(self._order)}
        ordered = sorted(by_cost, key=lambda c: place.get(c.model_id, len(place)))
        return [
            Candidate(c.model_id, 1.0 if n == 0 else 0.0, c.score) for n, c in enumerate(ordered)
        ]

    def why_escalate(self, answer: Answer) -> str | None:
        """Return why a stronger model should be asked, or None."""
        return why_not_good(self._checks, answer)
