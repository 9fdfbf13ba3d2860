"""Anthropic's Message Batches.

They bear no metadata: one whose acceptance was never heard of is told from others by the custom ids
of its results, once it has ended.

Reference: https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import orjson

from novellus_lab.providers import anthropic_messages
from novellus_lab.providers.api_errors import error_in_band, unreadable
from novellus_lab.providers.batches import (
    BatchApi,
    BatchFound,
    BatchLine,
    BatchResult,
    BatchSearch,
    BatchState,
    cancelled,
    counted,
    expired,
    json_lines,
)
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import anthropic

    from novellus_lab.errors import ProviderUnavailableError
    from novellus_lab.providers.base import Call

PATH = "/v1/messages/batches"

_PAGE = 100
_CLOCKS = timedelta(minutes=10)
"""What the provider's clock may differ from ours."""
_MISSHAPEN = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class Speaker(Protocol):
    """What a batch needs of the provider that answers normal calls."""

    name: str
    secret: str | None

    def client(self) -> anthropic.AsyncAnthropic: ...

    def words(self, call: Call) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return a call's body as it is sent, and what was left out."""

    def translate(self, error: Exception, model: str) -> Exception: ...


class AnthropicBatches(BatchApi):
    """Up to 100,000 messages, of any models."""

    most_lines: ClassVar[int] = 100_000
    most_bytes: ClassVar[int] = 240_000_000

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def line(self, custom_id: str, call: Call) -> BatchLine:
        body, dropped = self._speaker.words(call)
        return BatchLine(
            "/v1/messages", orjson.dumps({"custom_id": custom_id, "params": body}), dropped
        )

    async def create(
        self, marker: str, lines: Sequence[BatchLine], file_id: str | None
    ) -> BatchState:
        content = b'{"requests":[' + b",".join(line.body for line in lines) + b"]}"
        return self._read(await self._ask("POST", PATH, content))

    async def find(self, search: BatchSearch) -> BatchFound:
        since, sure, after = search.sent_at - _CLOCKS, True, ""
        while True:
            page = await self._ask("GET", f"{PATH}?limit={_PAGE}{after}")
            made: Mapping[str, Any] = EMPTY
            for made in page.get("data") or ():
                if datetime.fromisoformat(made["created_at"]) < since:
                    return BatchFound(None, sure)
                total = sum(counted(count) for count in (made["request_counts"] or {}).values())
                if made["id"] in search.known_ids or total != len(search.custom_ids):
                    continue
                state = self._read(made)
                if state.phase != "ended":
                    sure = False  # it may be the one: its results will tell
                elif await self._is(state, search):
                    return BatchFound(state)
            if not page.get("has_more") or not made:
                return BatchFound(None, sure)
            after = f"&after_id={made['id']}"

    async def state(self, id: str) -> BatchState:
        return self._read(await self._ask("GET", f"{PATH}/{id}"))

    async def cancel(self, id: str) -> BatchState:
        return self._read(await self._ask("POST", f"{PATH}/{id}/cancel", b"{}"))

    async def results(self, state: BatchState) -> AsyncIterator[BatchResult]:
        import anthropic
        import httpx2

        try:
            # Never the address that the batch names: the key goes nowhere but to the base_url.
            response = cast(
                "httpx2.Response",
                await self._speaker.client().get(
                    f"{PATH}/{state.id}/results",
                    cast_to=httpx2.Response,
                    stream=True,
                    stream_cls=anthropic.AsyncStream[object],
                ),
            )
            try:
                async for line in json_lines(response.aiter_bytes()):
                    yield self._result(line)
            finally:
                with contextlib.suppress(Exception):
                    await response.aclose()
        except Exception as error:
            raise self._translated(error) from None

    # --- reading -----------------------------------------------------------------------------

    async def _is(self, state: BatchState, search: BatchSearch) -> bool:
        results = self.results(state)
        try:
            async for result in results:
                return result.custom_id in search.custom_ids
        finally:
            await cast("Any", results).aclose()
        return False

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        import httpx2

        client = self._speaker.client()
        try:
            if method == "GET":
                response = await client.get(path, cast_to=httpx2.Response)
            else:
                response = await client.post(
                    path,
                    cast_to=httpx2.Response,
                    content=content,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        except Exception as error:
            raise self._translated(error) from None
        try:
            data = orjson.loads(response.content)
            if isinstance(data, dict):
                return data
        except ValueError:
            pass
        raise self._unreadable(response.content)

    def _read(self, made: Mapping[str, Any]) -> BatchState:
        try:
            counts = made.get("request_counts") or EMPTY
            ended = made["processing_status"] == "ended"
            undone = [kind for kind in ("expired", "canceled") if counted(counts.get(kind))]
            ended_as: Any = {"expired": "expired", "canceled": "cancelled"}.get(
                undone[0] if undone else "", "completed"
            )
            phases: Mapping[str, Any] = {"ended": "ended", "canceling": "cancelling"}
            return BatchState(
                id=str(made["id"]),
                phase=phases.get(made["processing_status"], "running"),
                completed=counted(counts.get("succeeded")),
                failed=counted(counts.get("errored")),
                expires_at=datetime.fromisoformat(made["expires_at"]),
                ended_as=ended_as if ended else None,
            )
        except _MISSHAPEN:
            raise self._unreadable(orjson.dumps(dict(made))) from None

    def _result(self, line: bytes) -> BatchResult:
        custom_id = ""
        try:
            data = orjson.loads(line)
            custom_id, result = str(data["custom_id"]), data["result"]
            kind = result["type"]
            if kind == "succeeded":
                reply = anthropic_messages.read_reply(result["message"], dropped=())
                return BatchResult(custom_id, reply)
            if kind == "expired":
                return BatchResult(custom_id, error=expired(self._speaker.name))
            if kind == "canceled":
                return BatchResult(custom_id, error=cancelled())
            error = result["error"]
            failed = error_in_band(
                error.get("error") or error,
                provider=self._speaker.name,
                model="of the batch",
                secret=self._speaker.secret,
            )
            return BatchResult(custom_id, error=failed)
        except _MISSHAPEN:
            return BatchResult(custom_id, error=self._unreadable(line))

    def _unreadable(self, said: bytes) -> ProviderUnavailableError:
        return unreadable(said, EMPTY, provider=self._speaker.name, model="of the batch")

    def _translated(self, error: Exception) -> Exception:
        return self._speaker.translate(error, "of the batch")
