"""Values that a caller puts into the cache by a key of its own: no model made them."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Any

import orjson

from novellus_lab.cache.entry import CacheEntry
from novellus_lab.errors import InvalidRequestError
from novellus_lab.types import Usage

_SALT = b"novellus-value-1"
"""Keeps these keys apart from those of requests."""

VALUE_SCOPE = blake2b(_SALT, digest_size=16).digest()
"""All values may be answers to one another's questions."""


def value_key(key: str) -> bytes:
    """Return the cache key of a value.

    Raises:
        InvalidRequestError: `key` is no text, or empty.
    """
    if not isinstance(key, str) or not key:
        raise InvalidRequestError(f"key must be a non-empty string, not {key!r:.80}")
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32, person=_SALT).digest()


def value_entry(key: str, value: Any, expires_at: float | None, tags: dict[str, Any]) -> CacheEntry:
    """Return the entry of a value.

    Raises:
        InvalidRequestError: the key is no text, or the value is nothing that JSON holds.
    """
    try:
        content = orjson.dumps(value).decode()
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the value of {key!r:.80} can't be kept: {error}") from None
    return CacheEntry(
        key=value_key(key),
        content=content,
        model="",
        provider="",
        response_model=None,
        finish_reason="stop",
        usage=Usage(),
        created_at=time.time(),
        expires_at=expires_at,
        tags=tags,
    )


def value_of(entry: CacheEntry) -> Any:
    """Return the value of an entry, or the text of one that a model made."""
    return orjson.loads(entry.content) if entry.kind == "value" else entry.content
