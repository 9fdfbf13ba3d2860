"""The production system's own names, thin over the same lab.

`src.ai.integration` of its documentation is this module.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Unpack

from novellus_lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.lab import CallArguments
    from novellus_lab.pipeline.stream import AsyncStream

_lock = threading.Lock()
_shared: Lab | None = None


def shared_lab() -> Lab:
    """Return the lab that this module's functions use, opened on first use with defaults."""
    global _shared
    with _lock:
        if _shared is None or _shared.closed:
            _shared = Lab()
        return _shared


async def ai_complete(
    prompt: str | None = None, *, stream: bool = False, **arguments: Unpack[CallArguments]
) -> dict[str, Any] | AsyncStream:
    """Answer a prompt or a conversation, as a plain dict; arguments as `Lab.complete`."""
    return await AIModelManager().complete(prompt, stream=stream, **arguments)


async def ai_embed(
    text: str | Sequence[str], model: str | None = None, **options: Any
) -> list[float] | list[list[float]]:
    """Embed a text or a list of texts; embeddings are cached."""
    return await shared_lab().aembed(text, model=model, **options)


class AIModelManager:
    """The production system's client.

    Args:
        lab: the lab to work through; default the shared one.
    """

    def __init__(self, lab: Lab | None = None) -> None:
        self._lab = lab

    async def complete(
        self,
        prompt: str | None = None,
        *,
        stream: bool = False,
        **arguments: Unpack[CallArguments],
    ) -> dict[str, Any] | AsyncStream:
        """Answer a prompt or a conversation, as a plain dict; arguments as `Lab.complete`."""
        lab = self._lab or shared_lab()
        if stream:
            return lab.astream(prompt, **arguments)
        completion = await lab.acomplete(prompt, **arguments)
        return completion.to_dict()
