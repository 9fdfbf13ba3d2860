"""OpenAI's batch API, and Azure's: a file of calls, a batch over it, files of answers and errors.

Reference: https://developers.openai.com/api/docs/guides/batch
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import orjson

from novellus_lab.errors import NovellusError
from novellus_lab.providers.api_errors import Problem, classify, error_in_band, unreadable
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
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import ModuleType

    import openai
    from openai.types import Batch

    from novellus_lab.providers.base import Call

MARKER = "novellus_batch"
"""The key of a batch's metadata under which our own id of it stands."""

_CLOCKS = timedelta(minutes=10)
"""What the provider's clock may differ from ours."""
_PHASES = {"cancelling": "cancelling"} | dict.fromkeys(
    ("completed", "failed", "expired", "cancelled"), "ended"
)
_MISSHAPEN = (KeyError, TypeError, IndexError, AttributeError, ValueError)


class Speaker(Protocol):
    """What a batch needs of the provider that answers normal calls."""

    name: str
    secret: str | None

    def client(self) -> openai.AsyncOpenAI: ...

    def words(self, call: Call) -> tuple[ModuleType, dict[str, Any], tuple[str, ...]]:
        """Return the API that a call is for, its body as it is sent, and what was left out."""

    def translate(self, error: Exception, model: str) -> Exception: ...


class OpenAIBatches(BatchApi):
    """Args: prefix: of the path of a line's endpoint: `/v1`, at Azure nothing."""

    most_lines: ClassVar[int] = 50_000
    most_bytes: ClassVar[int] = 190_000_000

    def __init__(
        self, speaker: Speaker, readers: Callable[[str], ModuleType], *, prefix: str
    ) -> None:
        self._speaker = speaker
        self._readers = readers
        self._prefix = prefix

    def line(self, custom_id: str, call: Call) -> BatchLine:
        flavour, body, dropped = self._speaker.words(call)
        endpoint = f"{self._prefix}{flavour.PATH}"
        line = {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}
        return BatchLine(endpoint, orjson.dumps(line, default=dict), dropped)

    async def upload(self, marker: str, lines: Sequence[BatchLine]) -> str | None:
        content = b"\n".join(line.body for line in lines) + b"\n"
        try:
            sent = await self._speaker.client().files.create(
                file=(f"novellus-{marker}.jsonl", content), purpose="batch"
            )
        except Exception as error:
            raise self._translated(error) from None
        return sent.id

    async def create(
        self, marker: str, lines: Sequence[BatchLine], file_id: str | None
    ) -> BatchState:
        endpoint: Any = lines[0].endpoint
        try:
            made = await self._speaker.client().batches.create(
                input_file_id=file_id or "",
                endpoint=endpoint,
                completion_window="24h",
                metadata={MARKER: marker},
            )
        except Exception as error:
            raise self._translated(error) from None
        return self._read(made)

    async def find(self, search: BatchSearch) -> BatchFound:
        since = (search.sent_at - _CLOCKS).timestamp()
        try:
            # The newest come first; the SDK fetches further pages as they are needed.
            async for made in self._speaker.client().batches.list(limit=100):
                if (made.metadata or EMPTY).get(MARKER) == search.marker:
                    return BatchFound(self._read(made))
                if made.created_at < since:
                    break
        except Exception as error:
            raise self._translated(error) from None
        return BatchFound(None)

    async def state(self, id: str) -> BatchState:
        try:
            return self._read(await self._speaker.client().batches.retrieve(id))
        except Exception as error:
            raise self._translated(error) from None

    async def cancel(self, id: str) -> BatchState:
        try:
            return self._read(await self._speaker.client().batches.cancel(id))
        except Exception as error:
            raise self._translated(error) from None

    async def results(self, state: BatchState) -> AsyncIterator[BatchResult]:
        for file_id in state.files:
            try:
                async with self._speaker.client().files.with_streaming_response.content(
                    file_id
                ) as response:
                    async for line in json_lines(response.iter_bytes()):
                        yield self._result(line)
            except Exception as error:
                raise self._translated(error) from None

    # --- reading -----------------------------------------------------------------------------

    def _read(self, made: Batch) -> BatchState:
        phase: Any = _PHASES.get(made.status, "running")
        ended_as: Any = made.status if phase == "ended" else None
        counts = made.request_counts
        files = [file for file in (made.output_file_id, made.error_file_id) if file]
        expires = made.expires_at
        return BatchState(
            id=made.id,
            phase=phase,
            completed=0 if counts is None else counted(counts.completed),
            failed=0 if counts is None else counted(counts.failed),
            expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
            ended_as=ended_as,
            error=self._refusal(made),
            files=tuple(files) if ended_as is not None else (),
        )

    def _refusal(self, made: Batch) -> NovellusError | None:
        if made.status != "failed":
            return None
        told = (made.errors.data if made.errors is not None else None) or []
        said = [
            f"{error.message}{f' (line {error.line})' if error.line else ''}" for error in told[:3]
        ]
        problem = Problem(
            {
                "message": "the batch was refused: " + ("; ".join(said) or "no reason was given"),
                "code": told[0].code if told else None,
                "type": "invalid_request_error",
            }
        )
        return classify(
            problem,
            status=0,
            headers=EMPTY,
            provider=self._speaker.name,
            model=made.model or "of the batch",
            secret=self._speaker.secret,
        )

    def _result(self, line: bytes) -> BatchResult:
        name, secret = self._speaker.name, self._speaker.secret
        custom_id = ""
        try:
            data = orjson.loads(line)
            custom_id = str(data["custom_id"])
            error, response = data.get("error"), data.get("response") or EMPTY
            if error:
                return BatchResult(custom_id, error=self._undone(error))
            status, body = response["status_code"], response["body"]
            model = body.get("model") or "of the batch"
            if status >= 400:
                refused = classify(
                    Problem(body.get("error") or body),
                    status=status,
                    headers=EMPTY,
                    provider=name,
                    model=model,
                    secret=secret,
                )
                return BatchResult(custom_id, error=refused)
            reader = self._readers(str(body.get("object")))
            reply = reader.read_reply(
                orjson.dumps(body), EMPTY, provider=name, model=model, secret=secret
            )
            return BatchResult(custom_id, reply)
        except NovellusError as failed:
            return BatchResult(custom_id, error=failed)
        except _MISSHAPEN:
            misshapen = unreadable(line, EMPTY, provider=name, model="of the batch")
            return BatchResult(custom_id, error=misshapen)

    def _undone(self, error: Any) -> NovellusError:
        code = str(error.get("code") or "")
        if code == "batch_expired":
            return expired(self._speaker.name)
        if code == "batch_cancelled":
            return cancelled()
        return error_in_band(
            error, provider=self._speaker.name, model="of the batch", secret=self._speaker.secret
        )

    def _translated(self, error: Exception) -> Exception:
        return self._speaker.translate(error, "of the batch")
