"""The exact cache's key: equal if and only if nothing differs that may change the answer."""

from __future__ import annotations

from hashlib import blake2b

KEY_VERSION = b"novellus-cache-1\x00"
"""Change it when the meaning of a key changes: old entries are then never hit again."""


def scope_digest(parts: list[bytes]) -> bytes:
    """Digest of a model, or of a pool of them: who may answer, with which configuration.

    Order doesn't matter, so that a pool is the same however the YAML lists it.
    """
    digest = blake2b(digest_size=16)
    for part in sorted(parts):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def cache_key(
    scope: bytes,
    messages_json: bytes,
    params_json: bytes,
    *,
    namespace: str = "",
    sample: int = 0,
    experiment: str | None = None,
    arm: str | None = None,
) -> bytes:
    """Return the 32-byte key of a request.

    A cryptographic hash, not a fast one: a collision would hand one user another's answer, and
    prompts are chosen by strangers. Parts are length-prefixed, so none can run into the next.

    Args:
        scope: from `scope_digest`.
        messages_json: canonical JSON of the messages.
        params_json: canonical JSON of every parameter that may change the answer.
        namespace, sample: of the call's `CachePolicy`.
        experiment, arm: the arms of an experiment never share entries.
    """
    head = b""
    if namespace or sample or experiment is not None:
        head = repr((namespace, sample, experiment, arm)).encode("utf-8", "surrogatepass")
    return blake2b(
        b"".join(
            (
                KEY_VERSION,
                scope,
                len(head).to_bytes(8, "little"),
                head,
                len(params_json).to_bytes(8, "little"),
                params_json,
                messages_json,
            )
        ),
        digest_size=32,
    ).digest()
