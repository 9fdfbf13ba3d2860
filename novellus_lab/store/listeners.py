"""Who is told of requests as they begin and end. Nobody, unless somebody asks."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any
    from uuid import UUID

    from novellus_lab.records import RequestRecord

    Ended = Callable[[RequestRecord], None]
    Around = Callable[["Begun"], AbstractContextManager[None]]

logger = logging.getLogger("novellus_lab")


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that is about to be worked on; its record will have the same id."""

    id: UUID
    kind: str
    """chat or embedding."""
    model_id: str | None
    """As the caller asked for it."""
    stream: bool
    params: Mapping[str, Any]


class Listeners:
    """One per lab, shared by all that tells of requests; it outlives a fork.

    A listener is called where the request runs, in the context of its caller, and should be quick.
    One that fails is logged, and the request goes on.
    """

    __slots__ = ("around", "ended")

    def __init__(self) -> None:
        # Tuples, replaced as a whole: read without a lock, and falsy when there is nobody.
        self.ended: tuple[Ended, ...] = ()
        """Each is given the record of every request, whatever its end."""
        self.around: tuple[Around, ...] = ()
        """Each is entered before, and left after, the work on a request. Requests that are refused,
        or answered from this process's memory, are over at once: of those only the end is told."""

    def add(self, *, ended: Ended | None = None, around: Around | None = None) -> None:
        """Have somebody told from now on."""
        if ended is not None:
            self.ended = (*self.ended, ended)
        if around is not None:
            self.around = (*self.around, around)

    def remove(self, *, ended: Ended | None = None, around: Around | None = None) -> None:
        """Tell somebody no more."""
        self.ended = tuple(one for one in self.ended if one != ended)
        self.around = tuple(one for one in self.around if one != around)

    def tell_end(self, record: RequestRecord) -> None:
        """Tell of a request's end."""
        for one in self.ended:
            try:
                one(record)
            except Exception:
                logger.exception("a listener failed at the end of a request")

    def surround(self, begun: Begun) -> AbstractContextManager[None]:
        """Enter all that want to be around a request."""
        return _surround(self.around, begun)


@contextlib.contextmanager
def _surround(around: tuple[Around, ...], begun: Begun) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for one in around:
            try:
                stack.enter_context(one(begun))
            except Exception:
                logger.exception("a listener failed at the beginning of a request")
        yield
