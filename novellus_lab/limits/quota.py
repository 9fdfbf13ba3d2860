"""What a provider allows: so many requests and tokens a minute, so many calls at once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit that calls share: a model's, or a key's. None: not limited."""

    id: str
    """The same in every process that shares it, and no secret: see `model_quota`, `key_quota`."""
    label: str
    """For people: the model's id, or the name of the key's variable."""
    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, prompt and answer together."""
    concurrent: int | None = None
    """Calls at once."""
    burst: float = 1.0
    """Share of a minute's allowance that may go at once after a pause. At most `1 + burst` times the
    allowance goes in any 60 s, as with a provider that refills its own bucket continuously."""

    def __hash__(self) -> int:
        return hash(self.id)  # asked for with every call; the rest hardly ever differs

    @property
    def most_requests(self) -> float:
        """That may go at once."""
        return max(1.0, (self.rpm or 0) * self.burst)

    @property
    def most_tokens(self) -> float:
        """That may go at once: a longer prompt never can."""
        return max(1.0, (self.tpm or 0) * self.burst)


def model_quota(
    model_id: str,
    api_key: str | None = None,
    *,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
    burst: float = 1.0,
) -> Quota:
    """Return a model's quota. Providers count by account: the key is a part of its identity."""
    identity = f"model:{model_id}:{key_identity(api_key)}"
    return Quota(identity, model_id, rpm, tpm, concurrent, burst)


def key_quota(
    label: str,
    api_key: str | None,
    *,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
    burst: float = 1.0,
) -> Quota:
    """Return a key's quota, over all models that are called with it."""
    return Quota(f"key:{key_identity(api_key)}", label, rpm, tpm, concurrent, burst)


def key_identity(api_key: str | None) -> str:
    """Return what tells keys apart in Redis and in messages without giving one away."""
    if not api_key:
        return "-"
    return blake2b(api_key.encode(), digest_size=8, person=b"novellus-key").hexdigest()
