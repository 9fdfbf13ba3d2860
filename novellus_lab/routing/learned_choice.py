"""Strategy `learned`: a trained router says whether this prompt is worth the strong model."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import ConfigurationError
from novellus_lab.routing.strategies import Strategy
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.routing.strategies import Option, RoutingContext


class Learned(Strategy):
    """The strong model where a trained router thinks it worth its price, else the weak one.

    Args:
        router: the name it was trained under (`lab.router.train(…, name=…)`).
        strong_share: share of calls that go to the strong model …
        min_quality: … or the share of the strong model's quality that is kept, at fewest strong calls …
        threshold: … or the win probability from which on it is worth it …
        value_usd: … or what a right answer instead of a wrong one is worth: the strong model is asked
            where its expected gain is worth more than what this very call costs more.
            Default: strong_share 0.5.
    """

    name = "learned"

    def __init__(
        self,
        router: str = "default",
        strong_share: float | None = None,
        min_quality: float | None = None,
        threshold: float | None = None,
        value_usd: Any = None,
    ) -> None:
        wishes = [strong_share, min_quality, threshold, value_usd]
        if sum(wish is not None for wish in wishes) > 1:
            raise ConfigurationError(
                "learned: state one of strong_share, min_quality, threshold and value_usd"
            )
        for wish, value in zip(("strong_share", "min_quality", "threshold"), wishes, strict=False):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= 1):
                raise ConfigurationError(f"learned: {wish} must be from 0 to 1, not {value!r}")
        try:
            self._value_usd = None if value_usd is None else Decimal(str(value_usd))
        except ArithmeticError:
            raise ConfigurationError(
                f"learned: value_usd must be an amount of US dollars, not {value_usd!r}"
            ) from None
        self.router = router
        self._wish = (
            {"min_quality": min_quality}
            if min_quality is not None
            else {"strong_share": 0.5 if strong_share is None else strong_share}
        )
        self._threshold = threshold
        self._least: tuple[Any, float] | None = None
        """Of the router that was asked last: its threshold, which takes a while to compute."""

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        trained = None if context.router is None else context.router(self.router)
        if trained is None:
            raise LookupError(f"no router {self.router!r} was trained: lab.router.train(…)")
        summary = trained.summary
        by_id = {option.model_id: option for option in options}
        weak, strong = by_id.get(summary.weak_model), by_id.get(summary.strong_model)
        if weak is None and strong is None:
            raise LookupError(
                f"router {self.router!r} chooses between {summary.weak_model} and "
                f"{summary.strong_model}, and neither is a candidate"
            )
        prompt = context.asked.last_user_text
        win = trained.win_probability(prompt)
        if weak is None or strong is None:
            first = weak or strong
            pair = [first] if first is not None else []
        else:
            pair = (
                [strong, weak]
                if self._worth_it(trained, prompt, win, weak, strong, context)
                else [weak, strong]
            )
        order = [o.model_id for o in pair]
        order += sorted(
            (o.model_id for o in options if o not in pair), key=lambda m: -by_id[m].priority
        )
        scores = {summary.strong_model: win, summary.weak_model: 1 - win}
        return [Candidate(m, 1.0 if n == 0 else 0.0, scores.get(m)) for n, m in enumerate(order)]

    def _worth_it(
        self,
        trained: Any,
        prompt: str,
        win: float,
        weak: Option,
        strong: Option,
        context: RoutingContext,
    ) -> bool:
        if self._value_usd is not None:
            expected = context.estimates.expected_cost_usd
            dear, cheap = expected(strong.model_id), expected(weak.model_id)
            if dear is None or cheap is None:
                raise LookupError("value_usd is stated, and what a model costs is not known")
            return bool(Decimal(trained.expected_gain(prompt)) * self._value_usd > dear - cheap)
        if self._threshold is not None:
            return win >= self._threshold
        least = self._least
        if least is None or least[0] is not trained:
            found = trained.threshold_for(**self._wish).win_probability
            least = self._least = (trained, found)
        return win >= least[1]
