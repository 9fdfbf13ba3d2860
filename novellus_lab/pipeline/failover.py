"""Who is asked after a failure: the configured stand-ins, by what went wrong.

After a failure whose kind has a chain of its own, the models of that chain are asked, in place of the
candidates that are left; an empty chain asks nobody. After any other failure the next candidate is
asked, and when there is none left the models of the `default` chain.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from novellus_lab.errors import ContextWindowExceededError, NoModelAvailableError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from novellus_lab.pipeline.candidates import Candidates
    from novellus_lab.pipeline.catalog import Catalog, Model
    from novellus_lab.pipeline.question import Question
    from novellus_lab.settings import RuleSettings, Settings

    Chains = Mapping[str, tuple[Model, ...]]

_DEFAULT = "default"
_TOO_LONG = ContextWindowExceededError.code


def kind_of(error: BaseException, known: Container[str]) -> str | None:
    """Return by which of the known kinds of failure an error goes: the most exact one, or none."""
    for cls in type(error).__mro__:
        code = vars(cls).get("code")
        if code in known:
            return str(code)
    return None


@dataclass(frozen=True, slots=True)
class Failover:
    """The chains that hold for some calls: those of a rule, or those that name a model."""

    shared: Chains
    """Of the rule and the lab."""
    own: Mapping[str, Chains]
    """Of models, by their ids; they go first."""
    candidates: Candidates

    def after(self, question: Question, model: Model, error: BaseException) -> list[Model] | None:
        """Return who is to be asked in place of the candidates that are left; None: just they."""
        for chains in (self.own.get(model.id), self.shared):
            kind = kind_of(error, chains) if chains else None
            if chains and kind is not None:
                return self._fitting(question, chains[kind])
        return None

    def at_last(self, question: Question, model: Model) -> list[Model]:
        """Return who is asked when all candidates have failed, this one last."""
        own = self.own.get(model.id, {})
        return self._fitting(question, own.get(_DEFAULT) or self.shared.get(_DEFAULT, ()))

    def wider(self, question: Question, models: Sequence[Model]) -> list[Model]:
        """Return who takes a prompt that is too long for all of these."""
        for chains in (*(self.own.get(model.id, {}) for model in models), self.shared):
            found = self._fitting(question, chains.get(_TOO_LONG, ()))
            if found:
                return found
        return []

    def _fitting(self, question: Question, models: Sequence[Model]) -> list[Model]:
        """Leave out who can't take this request, as among candidates, and keep the chain's order."""
        if not models:
            return []
        with suppress(ContextWindowExceededError, NoModelAvailableError):
            # No stand-in was named by the caller: what it can has to be known.
            anybody = replace(question, model_id=None)
            return list(self.candidates.that_fit(anybody, models, None, []).models)
        return []


class FailoverChains:
    """Those of a configuration."""

    def __init__(self, settings: Settings, catalog: Catalog, candidates: Candidates) -> None:
        def chains(stated: Mapping[str, Sequence[str]]) -> dict[str, tuple[Model, ...]]:
            return {kind: tuple(_usable(catalog, names)) for kind, names in stated.items()}

        self._candidates = candidates
        self._general = chains(settings.fallbacks)
        self._of_rules = {
            rule.name: {**self._general, **chains(rule.fallbacks)}
            for rule in settings.load_balancing.rules
        }
        self._own = {
            model.id: chains(model.settings.fallbacks)
            for model in catalog
            if model.settings.fallbacks
        }

    def named(self) -> Failover | None:
        """Return the chains of calls that name their model: its own alone."""
        return Failover({}, self._own, self._candidates) if self._own else None

    def routed(self, rule: RuleSettings | None) -> Failover | None:
        """Return the chains of calls that a rule, or none, decides about."""
        shared = self._general if rule is None else self._of_rules[rule.name]
        if not shared and not self._own:
            return None
        return Failover(shared, self._own, self._candidates)


def _usable(catalog: Catalog, names: Iterable[str]) -> Iterable[Model]:
    models = (catalog.get(name) for name in names)
    return (m for m in models if m.unavailable is None and not m.is_embedding)
