"""A benchmark: a dataset, a scorer and a configuration, known by the hash of all three."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.experiments.scorers import Own
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from novellus_lab.experiments.scorers import Scorer
    from novellus_lab.experiments.workload import Workload

BUILT_IN = {"gsm8k": "numeric"}
"""The benchmarks of this package: datasets, with the scorer that is theirs."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is asked, how it is scored, and with which arguments.

    Two with the same hash ask the same and score the same; runs are compared by it.
    """

    name: str
    workload: Workload
    scorer: Scorer
    arguments: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """`lab.complete`'s, for every call."""
    version: str = "1"

    @property
    def content_hash(self) -> str:
        """Of items, scorer (its code, where it is a function), arguments and version."""
        told = [
            self.workload.content_hash,
            scorer_identity(self.scorer),
            dict(self.arguments),
            self.version,
        ]
        written = orjson.dumps(told, option=orjson.OPT_SORT_KEYS, default=str)
        return blake2b(written, digest_size=16).hexdigest()


def scorer_identity(scorer: Any) -> str:
    """Return what tells one scorer from another: its kind and options, or its source."""
    if isinstance(scorer, Own):
        try:
            source = inspect.getsource(scorer.function)
        except (OSError, TypeError):
            code = getattr(scorer.function, "__code__", None)
            source = "" if code is None else repr((code.co_code, code.co_consts, code.co_names))
        return f"{scorer.name} {blake2b(source.encode(), digest_size=8).hexdigest()}"
    kind = f"{type(scorer).__module__}.{type(scorer).__qualname__}"
    if not is_dataclass(scorer):
        return kind
    options = {
        f.name: getattr(scorer, f.name)
        for f in fields(scorer)
        if not callable(getattr(scorer, f.name))
    }
    return f"{kind} {options!r}"
