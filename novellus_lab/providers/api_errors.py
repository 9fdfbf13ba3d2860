"""What a provider's API says when it says no, in our terms.

The same reading serves an HTTP error, an `error` object in a 200 body, and one in the middle of a
200 event stream. OpenAI and its compatible servers (Azure, OpenRouter, Groq, Mistral, vLLM,
llama.cpp, …), Anthropic, Google and Ollama differ in where they put the message and in which codes
they use; all that are known are read here.
"""

from __future__ import annotations

import re
import socket
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextWindowExceededError,
    NovellusError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    UnsupportedParameterError,
)
from novellus_lab.providers.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx
    import httpx2

_NO_HEADERS: Mapping[str, str] = {}

_CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"}
)
_CONTEXT_WORDS = re.compile(
    r"maximum context length|context[ _](?:length|window|size)|prompt is too long"
    r"|reduce the length of the (?:messages|prompt|input)|input is too long"
    r"|too large for model with \d+ maximum context|exceeds? (?:the )?context limit"
    r"|exceeds the maximum number of tokens",
    re.IGNORECASE,
)
_FILTER_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "content_filter_error",
    }
)
_FILTER_WORDS = re.compile(r"blocked by (?:our )?content filter", re.IGNORECASE)
_NO_MONEY_CODES = frozenset(
    {
        "billing_error",
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_credits",
        "credit_balance_exhausted",
    }
)
_NO_MONEY_WORDS = re.compile(r"credit balance is too low", re.IGNORECASE)
_UNSUPPORTED_CODES = frozenset(
    {"unsupported_parameter", "unsupported_value", "unknown_parameter_for_model"}
)
_UNSUPPORTED_WORDS = (
    # Anthropic has no code for it. Of two that exclude each other, the second is the one to drop.
    re.compile(r"`(?P<param>temperature|top_p|top_k)` (?:is deprecated|is not supported)"),
    re.compile(r"`temperature` and `(?P<param>top_p)` cannot both be"),
    re.compile(r"`(?P<param>temperature|top_p|top_k)` (?:may only|must) be .* when thinking"),
    re.compile(r"(?P<param>[\w.]+): Extra inputs are not permitted"),
    re.compile(r'Unknown name "(?P<param>\w+)"'),  # Google
    re.compile(r"does not support (?P<param>tools|thinking)"),  # Ollama
)
_RATE_CODES = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "requests",
        "tokens",
        "too_many_requests",
        "resource_exhausted",
    }
)
_KEY_CODES = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "unauthenticated"}
)
_KEY_CODES_OF_400 = frozenset(
    {
        "api_key_invalid",
        "api_key_expired",
        "api_key_service_blocked",
        "failed_precondition",  # Gemini is not offered where the request came from, or unbilled
    }
)
"""Google's: it answers 400 to a wrong key."""
_TIME_CODES = frozenset({"timeout_error", "deadline_exceeded"})
_BAD_CODES = frozenset(
    {
        "invalid_request_error",
        "invalid_prompt",
        "model_not_found",
        "invalid_value",
        "not_found_error",
        "request_too_large",
        "invalid_argument",
    }
)


class RefusedParameterError(BadRequestError, UnsupportedParameterError):
    """The server itself refused a parameter; `param` is its name, where it said so.

    Both a `ProviderError` (a call was made, if an unpaid one) and what we raise ourselves where we
    know beforehand.
    """

    code = "unsupported_parameter"
    param: str | None = None


class Problem:
    """An error object, read: message, code, kind, status, and the parameter that it names."""

    __slots__ = ("code", "kind", "message", "param", "raw", "status")

    def __init__(self, error: Any) -> None:
        self.raw: Mapping[str, Any] = error if isinstance(error, dict) else {}
        if not isinstance(error, dict):
            error = {"message": str(error)}
        message = error.get("message") or error.get("detail") or error.get("error_description")
        if isinstance(message, dict | list):  # FastAPI's list of validation errors
            message = orjson.dumps(message).decode()
        self.message = str(message or "").strip()
        code, name = error.get("code"), error.get("status")
        stated = str(code or "")
        self.status = int(stated) if re.fullmatch(r"[45]\d\d", stated) else 0
        """An HTTP status that stands in the error itself; 0 where none does."""
        # Google's `code` is the HTTP status; the code proper is called `status`.
        self.code = name if isinstance(name, str) and (self.status or not code) else stated
        self.kind = str(error.get("type") or "")
        param = error.get("param")
        self.param = param if isinstance(param, str) else None
        metadata = error.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):
            # OpenRouter's own message is "Provider returned error"; what the provider said is here.
            self.message = f"{self.message}: {metadata['raw']}"

    @property
    def codes(self) -> set[str]:
        found = {self.code.lower(), self.kind.lower()}
        inner = self.raw.get("innererror") or self.raw.get("inner_error")
        if isinstance(inner, dict):
            found.add(str(inner.get("code") or "").lower())
        found.update(str(detail.get("reason") or "").lower() for detail in self.details)
        return found - {""}

    @property
    def details(self) -> list[Mapping[str, Any]]:
        """Google's: what exactly is wrong, which quota is used up, how long to wait."""
        details = self.raw.get("details")
        return (
            [d for d in details if isinstance(d, dict)] if isinstance(details, list | tuple) else []
        )

    @property
    def retry_delay_s(self) -> float | None:
        for detail in self.details:
            delay = detail.get("retryDelay")
            if isinstance(delay, str):
                return _duration_s(delay)
        return None

    @property
    def daily_quota(self) -> bool:
        """Whether a quota of a day is used up: waiting a minute does not help."""
        return any(
            "PerDay" in str(violation.get("quotaId"))
            for detail in self.details
            for violation in detail.get("violations") or ()
            if isinstance(violation, dict)
        )

    @property
    def refused(self) -> str | None:
        """The parameter that the message says is not taken, where no code says so."""
        for words in _UNSUPPORTED_WORDS:
            if (found := words.search(self.message)) is not None:
                return found["param"]
        return None

    @property
    def moderated(self) -> bool:
        """OpenRouter's moderation answers 403 with the reasons in its metadata."""
        metadata = self.raw.get("metadata")
        return isinstance(metadata, dict) and bool(metadata.get("reasons"))


def read_error(body: bytes) -> Problem | None:
    """Read an error body; None where it is no JSON object."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(data, list) and data:  # Google's compatible endpoint wraps errors in a list
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    return Problem(error if error else data)


def error_in_band(
    error: Any,
    *,
    provider: str,
    model: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    secret: str | None = None,
) -> NovellusError:
    """Return what an error object inside a 200 answer, or a 200 stream, means."""
    problem = Problem(error)
    return classify(
        problem,
        status=problem.status,
        headers=headers,
        provider=provider,
        model=model,
        secret=secret,
    )


def classify(
    problem: Problem,
    *,
    status: int,
    headers: Mapping[str, str],
    provider: str,
    model: str,
    secret: str | None = None,
) -> NovellusError:
    """Return the error that a problem is.

    Args:
        status: the HTTP status; 0 where the error came inside a 200 answer without a status.
    """
    codes, message = problem.codes, problem.message
    said = redact(message, secret)[:1000] or "it gave no reason"
    text = f"{provider} model {model!r}: {said}"
    if status:
        text += f" (HTTP {status}{f', {redact(problem.code)}' if problem.code and problem.code != str(status) else ''})"
    elif problem.code:
        text += f" ({redact(problem.code)})"
    request_id = _request_id(headers)

    def error(kind: type[ProviderError], hint: str = "", **more: Any) -> ProviderError:
        return kind(
            text + (f". {hint}" if hint else ""),
            provider=provider,
            status_code=status or 200,
            provider_request_id=request_id,
            **more,
        )

    refused_param = problem.refused
    if (codes & _UNSUPPORTED_CODES or refused_param) and status in (0, 400, 422):
        named = problem.param or refused_param
        refused = RefusedParameterError(
            f"{text}. Leave {named or 'it'} out, choose another model, or set "
            f"`on_unsupported: drop` for this one in the configuration",
            provider=provider,
            status_code=status or 200,
            provider_request_id=request_id,
        )
        refused.param = named
        return refused
    if (
        codes & _FILTER_CODES
        or problem.moderated
        or (status == 400 and _FILTER_WORDS.search(message))
        or ("invalid_prompt" in codes and "policy" in message)
    ):
        return error(ContentFilteredError)
    if codes & _CONTEXT_CODES:
        return error(ContextWindowExceededError)
    if status in (0, 400, 413, 422, 500) and _CONTEXT_WORDS.search(message):
        return error(ContextWindowExceededError)
    if codes & _NO_MONEY_CODES or status == 402 or _NO_MONEY_WORDS.search(message):
        return error(
            RateLimitError,
            "The account has no credit left; waiting does not help",
            retryable=False,
            retry_after_s=retry_after_s(headers, message),
        )
    if status == 429 or (not status and codes & _RATE_CODES):
        too_large = message.lower().startswith("request too large")
        wait_s = problem.retry_delay_s
        if wait_s is None:
            wait_s = retry_after_s(headers, message, problem.raw)
        return error(
            RateLimitError,
            retry_after_s=None if too_large else wait_s,
            retryable=not too_large and not problem.daily_quota,
        )
    if (
        status in (401, 403)
        or (not status and codes & _KEY_CODES)
        or (status in (0, 400) and codes & _KEY_CODES_OF_400)
    ):
        hint = "Check the key, and that it may use this model" if status != 403 else ""
        return error(AuthenticationError, hint)
    if status == 408 or codes & _TIME_CODES:
        return error(ProviderTimeoutError)
    if status == 404:
        return error(
            BadRequestError,
            "No such model (or deployment), or no such path: check the model's name and base_url",
        )
    if status == 409 or status >= 500:
        return error(ProviderUnavailableError, retry_after_s=retry_after_s(headers))
    if status >= 400 or codes & _BAD_CODES:
        return error(BadRequestError)
    return error(ProviderUnavailableError)


def from_sdk(error: Exception, *, provider: str, model: str, secret: str | None) -> NovellusError:
    """Return what an exception of the SDK, or of the HTTP library below it, means."""
    response = getattr(error, "response", None)
    if response is not None:
        return from_response(response, provider=provider, model=model, secret=secret)
    if _timed_out(error):
        return ProviderTimeoutError(
            f"{provider} model {model!r} did not answer in time", provider=provider
        )
    why = redact(str(error.__cause__ or error) or type(error).__name__, secret)[:300]
    unavailable = ProviderUnavailableError(
        f"{provider} model {model!r} can't be reached, or broke the connection: {why}",
        provider=provider,
    )
    unavailable.never_sent = _never_connected(error)
    return unavailable


_NO_CONNECTION = frozenset(("ConnectError", "ClientConnectorError"))


def _never_connected(error: BaseException) -> bool:
    """Whether there was no connection to send anything through, as the libraries below tell.

    An SDK's aiohttp transport calls a connection that the server closed a ConnectError, too: where
    aiohttp's own error stands below, that one counts.
    """
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    if any(isinstance(one, (ConnectionRefusedError, socket.gaierror)) for one in chain):
        return True
    below = [one for one in chain if type(one).__module__.startswith("aiohttp")]
    return any(
        kind.__name__ in _NO_CONNECTION for one in below or chain for kind in type(one).__mro__
    )


def from_response(
    response: httpx2.Response | httpx.Response, *, provider: str, model: str, secret: str | None
) -> NovellusError:
    """Return what an HTTP response with an error status means. Its body must have been read."""
    problem = read_error(response.content)
    if problem is None:
        problem = Problem({"message": _plain(response.content, response.headers)})
    return classify(
        problem,
        status=response.status_code,
        headers=response.headers,
        provider=provider,
        model=model,
        secret=secret,
    )


def _timed_out(error: BaseException) -> bool:
    """Whether time ran out. The aiohttp transport reports any lost connection as a timeout too,
    so it is the cause below that counts."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError):
            return True
        if seen.__cause__ is None and type(seen).__module__.startswith(("httpx", "httpcore")):
            return "Timeout" in type(seen).__name__
        seen = seen.__cause__
    return False


def unreadable(
    body: bytes, headers: Mapping[str, str], *, provider: str, model: str
) -> ProviderUnavailableError:
    """Return the error for a 200 answer that is not what the API promises."""
    return ProviderUnavailableError(
        f"{provider} model {model!r} answered with what can't be read as JSON: "
        f"{redact(_plain(body, headers))}",
        provider=provider,
        status_code=200,
        provider_request_id=_request_id(headers),
    )


def _request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of a call: OpenAI's, Azure's, Anthropic's name for it."""
    return next(
        (
            found
            for name in ("x-request-id", "apim-request-id", "request-id")
            if (found := headers.get(name))
        ),
        None,
    )


def truncated(*, provider: str, model: str) -> ProviderUnavailableError:
    """Return the error for a stream that stopped without having ended."""
    return ProviderUnavailableError(
        f"{provider} model {model!r}: the stream stopped before the answer was complete",
        provider=provider,
        status_code=200,
    )


def gave_up(*, provider: str, model: str) -> ProviderUnavailableError:
    """Return the error for an answer without content whose finish reason is an error."""
    return ProviderUnavailableError(
        f"{provider} model {model!r} gave up before it had answered",
        provider=provider,
        status_code=200,
    )


def _plain(body: bytes, headers: Mapping[str, str]) -> str:
    text = body[:4000].decode("utf-8", "replace")
    kind = headers.get("content-type", "").partition(";")[0] or "no content type"
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    shown = title[1] if title else text
    shown = " ".join(shown.split())[:200]
    return f"{kind}, {shown!r}" if shown else f"{kind}, empty"


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:ms|s|m|h|d)\s?)+)", re.I
)


def _duration_s(text: str) -> float | None:
    """Read `6m0s`, `120ms`, `7.66s`."""
    parts = _DURATION.findall(text)
    return sum(float(n) * _UNITS[unit] for n, unit in parts) if parts else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def retry_after_s(
    headers: Mapping[str, str], message: str = "", error: Mapping[str, Any] | None = None
) -> float | None:
    """Return how many seconds the provider asks us to wait, or None where it does not say.

    In order: `retry-after-ms`, `retry-after` (seconds or an HTTP date), the words of the message
    ("try again in 6.2s"), and the reset times of the limits that are used up.
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return max(0.0, ms / 1000)
    after = headers.get("retry-after")
    if after is not None:
        if (seconds := _number(after)) is not None:
            return max(0.0, seconds)
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
        except ValueError:
            pass
    if (found := _TRY_AGAIN.search(message)) is not None:
        return _duration_s(found[1].replace(" ", ""))
    resets = [_reset_s(headers, bucket) for bucket in ("requests", "tokens")]
    if any(r is not None for r in resets):
        return max(r for r in resets if r is not None)
    reset = headers.get("x-ratelimit-reset")
    if reset is None and error is not None:
        metadata = error.get("metadata")
        inner = metadata.get("headers") if isinstance(metadata, dict) else None
        if isinstance(inner, dict):
            reset = next(
                (str(v) for k, v in inner.items() if k.lower() == "x-ratelimit-reset"), None
            )
    return _moment_s(reset)


def _reset_s(headers: Mapping[str, str], bucket: str) -> float | None:
    reset = headers.get(f"x-ratelimit-reset-{bucket}")
    if reset is None or headers.get(f"x-ratelimit-remaining-{bucket}", "0") != "0":
        return None
    # A bare number is Azure's, in milliseconds (120 requests a minute reset in "500").
    bare = _number(reset)
    return _duration_s(reset) if bare is None else max(0.0, bare / 1000)


def _moment_s(reset: str | None) -> float | None:
    """Read a reset time: seconds from now, or an epoch in seconds or milliseconds."""
    value = _number(reset)
    if value is None:
        return _duration_s(reset) if reset else None
    if value > 1e11:
        value = value / 1000 - time.time()
    elif value > 1e9:
        value -= time.time()
    return max(0.0, value)
