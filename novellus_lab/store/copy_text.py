"""Rows of the log in PostgreSQL's COPY text format, made once, on the calling thread.

The same bytes go to the spool and from there to the server: a record is formatted a single time.
Each line begins with a tag that names its table.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.store.storable import REPLACEMENT, storable_json, storable_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from novellus_lab.records import RequestRecord
    from novellus_lab.types import Attempt, PriceLine, Usage

REQUEST_TAG = b"R"
ATTEMPT_TAG = b"A"

REQUEST_COLUMNS = (
    "id",
    "created_at",
    "kind",
    "stream",
    "status",
    "error_class",
    "error_message",
    "requested_model",
    "picked_model",
    "model",
    "provider",
    "response_model",
    "strategy",
    "rule",
    "candidates",
    "propensity",
    "route_reason",
    "cache",
    "cache_key",
    "cache_similarity",
    "cache_source_id",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "cached_audio_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "web_searches",
    "usage_estimated",
    "raw_usage",
    "price_version",
    "cost_usd",
    "fees_usd",
    "uncached_cost_usd",
    "latency_ms",
    "ttft_ms",
    "queue_ms",
    "route_ms",
    "provider_ms",
    "overhead_ms",
    "original_latency_ms",
    "tags",
    "session_id",
    "experiment",
    "arm",
    "priority",
    "prompt_hash",
    "params",
    "dropped_params",
    "finish_reason",
    "messages",
    "response",
    "tool_calls",
    "attempts",
)

ATTEMPT_COLUMNS = (
    "id",
    "request_id",
    "number",
    "role",
    "model_id",
    "provider",
    "started_at",
    "status",
    "latency_ms",
    "ttft_ms",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "cached_audio_tokens",
    "output_audio_tokens",
    "output_image_tokens",
    "web_searches",
    "usage_estimated",
    "raw_usage",
    "cost_usd",
    "fees_usd",
    "price_version",
    "unpriced_reason",
    "price_lines",
    "response_model",
    "response_id",
    "error_class",
    "error_message",
    "status_code",
    "retry_after_s",
)

_TIME = REQUEST_COLUMNS.index("created_at")
_LATENCY = REQUEST_COLUMNS.index("latency_ms")
_OVERHEAD = REQUEST_COLUMNS.index("overhead_ms")

_NULL = "\\N"
_NO_USAGE = "\t".join([_NULL] * 12)
_BIG = 1 << 63
_MAX_LABEL = 300
"""Characters of an indexed text: an entry of a B-tree holds 2,704 bytes, and some hold two texts."""


def record_lines(record: RequestRecord) -> bytes:
    """Return a request's lines: its attempts, then itself.

    Every field has a form that PostgreSQL takes: what it can't hold (NUL, half a character) becomes
    U+FFFD, a number that is none becomes null inside JSON, a label that an index can't hold is cut.
    """
    lines = [_attempt_line(attempt, record.id) for attempt in record.attempts]
    lines.append(_request_line(record))
    text = "".join(lines)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return storable_text(text).encode()


class LineTemplate:
    """A request's line with id, time and latency left open: for a record that differs in nothing else."""

    __slots__ = ("_after", "_before", "_between")

    def __init__(self, line: bytes) -> None:
        """Take the line of a request without attempts, such as a cache hit."""
        fields = line.split(b"\t")
        self._before = b"\t".join((b"", *fields[_TIME + 1 : _LATENCY], b""))
        self._between = b"\t".join((b"", *fields[_LATENCY + 1 : _OVERHEAD], b""))
        self._after = b"\t".join((b"", *fields[_OVERHEAD + 1 :]))

    def fill(self, request_id: UUID, created_at: datetime, latency_ms: float) -> bytes:
        """Return the line of another request; all of its latency is overhead."""
        latency = b"%r" % latency_ms
        return b"".join(
            (
                b"R%032x\t" % request_id.int,
                orjson.dumps(created_at)[1:-1],
                self._before,
                latency,
                self._between,
                latency,
                self._after,
            )
        )


def _request_line(r: RequestRecord) -> str:
    candidates = r.candidates
    return "\t".join(
        (
            "R" + r.id.hex,
            _time(r.created_at),
            r.kind,
            "t" if r.stream else "f",
            r.status,
            _text(r.error_class),
            _text(r.error_message),
            _text(r.requested_model),
            _text(r.picked_model),
            _label(r.model),
            _text(r.provider),
            _text(r.response_model),
            _text(r.strategy),
            _text(r.rule),
            _json(tuple(candidates)) if candidates else _NULL,
            _number(r.propensity),
            _text(r.route_reason),
            r.cache,
            _NULL if r.cache_key is None else "\\\\x" + r.cache_key.hex(),
            _number(r.cache_similarity),
            _uuid(r.cache_source_id),
            _NO_USAGE if r.usage is None else _usage(r.usage),
            _json(r.raw_usage) if r.raw_usage else _NULL,
            _text(r.price_version),
            _money(r.cost_usd),
            _money(r.fees_usd),
            _money(r.uncached_cost_usd),
            _numbers(
                r.latency_ms,
                r.ttft_ms,
                r.queue_ms,
                r.route_ms,
                r.provider_ms,
                r.overhead_ms,
                r.original_latency_ms,
            ),
            _json(r.tags) if r.tags else "{}",
            _label(r.session_id),
            _label(r.experiment),
            _label(r.arm),
            _text(r.priority),
            _NULL if r.prompt_hash is None else "\\\\x" + r.prompt_hash.hex(),
            _json(r.params) if r.params else "{}",
            _array(r.dropped_params),
            _text(r.finish_reason),
            _NULL if r.messages is None else _json(r.messages),
            _prose(r.response),
            _NULL if r.tool_calls is None else _json(r.tool_calls),
            f"{len(r.attempts)}\n",
        )
    )


def _attempt_line(a: Attempt, request_id: UUID) -> str:
    price = a.price
    return "\t".join(
        (
            "A" + a.id.hex,
            request_id.hex,
            str(a.number),
            a.role,
            _text(a.model_id),
            _text(a.provider),
            _time(a.started_at),
            a.status,
            _numbers(a.latency_ms, a.ttft_ms),
            _usage(a.usage),
            _json(a.raw_usage) if a.raw_usage else _NULL,
            _money(price.cost_usd),
            _money(price.fees_usd),
            _text(price.version or None),
            _text(price.reason),
            _price_lines(price.lines) if price.lines else _NULL,
            _text(a.response_model),
            _text(a.response_id),
            _text(a.error_class),
            _text(a.error_message),
            _NULL if a.status_code is None else _within(a.status_code, 1 << 31),
            _number(a.retry_after_s) + "\n",
        )
    )


def _price_lines(lines: Sequence[PriceLine]) -> str:
    """A bill as JSON. Amounts are texts in it: no reader then makes them floats."""
    coded = [
        f'{{"kind":"{line.kind}","quantity":{line.quantity},"usd_per_million":'
        f'{_quoted(line.usd_per_million)},"cost_usd":{_quoted(line.cost_usd)}}}'
        for line in lines
    ]
    return f"[{','.join(coded)}]"


def _quoted(value: Decimal | None) -> str:
    return "null" if value is None else f'"{value}"'


def _usage(u: Usage) -> str:
    estimated = "t" if u.estimated else "f"
    rare = (
        u.cached_input_tokens,
        u.cache_write_tokens,
        u.cache_write_1h_tokens,
        u.reasoning_tokens,
        u.input_audio_tokens,
        u.cached_audio_tokens,
        u.output_audio_tokens,
        u.output_image_tokens,
        u.web_searches,
    )
    if 0 <= u.input_tokens < _BIG and 0 <= u.output_tokens < _BIG and not any(rare):
        return f"{u.input_tokens}\t{u.output_tokens}\t0\t0\t0\t0\t0\t0\t0\t0\t0\t{estimated}"
    kinds = [_within(number, _BIG) for number in (u.input_tokens, u.output_tokens, *rare)]
    return "\t".join([*kinds, estimated])


def _within(number: int, limit: int) -> str:
    """A count that can't be one is unknown; the provider's own words are in raw_usage."""
    return str(number) if 0 <= number < limit else _NULL


def _numbers(*values: float | None) -> str:
    """Numbers, one column each; one that is none is null. `str` takes ten times as long for each."""
    text = orjson.dumps(values).decode()
    return text[1:-1].replace("null", _NULL).replace(",", "\t")


def _number(value: float | None) -> str:
    return _NULL if value is None or not isfinite(value) else repr(value)


def _time(value: datetime) -> str:
    return orjson.dumps(value).decode()[1:-1]


def _money(value: Decimal | None) -> str:
    """Dollars; what is no amount, or beyond what `numeric` holds, is unknown."""
    if value is None:
        return _NULL
    text = str(value)
    # Exponents, NaN and infinity have letters; they, and giants, are rare.
    if text[-1].isdigit() and len(text) < 1_000 and "E" not in text and "N" not in text:
        return text
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent > -1_000 and value.adjusted() < 1_000:
        return text
    return _NULL


def _label(value: str | None) -> str:
    if value is not None and len(value) > _MAX_LABEL:
        value = value[: _MAX_LABEL - 1] + "…"
    return _text(value)


def _uuid(value: UUID | None) -> str:
    return _NULL if value is None else value.hex


def _text(value: str | None) -> str:
    if value is None:
        return _NULL
    return value if value.isprintable() and "\\" not in value else _prose(value)


def _prose(value: str | None) -> str:
    """A text too long for a look at each of its characters: the searches below are C's own."""
    if value is None:
        return _NULL
    try:
        # JSON's short escapes are COPY's own, and this encoder is the faster one.
        coded = orjson.dumps(value)[1:-1]
        if b"\\u" not in coded:
            return coded.decode()
    except TypeError:
        pass  # half a character
    return (
        value.replace("\\", "\\\\")
        .replace("\n", "\\n")
        .replace("\t", "\\t")
        .replace("\r", "\\r")
        .replace("\x00", REPLACEMENT)
    )


def _json(value: Any) -> str:
    """JSON, escaped for COPY. `bytes` are JSON already."""
    if isinstance(value, bytes):
        text = value.decode()
    else:
        try:
            text = orjson.dumps(value, default=_to_json).decode()
        except (TypeError, ValueError):
            text = orjson.dumps(storable_json(value)).decode()
    if "\\" in text:
        # A NUL, or half a surrogate pair, written as an escape: rare, so the slow way.
        if "\\u0000" in text or "\\ud" in text:
            text = orjson.dumps(storable_json(json.loads(text))).decode()
        text = text.replace("\\", "\\\\")
    return text


def _to_json(value: Any) -> Any:
    if hasattr(value, "items"):
        return dict(value)
    return str(value)


def _array(values: Sequence[str]) -> str:
    if not values:
        return "{}"
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return _text("{" + ",".join(quoted) + "}")
