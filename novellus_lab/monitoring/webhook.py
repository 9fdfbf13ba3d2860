"""JSON to a URL that somebody listens at. The URL is a secret: only its host is ever told."""

from __future__ import annotations

import base64
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from novellus_lab.errors import InvalidRequestError, WebhookError

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_S = 10.0
_PAUSES_S = (0.5, 2.0, 8.0)
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Webhook:
    """Where to POST to: `http://` or `https://`. User and password in it are sent as Basic credentials.

    Raises:
        InvalidRequestError: it is no such URL.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except (ValueError, TypeError, AttributeError):
            good = False
        if not good or any(c.isspace() or ord(c) < 32 for c in self.url):
            # The URL itself is not repeated: it may hold a token.
            raise InvalidRequestError("webhook must be a URL such as https://host/path")

    @property
    def place(self) -> str:
        """The part that may be told."""
        parts = self._parts
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"

    def post(self, message: dict[str, Any], wait: Callable[[float], object] = time.sleep) -> None:
        """Send a message; again where that may help, four times at most.

        Args:
            wait: waits so many seconds between tries.

        Raises:
            WebhookError: it was not taken. A redirect is not followed.
        """
        body = json.dumps(message, allow_nan=False).encode()
        why = ""
        for pause in (*_PAUSES_S, None):
            try:
                status = self._send(body)
            except (OSError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}"
            else:
                if 200 <= status < 300:
                    return
                why = f"HTTP {status}"
                if status not in _WORTH_ANOTHER_TRY:
                    break
            if pause is not None:
                wait(pause)
        raise WebhookError(f"the webhook at {self.place} did not take it: {why}")

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def _send(self, body: bytes) -> int:
        parts = self._parts
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        headers = {"Content-Type": "application/json", "User-Agent": "novellus_lab"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read(65_536)
            return response.status
        finally:
            connection.close()
