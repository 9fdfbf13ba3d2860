"""What is compared: named arms, each a way to answer the same question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, did_you_mean
from novellus_lab.pipeline.intake import CALL_ARGUMENTS
from novellus_lab.routing.strategies import Strategy
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Collection

_SHORT = {"strategy": "model_selection_strategy", "model": "model_id"}
_OURS = {"experiment", "arm", "messages"}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer: arguments of `lab.complete`, and perhaps a configuration of its own."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    balancer: Any = None
    """A strategy of the user's (class, instance or function), registered for the trial."""
    config: Any = None
    """A whole configuration (mapping or path), opened beside the lab's own."""

    def told(self) -> dict[str, Any]:
        """What the arm is, as it is kept with the experiment."""
        told: dict[str, Any] = {"name": self.name, "arguments": dict(self.arguments)}
        if self.balancer is not None:
            named = self.balancer if hasattr(self.balancer, "__qualname__") else type(self.balancer)
            told["balancer"] = f"{named.__module__}.{named.__qualname__}"
        if self.config is not None:
            told["config"] = self.config if isinstance(self.config, Mapping) else str(self.config)
        return told


def arms_of(
    given: Any,
    *,
    strategies: Collection[str],
    models: Collection[str],
    least: int = 2,
) -> tuple[Arm, ...]:
    """Return the arms that are meant; the first is the control.

    Args:
        given: a list of specs, or a mapping of names to specs. A spec is the name of a strategy or a
            model; a `ModelLoadBalancer` (class, instance, or a function like `select_model`); a dict
            of `lab.complete`'s arguments (`strategy` and `model` for short), or with `config`, a
            whole configuration; or an `Arm`.
        least: how many there must be.

    Raises:
        InvalidRequestError: fewer than `least`, two of one name, or a spec that means nothing.
    """
    if isinstance(given, Mapping):
        arms = [_arm(str(name), spec, strategies, models) for name, spec in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        arms = [_arm(None, spec, strategies, models) for spec in given]
    else:
        raise InvalidRequestError(
            "strategies must be a list such as ['weighted', 'cost_optimized'], or a dict of names and "
            f"what they stand for, not {given!r:.80}"
        )
    if len(arms) < least:
        raise InvalidRequestError(
            "a comparison needs at least two arms: there is nothing to compare"
        )
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequestError(
            f"two arms have the name {twice[0]!r}: name them with a dict, {{'a': …, 'b': …}}"
        )
    return tuple(arms)


def _arm(name: str | None, spec: Any, strategies: Collection[str], models: Collection[str]) -> Arm:
    if isinstance(spec, Arm):
        return spec if name is None else Arm(name, spec.arguments, spec.balancer, spec.config)
    if isinstance(spec, str):
        return Arm(name or spec, _by_name(spec, strategies, models))
    if isinstance(spec, Mapping):
        return _of_mapping(name, spec)
    if isinstance(spec, (type, Strategy)) or callable(spec):
        named = spec if hasattr(spec, "__name__") else type(spec)
        return Arm(name or named.__name__, balancer=spec)
    raise InvalidRequestError(
        f"an arm is a strategy, a model, a load balancer or a dict of arguments, not {spec!r:.80}"
    )


def _by_name(spec: str, strategies: Collection[str], models: Collection[str]) -> dict[str, Any]:
    if spec in strategies:
        if spec in models:
            raise InvalidRequestError(
                f"{spec!r} is a strategy and a model: say which, {{'strategy': {spec!r}}} or "
                f"{{'model': {spec!r}}}"
            )
        return {"model_selection_strategy": spec}
    if spec in models or ":" in spec:
        return {"model_id": spec} if spec in models else {"model_selection_strategy": spec}
    raise InvalidRequestError(
        f"{spec!r} is neither a strategy nor a model. {did_you_mean(spec, [*strategies, *models])}"
    )


def _of_mapping(name: str | None, spec: Mapping[str, Any]) -> Arm:
    arguments = {_SHORT.get(str(key), str(key)): value for key, value in spec.items()}
    config = arguments.pop("config", None)
    balancer = arguments.pop("balancer", None)
    for key in arguments:
        if key in _OURS or key not in CALL_ARGUMENTS:
            allowed = [
                *_SHORT,
                "balancer",
                "config",
                *(a for a in CALL_ARGUMENTS if a not in _OURS),
            ]
            raise InvalidRequestError(
                f"an arm has no {key!r}. {did_you_mean(key, allowed)} (A configuration goes under "
                f"'config')"
            )
    if name is None:
        stated = [
            str(value) for value in arguments.values() if isinstance(value, (str, int, float))
        ]
        name = (
            ", ".join(stated) if len(stated) == len(arguments) and stated and not config else None
        )
    if name is None:
        raise InvalidRequestError(
            "name the arms that are dicts: strategies={'short': {'max_tokens': 100}, 'long': {…}}"
        )
    return Arm(name, arguments, balancer, config)
