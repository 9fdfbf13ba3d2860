"""The decomposition adds up, favours no order, and turns round with the periods."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.analytics.cost_change import (
    FACTORS,
    Spending,
    cost_change,
    shapley,
    to_decimals,
    total,
)

_usd = st.one_of(
    st.just(Decimal(0)),
    st.decimals(0, 10_000, allow_nan=False, allow_infinity=False, places=6),
    st.decimals(0, 1, allow_nan=False, allow_infinity=False, places=18),
    st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=15),
)


@st.composite
def _spending(draw: st.DrawFn) -> Spending:
    requests = draw(st.integers(1, 10**6))
    paid = draw(st.integers(0, requests))
    tokens = draw(st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=3))
    return Spending(requests, paid, tokens, draw(_usd))


_period = st.dictionaries(st.sampled_from(["a", "b", "c", None]), _spending(), max_size=4)


@given(_period, _period)
def test_parts_add_up_to_the_difference_to_the_last_digit(before, after):
    found = cost_change(before, after)
    exact = total(s.cost_usd for s in after.values()) - total(s.cost_usd for s in before.values())
    assert found.difference_usd == total(found.parts.values())
    assert Fraction(found.difference_usd) == sum(
        (Fraction(s.cost_usd) for s in after.values()), Fraction(0)
    ) - sum((Fraction(s.cost_usd) for s in before.values()), Fraction(0))
    assert abs(found.difference_usd - exact) < Decimal("1e-15")
    for model in found.models:
        assert total(model.parts.values()) == model.difference_usd
        assert tuple(model.parts) == FACTORS


@given(_period, _period)
def test_swapping_the_periods_turns_every_sign_and_nothing_else(before, after):
    there, back = cost_change(before, after), cost_change(after, before)
    turned = {model.model: model for model in back.models}
    for model in there.models:
        for factor in FACTORS:
            assert model.parts[factor] == -turned[model.model].parts[factor]


@given(_period)
def test_nothing_changed_is_no_part(period):
    assert set(cost_change(period, period).parts.values()) <= {Decimal(0)}


@given(st.lists(st.tuples(st.fractions(0, 100), st.fractions(0, 100)), min_size=1, max_size=4))
def test_shapleys_value_is_the_mean_over_all_orders(factors):
    before, after = (list(side) for side in zip(*factors, strict=True))
    orders = list(permutations(range(len(factors))))
    means = [Fraction(0)] * len(factors)
    for order in orders:
        now = list(before)
        for place in order:
            old = Fraction(1)
            for value in now:
                old *= value
            now[place] = after[place]
            new = Fraction(1)
            for value in now:
                new *= value
            means[place] += Fraction(new - old, len(orders))
    assert shapley(before, after) == means


def _one(requests=100, paid=100, tokens=1000, usd="10") -> dict[str | None, Spending]:
    return {"m": Spending(requests, paid, Decimal(tokens), Decimal(usd))}


def test_each_factor_alone_is_named():
    base = _one()
    for factor, other in {
        "volume": _one(200, 200, 2000, "20"),
        "cache": _one(100, 50, 500, "5"),
        "length": _one(100, 100, 3000, "30"),
        "price": _one(100, 100, 1000, "7.5"),
    }.items():
        parts = cost_change(base, other).parts
        assert {name for name, usd in parts.items() if usd} == {factor}
    two = {"m": Spending(50, 50, Decimal(500), Decimal(5)),
           "n": Spending(50, 50, Decimal(500), Decimal(50))}  # fmt: skip
    shifted = {"m": Spending(25, 25, Decimal(250), Decimal("2.5")),
               "n": Spending(75, 75, Decimal(750), Decimal(75))}  # fmt: skip
    parts = cost_change(two, shifted).parts
    assert {name: usd for name, usd in parts.items() if usd} == {"mix": Decimal("22.5")}


def test_a_model_that_is_new_has_no_price_to_compare():
    parts = cost_change(
        _one(), {**_one(), "new": Spending(100, 90, Decimal(900), Decimal(9))}
    ).parts
    assert parts["length"] == parts["price"] == parts["cache"] == 0
    assert parts["volume"] + parts["mix"] == 9


@given(
    st.lists(st.decimals(-100, 100, allow_nan=False, allow_infinity=False, places=7), min_size=1, max_size=8)
)  # fmt: skip
def test_rounded_parts_add_up_to_the_cent(parts):
    whole = round(sum(parts), 2)
    rounded = to_decimals(parts, whole, 2)
    assert sum(rounded) == whole
    assert all(abs(a - b) <= Decimal("0.02") for a, b in zip(parts, rounded, strict=True))
    assert to_decimals([-part for part in parts], -whole, 2) == [-part for part in rounded]
