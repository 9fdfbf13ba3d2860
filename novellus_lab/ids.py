"""Time-ordered request ids (UUID version 7, RFC 9562, method 3)."""

from __future__ import annotations

import os
import time
from uuid import UUID, SafeUUID

_INT_FROM_BYTES = int.from_bytes
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
        | _INT_FROM_BYTES(os.urandom(8)) >> 2
    )
    # UUID(int=...) spends more time on its checks than all of the above.
    result = object.__new__(UUID)
    _SET(result, "int", value)
    _SET(result, "is_safe", _UNKNOWN)
    return result
