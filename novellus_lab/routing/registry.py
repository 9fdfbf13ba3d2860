"""Which strategies there are, by name: built in, registered, of other packages, or `module:Class`.

A package adds one with an entry point in the group `novellus_lab.strategies`:

```toml
[project.entry-points."novellus_lab.strategies"]
thrifty = "acme_llm.routing:Thrifty"
```
"""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from threading import Lock
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import (
    ConfigurationError,
    InvalidRequestError,
    NovellusError,
    UnknownStrategyError,
    did_you_mean,
)
from novellus_lab.routing.balancer import balancer_of
from novellus_lab.routing.cascade import Cascade
from novellus_lab.routing.learned_choice import Learned
from novellus_lab.routing.strategies import (
    CostOptimized,
    Explicit,
    HealthWeighted,
    LeastBusy,
    LeastLatency,
    Priority,
    RoundRobin,
    Strategy,
    Weighted,
    by_name,
)
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from novellus_lab.routing.answer_checks import Check

GROUP = "novellus_lab.strategies"

BUILT_IN: dict[str, type[Strategy]] = by_name(
    (
        Weighted,
        CostOptimized,
        LeastLatency,
        RoundRobin,
        Priority,
        LeastBusy,
        HealthWeighted,
        Cascade,
        Learned,
    )
)


class Registry:
    """The strategies of a lab. Each name with the same options is one instance, with its state.

    Args:
        registered: classes, instances or functions by name; may grow through `register`.
        options: of strategies by name, where neither rule nor call gives its own.
        checks: of answers, by name, for `cascade`.
    """

    def __init__(
        self,
        registered: dict[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] = EMPTY,
        checks: dict[str, Check] | None = None,
    ) -> None:
        self._registered = {} if registered is None else registered
        self._options = options
        self._checks = {} if checks is None else checks
        self._made: dict[tuple[str, str], Strategy] = {}
        self._lock = Lock()
        for name, strategy in self._registered.items():
            _check_kind(name, strategy)

    def get(self, name: str, options: Mapping[str, Any] | None = None) -> Strategy:
        """Return a strategy, made on first use.

        Raises:
            UnknownStrategyError: with near matches.
            ConfigurationError: it can't be loaded, or does not take these options.
        """
        if not isinstance(name, str):
            raise _unknown(name, self.names())
        given = self._options.get(name, EMPTY) if options is None else options
        key = (name, repr(sorted(given.items())) if given else "")
        made = self._made.get(key)
        if made is None:
            with self._lock:
                made = self._made.get(key)
                if made is None:
                    made = self._made[key] = self._make(name, given)
        return made

    def register(self, name: str, strategy: Any) -> None:
        """Know a strategy by a name: a class, an instance, or a function like `select_model`.

        Raises:
            InvalidRequestError: the name is a built-in one's, or it is no strategy.
        """
        if not isinstance(name, str) or not name or ":" in name:
            raise InvalidRequestError(f"a strategy's name must be a plain text, not {name!r}")
        if name in BUILT_IN or name == Explicit.name:
            raise InvalidRequestError(f"{name!r} is a built-in strategy: take another name")
        _check_kind(name, strategy)
        with self._lock:
            self._registered[name] = strategy
            for key in [key for key in self._made if key[0] == name]:
                del self._made[key]

    def register_check(self, name: str, check: Check) -> None:
        """Know a check of answers by a name, for `cascade`."""
        if not isinstance(name, str) or not name or not callable(check):
            raise InvalidRequestError("a check is a function, registered by a name")
        with self._lock:
            self._checks[name] = check
            for key in [key for key, made in self._made.items() if isinstance(made, Cascade)]:
                del self._made[key]

    def names(self) -> list[str]:
        """Return the names of all strategies."""
        return list({**BUILT_IN, **self._registered, **_others()})

    def summaries(self) -> dict[str, str]:
        """Return one line for each strategy. One of another package that can't be loaded says so."""
        found = {}
        for name in self.names():
            try:
                found[name] = _summary(self._class(name))
            except NovellusError as error:
                found[name] = str(error)
        return found

    def _class(self, name: str) -> Any:
        if name in BUILT_IN:
            return BUILT_IN[name]
        if name in self._registered:
            return self._registered[name]
        point = _others().get(name)
        if point is not None:
            owner = point.dist.name if point.dist is not None else "an unknown distribution"
            return _loaded(f"strategy {name!r} of {owner}", point.load)
        module, colon, attribute = name.partition(":")
        if colon and module and attribute:
            return _loaded(f"strategy {name!r}", lambda: getattr(import_module(module), attribute))
        raise _unknown(name, self.names())

    def _make(self, name: str, options: Mapping[str, Any]) -> Strategy:
        found = self._class(name)
        if isinstance(found, Strategy):
            if options:
                raise ConfigurationError(
                    f"strategy {name!r} was registered as an instance: it takes no options"
                )
            return found
        if not isinstance(found, type):
            found = balancer_of(name, found)
        more = {"checks": self._checks} if found is Cascade else {}
        try:
            _arguments(found).bind(None, **options, **more)
        except TypeError:
            allowed = [p for p in list(_arguments(found).parameters)[1:] if p not in more]
            wrong = [o for o in options if o not in allowed] or list(options)
            raise ConfigurationError(
                f"strategy {name!r} takes no options {', '.join(map(repr, wrong))}; it takes "
                f"{', '.join(allowed) or 'none'}"
            ) from None
        try:
            strategy = found(**options, **more)
        except NovellusError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"strategy {name!r} can't be made: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(strategy, Strategy):
            raise ConfigurationError(f"strategy {name!r} makes a {type(strategy).__name__}")
        return strategy


def _arguments(cls: type[Strategy]) -> inspect.Signature:
    own = cls.__init__ is not object.__init__
    return inspect.signature(cls.__init__ if own else lambda self: None)


def _others() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def _loaded(what: str, load: Callable[[], Any]) -> Any:
    try:
        found = load()
    except Exception as error:
        raise ConfigurationError(
            f"{what} can't be loaded: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigurationError(f"{what} is no subclass of novellus_lab.ModelLoadBalancer")
    return found


def _check_kind(name: str, strategy: Any) -> None:
    if isinstance(strategy, Strategy) or (
        issubclass(strategy, Strategy) if isinstance(strategy, type) else callable(strategy)
    ):
        return
    raise InvalidRequestError(
        f"strategy {name!r} must be a subclass of novellus_lab.ModelLoadBalancer (or an instance, or a "
        f"function with select_model's arguments), not {strategy!r:.80}"
    )


def _unknown(name: object, names: list[str]) -> UnknownStrategyError:
    return UnknownStrategyError(
        f"there is no routing strategy {name!r}. {did_you_mean(str(name), names)}"
    )


def _summary(strategy: Any) -> str:
    stated = getattr(strategy, "summary", "")
    cls = (
        strategy
        if isinstance(strategy, type) or not isinstance(strategy, Strategy)
        else type(strategy)
    )
    text = stated or vars(cls).get("__doc__") if isinstance(cls, type) else cls.__doc__
    return str(text).strip().splitlines()[0] if text else ""
