"""Time-ordered request ids (UUID version 7, RFC 9562, method 3)."""

from __future__ import annotations

import os
import time
from random import Random
from uuid import UUID, SafeUUID

# Ids are to differ, not to be secret: a system call for each would cost more than the rest.
_RANDOM = Random()
os.register_at_fork(after_in_child=_RANDOM.seed)  # else parent and child draw the same
_UNKNOWN = SafeUUID.unknown
_SET = object.__setattr__


def uuid7(time_ns: int | None = None) -> UUID:
    """Return a new UUIDv7: 48 bits of Unix milliseconds, 12 bits of the sub-millisecond, 62 random.

    Ids made within a process in different microseconds sort by time, which keeps an index on them
    append-only.
    """
    if time_ns is None:
        time_ns = time.time_ns()
    ms, rest = divmod(time_ns, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    value = (
        (ms & 0xFFFF_FFFF_FFFF) << 80
        | 0x7000 << 64
        | fraction << 64
        | 0x8000_0000_0000_0000
        | _RANDOM.getrandbits(62)
    )
    # UUID(int=...) spends more time on its checks than all of the above.
    result = object.__new__(UUID)
    _SET(result, "int", value)
    _SET(result, "is_safe", _UNKNOWN)
    return result
