"""How long an answer will be, and how much of the prompt will come from the provider's cache.

Means of what was seen of a model, of its prompts of about this length, and of those among them with
the same tags; each is drawn towards the one before it by as much as it knows little. Means, not
medians: a cost is linear in the length, so that its expectation needs the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN_OUTPUT_TOKENS = 256
"""Assumed length of an answer where nothing was seen."""
_DRAWN = 5.0
"""A group's mean and the wider group's weigh the same when it has seen so many calls."""
_MEMORY = 500.0
"""Calls that a mean remembers: what models write changes with their versions."""
_MOST_GROUPS = 4_000
"""Tags may be anything, a user's name included."""


@dataclass(frozen=True, slots=True)
class ExpectedUsage:
    """What a call will use, before it is sent."""

    output_tokens: int
    cached_share: float
    """Of the input, read from the provider's prompt cache."""


@dataclass(slots=True)
class _Group:
    calls: float = 0.0
    output_tokens: float = 0.0
    cached_share: float = 0.0
    """Means."""

    def add(self, output_tokens: float, cached_share: float, calls: float) -> None:
        self.calls = min(self.calls + calls, _MEMORY)
        share = min(1.0, calls / self.calls)
        self.output_tokens += share * (output_tokens - self.output_tokens)
        self.cached_share += share * (cached_share - self.cached_share)


class AnswerLengths:
    """Learns from each answered call; safe from any thread."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._lock = Lock()

    def observe(
        self,
        model_id: str,
        *,
        input_tokens: int,
        output_tokens: float,
        cached_input_tokens: float = 0.0,
        tags: Mapping[str, Any] | None = None,
        calls: float = 1.0,
    ) -> None:
        """Record what a call used (or the means of several).

        Args:
            input_tokens: as estimated before the call, which is what the next one is known by.
        """
        cached_share = min(1.0, cached_input_tokens / input_tokens) if input_tokens > 0 else 0.0
        with self._lock:
            for key in _keys(model_id, input_tokens, tags):
                group = self._groups.get(key)
                if group is None:
                    if len(self._groups) >= _MOST_GROUPS and len(key) > 2:
                        continue
                    group = self._groups[key] = _Group()
                group.add(output_tokens, cached_share, calls)

    def expected(
        self,
        model_id: str,
        *,
        input_tokens: int,
        tags: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> ExpectedUsage:
        """Return what a call will use; an answer is no longer than `max_tokens`."""
        tokens, cached = float(UNKNOWN_OUTPUT_TOKENS), 0.0
        if self._groups:
            for key in _keys(model_id, input_tokens, tags):
                group = self._groups.get(key)
                if group is not None:
                    share = group.calls / (group.calls + _DRAWN)
                    tokens += share * (group.output_tokens - tokens)
                    cached += share * (group.cached_share - cached)
        whole = max(1, round(tokens))
        return ExpectedUsage(whole if max_tokens is None else min(whole, max_tokens), cached)


def _keys(
    model_id: str, input_tokens: int, tags: Mapping[str, Any] | None
) -> list[tuple[Any, ...]]:
    """From the widest group to the narrowest."""
    octave = input_tokens.bit_length()
    keys: list[tuple[Any, ...]] = [(model_id,), (model_id, octave)]
    if tags:
        keys.append((model_id, octave, *sorted((k, str(v)) for k, v in tags.items())))
    return keys
