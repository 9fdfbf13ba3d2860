"""Prices that somebody states to see what they would come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.pricing import ConfiguredPrice
from novellus_lab.settings.schema import PriceSettings

if TYPE_CHECKING:
    from collections.abc import Collection

_SHORT = {
    f"{kind}": f"{kind}_token_cost"
    for kind in ("input", "output", "cached_input", "cache_write", "reasoning")
}


def read_prices(given: Any) -> dict[str, ConfiguredPrice]:
    """Read `{"gpt-4o": {"input": 0.002, "output": 0.008}}`, US dollars per 1,000 tokens as in the YAML.

    Raises:
        InvalidRequestError: it is not of this form.
    """
    if not isinstance(given, Mapping) or not given:
        raise InvalidRequestError(
            'prices must be {"a model": {"input": …, "output": …}}, US dollars per 1,000 tokens, not '
            f"{given!r:.80}"
        )
    return {str(model): _price(str(model), stated) for model, stated in given.items()}


def over(own: Sequence[ConfiguredPrice], stated: ConfiguredPrice) -> tuple[ConfiguredPrice, ...]:
    """Return a model's prices with what is stated in the place of what was; the rest stays."""
    says = {
        field.name: value
        for field in fields(stated)
        if (value := getattr(stated, field.name)) is not None
    }
    return (*(replace(price, **says) for price in own), stated)


def check_met(stated: Collection[str], met: Collection[str]) -> None:
    """Raise InvalidRequestError where a price is of a model that was never called."""
    for name in stated:
        if name not in met:
            hint = did_you_mean(name, sorted(met)) if met else "There are no calls at all."
            raise InvalidRequestError(f"prices: no call of this time was to {name!r:.80}. {hint}")


def _price(model: str, stated: Any) -> ConfiguredPrice:
    if not isinstance(stated, Mapping):
        raise InvalidRequestError(
            f'prices[{model!r:.80}] must be such as {{"input": 0.002, "output": 0.008}}, not '
            f"{stated!r:.80}"
        )
    names = {_SHORT.get(str(name), str(name)): value for name, value in stated.items()}
    known = set(_SHORT.values())
    for name in names:
        if name not in known:
            raise InvalidRequestError(
                f"prices[{model!r:.80}] has no {name!r:.80}. {did_you_mean(name, list(_SHORT))}"
            )
    try:
        read = PriceSettings(**names)
    except ValidationError as error:
        [first, *_] = error.errors()
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequestError(f"prices[{model!r:.80}].{where}: {first['msg']}") from None
    price = ConfiguredPrice(**{name: getattr(read, name) for name in known})
    if not price.states_a_price:
        raise InvalidRequestError(f"prices[{model!r:.80}] states no price")
    return price
