"""The score from which a hit may be served, found on labelled pairs, with a bound that holds.

Bounded is P(wrong | hit): of the answers served from the semantic cache, the share given to a
question that asks something else. Where no hit is served, none is wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a threshold would give on the pairs that were looked at, each with its 95% interval."""

    threshold: float
    hits: int
    errors: int
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what is known of it. It holds for pairs that are drawn as the labelled ones were."""

    threshold: float
    max_error_rate: float
    confidence: float
    bound: float
    """Upper bound of P(wrong | hit) at the threshold: holds in `confidence` of calibrations."""
    pairs: int
    positives: int
    hits: int
    errors: int
    recall: float
    curve: tuple[CurvePoint, ...]
    embedding_model: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        raw = json.loads(text)
        raw["curve"] = tuple(CurvePoint(**point) for point in raw["curve"])
        return cls(**raw)


def calibrate(
    scores: Sequence[float],
    labels: Sequence[bool | int],
    max_error_rate: float,
    confidence: float = 0.95,
    *,
    embedding_model: str = "",
) -> Calibration:
    """Find the lowest threshold whose share of wrong hits is surely at most `max_error_rate`.

    "Learn then test" (Angelopoulos, Bates, Candès, Jordan, Lei 2021) with fixed-sequence testing:
    thresholds are tried from the strictest down, each by the exact binomial (Clopper-Pearson) test
    of "more than `max_error_rate` of its hits are wrong", and the search ends at the first that
    can't be refuted. Which ones are tried is fixed before any label is seen, by ranks of the scores:
    from the fewest hits that can refute anything, each with about 3% more hits than the last.

    What this rests on: pairs are independent, and a lower score is no better than a higher one
    (then of the pairs above the first bad threshold each is wrong with at least the rate tested,
    and only that one test can go wrong). Ties stay together.

    Args:
        scores: of pairs that are drawn as the pairs in use will be. Independent ones: many pairs
            of one question count as many, and are not.
        labels: whether both of a pair ask the same.
        max_error_rate: largest share of wrong hits, above 0 and below 1.
        confidence: of the bound, over repeated calibrations.
        embedding_model: kept with the result.

    Raises:
        InvalidRequestError: arguments are wrong, or so few pairs score high that nothing can be
            said at this rate; the message says how many it would take.
    """
    _check_rates(max_error_rate, confidence)
    if len(scores) != len(labels):
        raise InvalidRequestError(
            f"{len(scores)} scores and {len(labels)} labels: there must be one label a pair"
        )
    if any(math.isnan(score) for score in scores):
        raise InvalidRequestError("a score is not a number")
    ranked = sorted(
        ((float(score), bool(label)) for score, label in zip(scores, labels, strict=True)),
        key=lambda pair: -pair[0],
    )
    served = sum(1 for score, _ in ranked if score > 0)
    needed = hits_needed(max_error_rate, confidence)
    if served < needed:
        raise InvalidRequestError(
            f"to hold an error rate of {max_error_rate:.2%} with confidence {confidence:.0%} at least "
            f"{needed} labelled pairs must be hits, all of them right; {served} of the {len(ranked)} "
            f"pairs given can be hits. Label more pairs, or allow a higher rate: {served} hits can show "
            f"{upper_bound(0, served, confidence):.2%} at best"
        )
    wrong_so_far = [0]
    for _, same in ranked:
        wrong_so_far.append(wrong_so_far[-1] + (not same))
    found: tuple[float, int, int] | None = None
    first: tuple[int, int] | None = None
    for hits in _looks(ranked, needed, served):
        errors = wrong_so_far[hits]
        first = first or (hits, errors)
        if upper_bound(errors, hits, confidence) > max_error_rate:
            break
        found = (ranked[hits - 1][0], hits, errors)
    positives = sum(1 for _, same in ranked if same)
    if found is None:
        hits, errors = first or (0, 0)
        raise InvalidRequestError(
            f"no threshold holds an error rate of {max_error_rate:.2%}: of the {hits} pairs that score "
            f"highest {errors} are wrong, where at most {_most_errors(hits, max_error_rate, confidence)} "
            f"may be. Check their labels, or allow a higher rate"
        )
    threshold, hits, errors = found
    return Calibration(
        threshold=threshold,
        max_error_rate=max_error_rate,
        confidence=confidence,
        bound=upper_bound(errors, hits, confidence),
        pairs=len(ranked),
        positives=positives,
        hits=hits,
        errors=errors,
        recall=(hits - errors) / positives if positives else 0.0,
        curve=_curve(ranked, wrong_so_far, positives),
        embedding_model=embedding_model,
    )


def hits_needed(max_error_rate: float, confidence: float = 0.95) -> int:
    """Return how many hits, all right, it takes to bound the error rate: 299 for 1% at 95%."""
    _check_rates(max_error_rate, confidence)
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_error_rate))


def upper_bound(errors: int, trials: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson upper bound of a rate: exact for any size."""
    if errors >= trials:
        return 1.0
    return _solve(lambda rate: _tail_at_most(errors, trials, rate) - (1 - confidence))


def lower_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a rate."""
    return 1 - upper_bound(trials - successes, trials, confidence) if trials else 0.0


def interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Clopper-Pearson interval of a rate; (0, 1) where nothing was tried."""
    if not trials:
        return (0.0, 1.0)
    side = 1 - (1 - confidence) / 2
    return (lower_bound(successes, trials, side), upper_bound(successes, trials, side))


@dataclass(frozen=True, slots=True)
class JudgedHits:
    """Served hits of which a random sample was judged: an error rate that may be watched all the time.

    The bound is anytime-valid: it holds at all sample sizes at once, so one may look after every
    judgement and stop when one likes. It inverts a betting martingale: errors are mixed over a
    Beta(1/2, 1/2) prior, and by Ville's inequality the mixture's likelihood ratio against the true
    rate exceeds 1 / (1 - confidence) at any time with at most that probability (Robbins 1970;
    Howard, Ramdas, McAuliffe, Sekhon 2021).

    Hits must be sampled without regard to whether they are right.
    """

    judged: int = 0
    wrong: int = 0

    def with_judgement(self, right: bool) -> JudgedHits:
        """Return this and one more."""
        return JudgedHits(self.judged + 1, self.wrong + (not right))

    def upper_bound(self, confidence: float = 0.95) -> float:
        """Return the upper bound of the share of wrong hits among all served; 1 before any was judged."""
        if not 0 < confidence < 1:
            raise InvalidRequestError(f"confidence must be between 0 and 1, not {confidence!r}")
        if self.wrong >= self.judged:
            return 1.0
        right = self.judged - self.wrong
        mixture = (
            math.lgamma(self.wrong + 0.5)
            + math.lgamma(right + 0.5)
            - math.lgamma(self.judged + 1)
            - math.log(math.pi)
        )
        limit = -math.log(1 - confidence)
        low, high = self.wrong / self.judged, 1.0

        def evidence(rate: float) -> float:
            likelihood = right * math.log1p(-rate)
            if self.wrong:
                likelihood += self.wrong * math.log(rate)
            return mixture - likelihood

        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if middle >= 1 or evidence(middle) >= limit:
                high = middle
            else:
                low = middle
        return high


def judged(judgements: Iterable[bool]) -> JudgedHits:
    """Return what a sequence of judgements (True: the answer fitted) says."""
    right = list(judgements)
    return JudgedHits(len(right), sum(1 for one in right if not one))


def _looks(ranked: list[tuple[float, bool]], first: int, last: int) -> Iterator[int]:
    """Yield numbers of hits at which to test: ties whole, about 3% more each time."""
    at = first
    while at <= last:
        while at < last and ranked[at][0] == ranked[at - 1][0]:
            at += 1
        yield at
        if at == last:
            return
        at = min(last, at + max(1, at // 32))


def _curve(
    ranked: list[tuple[float, bool]], wrong: list[int], positives: int, points: int = 100
) -> tuple[CurvePoint, ...]:
    ends = [
        i for i in range(1, len(ranked) + 1) if i == len(ranked) or ranked[i][0] < ranked[i - 1][0]
    ]
    step = max(1, len(ends) // points)
    chosen = sorted({*ends[::step], ends[-1]}) if ends else []
    curve = []
    for hits in chosen:
        errors = wrong[hits]
        right = hits - errors
        precision_low, precision_high = interval(right, hits)
        recall_low, recall_high = interval(right, positives)
        curve.append(
            CurvePoint(
                threshold=ranked[hits - 1][0],
                hits=hits,
                errors=errors,
                precision=right / hits,
                precision_low=precision_low,
                precision_high=precision_high,
                recall=right / positives if positives else 0.0,
                recall_low=recall_low,
                recall_high=recall_high,
            )
        )
    return tuple(curve)


def _most_errors(trials: int, rate: float, confidence: float) -> int:
    errors = 0
    while upper_bound(errors + 1, trials, confidence) <= rate:
        errors += 1
    return errors


def _tail_at_most(successes: int, trials: int, rate: float) -> float:
    """P(X <= successes) of a binomial, summed from the largest term for accuracy."""
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return float(successes >= trials)
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    total = 0.0
    for k in range(successes, -1, -1):
        term = math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_rate
            + (trials - k) * log_rest
        )
        total += term
        if k < trials * rate and term < total * 1e-17:
            break
    return min(total, 1.0)


def _solve(falling: Callable[[float], float]) -> float:
    """Find where a falling function of a rate crosses zero, from above: never too small a bound."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return high


def _check_rates(max_error_rate: float, confidence: float) -> None:
    for name, value in (("max_error_rate", max_error_rate), ("confidence", confidence)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise InvalidRequestError(f"{name} must be between 0 and 1, not {value!r}")
