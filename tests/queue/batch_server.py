"""A server on loopback that speaks the batch APIs of OpenAI and Anthropic, and fails as told."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.loopback import LoopbackServer, Scripted, openai_chat_reply, openai_error, openai_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback import Received


class BatchServer(LoopbackServer):
    """Batches end when `end` is called, or at once with `at_once`.

    Attributes:
        fault: given each request as (method, path), returns what to answer instead, or None.
        after: called with the same when it was done, before it is answered.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        super().__init__()
        self.at_once = at_once
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        """By their ids, as they were made; `lines` holds what was asked."""
        self.says: Callable[[dict[str, Any]], Any] = lambda body: "done"
        """What a request is answered: a text, or an error object as a dict."""
        self.fault: Callable[[str, str], Scripted | None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.lost: set[str] = set()
        """`METHOD /path` whose answers are lost once, after they were done."""
        self.usage = openai_usage(100, 10)

    def asked(self, method: str, path: str) -> list[Received]:
        return [r for r in self.requests if r.method == method and r.path == path]

    def end(self, how: str = "completed", *, answered: int | None = None) -> None:
        """End all batches.

        Args:
            how: completed, expired, cancelled or failed.
            answered: so many of the lines have an answer; None: all.
        """
        for batch in self.batches.values():
            if batch["how"] is None:
                batch["how"] = how
                batch["answered"] = len(batch["lines"]) if answered is None else answered

    async def answer(self, request: Received) -> Scripted:
        method, path = request.method, request.path
        fault = self.fault(method, path)
        if fault is not None:
            return fault
        if path.startswith("/openai/"):  # Azure's two endpoints
            path = "/v1/" + path.removeprefix("/openai/").removeprefix("v1/")
        said = self._answer(method, path, request)
        self.after(method, path)
        if f"{method} {path}" in self.lost:
            self.lost.discard(f"{method} {path}")
            return Scripted(end="abort")
        return said

    def _answer(self, method: str, path: str, request: Received) -> Scripted:
        if path.startswith("/v1/messages/batches"):
            return self._anthropic(method, path.removeprefix("/v1/messages/batches"), request)
        if method == "POST" and path == "/v1/files":
            id = f"file-{len(self.files) + 1}"
            self.files[id] = _file_in(request.body)
            return Scripted(body={"id": id, "object": "file", "bytes": 1, "created_at": 1,
                                  "filename": "x", "purpose": "batch", "status": "processed"})  # fmt: skip
        if found := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
            return Scripted(body=self.files[found[1]], content_type="application/octet-stream")
        if path == "/v1/batches":
            if method == "GET":
                made = [self._openai(b) for b in reversed(self.batches.values())]
                return Scripted(body={"object": "list", "data": made, "has_more": False})
            asked = request.json
            lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
            batch = self._make(lines)
            batch |= {"endpoint": asked["endpoint"], "metadata": asked.get("metadata")}
            return Scripted(body=self._openai(batch))
        found = re.fullmatch(r"/v1/batches/([\w-]+)(/cancel)?", path)
        if found is None or found[1] not in self.batches:
            return openai_error(404, "no such batch")
        batch = self.batches[found[1]]
        if found[2] and batch["how"] is None:
            batch["cancelling"] = True
        return Scripted(body=self._openai(batch))

    def _make(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        id = f"batch_{len(self.batches) + 1}"
        self.batches[id] = {
            "id": id, "lines": lines, "how": "completed" if self.at_once else None,
            "answered": len(lines), "made": time.time(), "cancelling": False,
        }  # fmt: skip
        return self.batches[id]

    # --- OpenAI ------------------------------------------------------------------------------

    def _openai(self, batch: dict[str, Any]) -> dict[str, Any]:
        how = batch["how"]
        status = how or ("cancelling" if batch["cancelling"] else "in_progress")
        made = {
            "id": batch["id"], "object": "batch", "endpoint": batch["endpoint"],
            "completion_window": "24h", "input_file_id": "x", "metadata": batch["metadata"],
            "created_at": int(batch["made"]), "expires_at": int(batch["made"]) + 86_400,
            "status": status, "output_file_id": None, "error_file_id": None, "errors": None,
            "request_counts": {"total": len(batch["lines"]), "completed": 1, "failed": 0},
        }  # fmt: skip
        if how == "failed":
            made["errors"] = {"object": "list", "data": [
                {"code": "invalid_json_line", "message": "it is no JSON", "line": 1, "param": None}
            ]}  # fmt: skip
        elif how is not None:
            self._write_files(batch, made)
        return made

    def _write_files(self, batch: dict[str, Any], made: dict[str, Any]) -> None:
        answers, errors = [], []
        for number, line in enumerate(reversed(batch["lines"])):  # in no order that was promised
            place = len(batch["lines"]) - 1 - number
            result = {
                "id": f"r{number}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": None,
            }
            said = self.says(line["body"])
            if place >= batch["answered"]:
                code = f"batch_{batch['how']}"
                errors.append(result | {"error": {"code": code, "message": "too late"}})
            elif isinstance(said, dict):
                response = {"status_code": 400, "request_id": "q", "body": {"error": said}}
                errors.append(result | {"response": response})
            else:
                reply = json.loads(
                    openai_chat_reply(said, line["body"]["model"], usage=self.usage).body
                )
                answers.append(
                    result | {"response": {"status_code": 200, "request_id": "q", "body": reply}}
                )
        for name, rows in (("output", answers), ("error", errors)):
            if rows:
                id = f"{batch['id']}-{name}"
                self.files[id] = b"\n".join(
                    json.dumps(row, ensure_ascii=False).encode() for row in rows
                )
                made[f"{name}_file_id"] = id

    def _reply(self, line: dict[str, Any], said: str) -> Any:
        model = line["body"]["model"]
        if line["url"].endswith("/responses"):
            spoken = {"type": "output_text", "text": said, "annotations": []}
            message = {"type": "message", "id": "m", "role": "assistant", "content": [spoken]}
            usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
            return {"id": "resp_1", "object": "response", "model": model, "status": "completed",
                    "output": [message], "usage": usage}  # fmt: skip
        return json.loads(openai_chat_reply(said, model, usage=self.usage).body)

    # --- Anthropic ---------------------------------------------------------------------------

    def _anthropic(self, method: str, path: str, request: Received) -> Scripted:
        if path == "" and method == "POST":
            return Scripted(body=self._message_batch(self._make(request.json["requests"])))
        if path == "":
            made = [self._message_batch(b) for b in reversed(self.batches.values())]
            return Scripted(body={"data": made, "has_more": False})
        _, id, *rest = path.split("/")
        batch = self.batches.get(id)
        if batch is None:
            error = {"type": "not_found_error", "message": "no such batch"}
            return Scripted(404, body={"type": "error", "error": error})
        if rest == ["results"]:
            lines = [self._message_result(batch, n) for n in reversed(range(len(batch["lines"])))]
            return Scripted(body=b"\n".join(lines), content_type="application/x-jsonl")
        if rest == ["cancel"] and batch["how"] is None:
            batch["cancelling"] = True
        return Scripted(body=self._message_batch(batch))

    def _message_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        how, total = batch["how"], len(batch["lines"])
        counts = dict.fromkeys(("succeeded", "errored", "expired", "canceled", "processing"), 0)
        if how is None:
            counts["processing"] = total
        else:
            counts["succeeded"] = batch["answered"]
            counts["expired" if how == "expired" else "canceled"] = total - batch["answered"]
        made = datetime.fromtimestamp(batch["made"], UTC)
        return {
            "id": batch["id"], "type": "message_batch", "request_counts": counts,
            "processing_status": "ended" if how else "canceling" if batch["cancelling"] else "in_progress",
            "created_at": made.isoformat().replace("+00:00", "Z"),
            "expires_at": made.isoformat().replace("+00:00", "Z"),
            "results_url": "http://192.0.2.1/not-here",
        }  # fmt: skip

    def _message_result(self, batch: dict[str, Any], place: int) -> bytes:
        line = batch["lines"][place]
        said = self.says(line["params"])
        if place >= batch["answered"]:
            result: Any = {"type": "expired" if batch["how"] == "expired" else "canceled"}
        elif isinstance(said, dict):
            result = {"type": "errored", "error": {"type": "error", "error": said}}
        else:
            result = {"type": "succeeded", "message": {
                "id": "msg_1", "type": "message", "role": "assistant", "model": line["params"]["model"],
                "content": [{"type": "text", "text": said}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 100, "output_tokens": 10, "service_tier": "batch"},
            }}  # fmt: skip
        return json.dumps(
            {"custom_id": line["custom_id"], "result": result}, ensure_ascii=False
        ).encode()


def _file_in(body: bytes) -> bytes:
    """Return the file of a multipart body."""
    boundary = body.split(b"\r\n", 1)[0]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    raise AssertionError("no file in it")
