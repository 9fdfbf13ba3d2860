"""How a request would be routed, without sending it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """One rule, and what spoke against it."""

    name: str
    decides: bool
    reason: str
    """Why it decides, or which condition does not hold."""


@dataclass(frozen=True, slots=True)
class ExplainedCandidate:
    """One model, and how it stands for this request."""

    model_id: str
    probability: float
    """With which it would be picked; 0 where it is dropped."""
    score: float | None
    """The strategy's own figure: a weight, an expected cost in USD, a latency in ms, …"""
    dropped: str | None
    """Why it would not be considered, or None."""
    expected_cost_usd: Decimal | None
    expected_latency_ms: float | None
    """To the first token, for a stream; None where the model was not seen yet."""
    expected_output_tokens: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `lab.router.explain` returns: the choice as it would be made now. Shows itself as tables."""

    rule: str | None
    """The rule that decides, if one does."""
    rules: tuple[RuleVerdict, ...]
    """All of them, in order."""
    strategy: str
    epsilon: float
    candidates: tuple[ExplainedCandidate, ...]
    """The likeliest first, those dropped last."""
    input_tokens: int
    """Estimated length of the prompt."""
    needs: tuple[str, ...]
    """Capabilities without which the request can't be answered."""
    reason: str | None
    """Why another strategy than the one that was asked for would decide."""
    refused: str | None
    """Why nothing would be sent at all, if so."""

    def __getitem__(self, model_id: str) -> ExplainedCandidate:
        for candidate in self.candidates:
            if candidate.model_id == model_id:
                return candidate
        raise KeyError(f"{model_id!r} is no candidate of this request")

    def __str__(self) -> str:
        lines = [
            f"strategy {self.strategy}, "
            + ("no rule decides" if self.rule is None else f"by rule {self.rule}")
        ]
        lines += [f"  rule {r.name}: {r.reason}" for r in self.rules]
        if self.reason is not None:
            lines.append(f"  {self.reason}")
        if self.refused is not None:
            lines.append(f"  refused: {self.refused}")
        for c in self.candidates:
            told = f"dropped: {c.dropped}" if c.dropped else f"probability {c.probability:.3g}"
            lines.append(f"  {c.model_id}: {told}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from novellus_lab.display import duration, money, table_html

        rows = [
            (
                c.model_id,
                f"dropped: {c.dropped}" if c.dropped else f"{c.probability:.3g}",
                "" if c.score is None else f"{c.score:.4g}",
                money(c.expected_cost_usd),
                "not seen" if c.expected_latency_ms is None else duration(c.expected_latency_ms),
                f"{c.expected_output_tokens:,}",
                str(c.in_flight),
            )
            for c in self.candidates
        ]
        header = (
            "candidate",
            "probability",
            "score",
            "expected cost",
            "expected latency",
            "expected tokens",
            "under way",
        )
        about = [
            f"strategy {self.strategy}",
            "no rule decides" if self.rule is None else f"rule {self.rule}",
            f"about {self.input_tokens:,} tokens",
        ]
        if self.needs:
            about.append(f"needs {', '.join(self.needs)}")
        if self.epsilon:
            about.append(f"{self.epsilon:.3g} of calls explore")
        about += [text for text in (self.reason, self.refused) if text is not None]
        shown = table_html(header, rows, about)
        if not self.rules:
            return shown
        verdicts = [(r.name, "decides" if r.decides else "", r.reason) for r in self.rules]
        return table_html(("rule", "", "why"), verdicts) + shown
