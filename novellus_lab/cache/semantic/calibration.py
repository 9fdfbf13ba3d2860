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
    from collections.abc import Iterable, Iterator, Sequence

_STEPS = 60
_ROUNDING = 1e-12
_FIRST_SHARE = 0.75
_MORE_STARTS = 4


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
    curve_points: int = 50,
) -> Calibration:
    """Find the lowest threshold whose share of wrong hits is surely at most `max_error_rate`.

    "Learn then test" (Angelopoulos, Bates, Candès, Jordan, Lei 2021) with fixed-sequence testing:
    thresholds are tried from the strictest down, each by the exact binomial (Clopper-Pearson) test
    of "more than `max_error_rate` of its hits are wrong", and the search ends at the first that
    can't be refuted. Which ones are tried is fixed before any label is seen, by ranks of the scores:
    from the fewest hits that can refute anything, each with about 3% more hits than the last. Where
    there are hits enough the search starts anew at 2, 4, 8 … times as many, should the very top be
    unlucky; the first search has three quarters of the risk, the others share the rest.

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
        curve_points: about how many thresholds the curve shows; 0: no curve.

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
    positives = sum(1 for _, same in ranked if same)
    found: tuple[int, float] | None = None
    for start, risk in _starts(served, max_error_rate, 1 - confidence):
        for hits in _looks(ranked, start, served):
            if _tail_at_most(wrong_so_far[hits], hits, max_error_rate) > risk + _ROUNDING:
                break
            if found is None or hits > found[0]:
                found = (hits, risk)
    if found is None:
        errors = wrong_so_far[needed]
        raise InvalidRequestError(
            f"no threshold holds an error rate of {max_error_rate:.2%}: of the {needed} pairs that "
            f"score highest {errors} are wrong, and no longer list of them is good enough. Check their "
            f"labels, or allow a higher rate"
        )
    hits, risk = found
    threshold, errors = ranked[hits - 1][0], wrong_so_far[hits]
    return Calibration(
        threshold=threshold,
        max_error_rate=max_error_rate,
        confidence=confidence,
        bound=upper_bound(errors, hits, 1 - risk),
        pairs=len(ranked),
        positives=positives,
        hits=hits,
        errors=errors,
        recall=(hits - errors) / positives if positives else 0.0,
        curve=_curve(ranked, wrong_so_far, positives, curve_points) if curve_points else (),
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
    return _beta_quantile(confidence, errors + 1, trials - errors)


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

        for _ in range(_STEPS):
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


def _starts(served: int, rate: float, risk: float) -> list[tuple[int, float]]:
    """Return where searches start (numbers of hits), and the risk that each may take."""
    single = [(hits_needed(rate, 1 - risk), risk)]
    share = risk * (1 - _FIRST_SHARE) / _MORE_STARTS
    first, later = hits_needed(rate, 1 - risk * _FIRST_SHARE), hits_needed(rate, 1 - share)
    if served < 2 * later:
        return single
    more = [later * 2**k for k in range(1, _MORE_STARTS + 1) if later * 2**k <= served]
    rest = risk * (1 - _FIRST_SHARE) / len(more)
    return [(first, risk * _FIRST_SHARE), *((start, rest) for start in more)]


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
    ranked: list[tuple[float, bool]], wrong: list[int], positives: int, points: int
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


def _tail_at_most(successes: int, trials: int, rate: float) -> float:
    """P(X <= successes) of a binomial."""
    return _incomplete_beta(trials - successes, successes + 1, 1 - rate)


def _beta_quantile(level: float, a: float, b: float) -> float:
    """Find x with I_x(a, b) = level: Newton's steps, kept between bounds that bisection narrows."""
    low, high = 0.0, 1.0
    x = a / (a + b)
    log_norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(_STEPS):
        error = _incomplete_beta(a, b, x) - level
        if error < 0:
            low = x
        else:
            high = x
        log_density = log_norm + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)
        step = error / math.exp(log_density) if log_density > -700 else math.inf
        nearer = x - step
        if not low < nearer < high:
            nearer = (low + high) / 2
        if abs(nearer - x) <= 1e-14 * x or nearer in (0.0, 1.0):
            return nearer
        x = nearer
    return x


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # Lentz's method, two terms of the fraction a turn.
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * total / a


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def _check_rates(max_error_rate: float, confidence: float) -> None:
    for name, value in (("max_error_rate", max_error_rate), ("confidence", confidence)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise InvalidRequestError(f"{name} must be between 0 and 1, not {value!r}")
