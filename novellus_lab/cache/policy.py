"""What one call wants of the cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import InvalidRequestError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The `cache=` argument of a call, as a dict or as this."""

    ttl: float | None = None
    """Seconds that the answer may be kept; None: as configured."""
    max_age: float | None = None
    """Oldest answer that this call accepts, in seconds."""
    no_store: bool = False
    """Neither read nor write: as `use_cache=False`."""
    read_only: bool = False
    """Take a cached answer, but don't store a new one."""
    write_only: bool = False
    """Ask the provider anew and store its answer."""
    namespace: str = ""
    """Entries of different namespaces never meet."""
    sample: int = 0
    """Which of several independent answers to the same question (for evaluation)."""

    @classmethod
    def parse(cls, given: Mapping[str, Any] | CachePolicy) -> CachePolicy:
        """Check a `cache=` argument.

        Raises:
            InvalidRequestError: an unknown key, or a value of the wrong kind.
        """
        if isinstance(given, cls):
            policy = given
        elif isinstance(given, dict):
            names = [f.name for f in fields(cls)]
            for key in given:
                if key not in names:
                    raise InvalidRequestError(
                        f"cache has no option {key!r}. {did_you_mean(str(key), names)}"
                    )
            policy = cls(**given)
        else:
            raise InvalidRequestError(
                f"cache must be a dict such as {{'ttl': 60}}, not a {type(given).__name__}"
            )
        for name in ("ttl", "max_age"):
            value = getattr(policy, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0
            ):
                raise InvalidRequestError(f"cache.{name} must be seconds, 0 or more, not {value!r}")
        for name in ("no_store", "read_only", "write_only"):
            if type(getattr(policy, name)) is not bool:
                raise InvalidRequestError(f"cache.{name} must be True or False")
        if not isinstance(policy.namespace, str):
            raise InvalidRequestError("cache.namespace must be a string")
        if isinstance(policy.sample, bool) or not isinstance(policy.sample, int):
            raise InvalidRequestError("cache.sample must be a whole number")
        if policy.read_only and policy.write_only:
            raise InvalidRequestError("cache can't be both read_only and write_only: use no_store")
        return policy

    @property
    def reads(self) -> bool:
        return not (self.no_store or self.write_only)

    @property
    def writes(self) -> bool:
        return not (self.no_store or self.read_only)
