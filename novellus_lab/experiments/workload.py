"""What is asked: items with what is known of them, from wherever they come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError
from novellus_lab.store.storable import storable_json
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from novellus_lab.types import Message


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask.

    `expected` is what a scorer compares the answer with; None where nobody knows. `group` names
    items that belong together (a conversation, a user): their outcomes are not independent.
    """

    id: str
    messages: tuple[Message, ...]
    expected: Any = None
    group: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """More of `lab.complete`'s arguments, for this item alone."""
    about: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """Whatever else its source says of it: for scorers and for grouping, never sent."""

    @property
    def question(self) -> str:
        """Text of the last user turn."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                content = message.get("content")
                if isinstance(content, str):
                    return content
                return "\n".join(part.get("text", "") for part in content or ())
        return ""

    def content(self) -> bytes:
        """All that makes it this item, as canonical JSON."""
        return orjson.dumps(
            storable_json(
                [self.id, self.messages, self.expected, self.group, dict(self.arguments)]
            ),
            option=orjson.OPT_SORT_KEYS,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """Items in their order, under a name. `content_hash` is of the items alone."""

    name: str
    items: tuple[Item, ...]
    source: str = ""
    licence: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def content_hash(self) -> str:
        digest = blake2b(digest_size=16)
        for item in self.items:
            digest.update(blake2b(item.content(), digest_size=16).digest())
        return digest.hexdigest()

    def repeated(self, n: int) -> Workload:
        """Return `n` items, from the beginning again where there are fewer; each has an id of its own.

        Repetitions of an item form a group: they are not independent.
        """
        items = []
        for number in range(n):
            item = self.items[number % len(self.items)]
            lap = number // len(self.items)
            group = item.group or (item.id if n > len(self.items) else None)
            items.append(replace(item, id=f"{item.id}+{lap}" if lap else item.id, group=group))
        return Workload(self.name, tuple(items), self.source, self.licence)

    def sample(self, n: int | None, *, seed: int = 0) -> Workload:
        """Return `n` of the items, drawn by `seed`, in an order of its own; all of them for None.

        Raises:
            InvalidRequestError: there are fewer, or n is no such number.
        """
        if n is None:
            return self
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidRequestError(f"n must be a whole number of items above 0, not {n!r:.80}")
        if n > len(self.items):
            raise InvalidRequestError(
                f"the workload {self.name!r} has {len(self.items)} items, not {n}: ask for fewer, or "
                f"for None to have all"
            )
        chosen = tuple(Random(seed).sample(self.items, n))
        return Workload(self.name, chosen, self.source, self.licence)
