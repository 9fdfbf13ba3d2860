"""Providers' usage and cost exports as the rows of an invoice, from files or as they were imported."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.imports.calls import COUNTS, BadRowError, UsageBucket
from novellus_lab.analytics.imports.files import read_rows
from novellus_lab.analytics.imports.formats import format_of, formats
from novellus_lab.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from novellus_lab.analytics.log_mirror import LogMirror

_DATED = re.compile(r"-20\d\d-?\d\d-?\d\d$")
_STATED = """
SELECT bucket_start, bucket_end, provider, model,
    coalesce(dimensions ->> 'batch', 'false') = 'true'
        OR 'batch' IN (dimensions ->> 'service_tier', dimensions ->> 'usage_type') AS batch,
    requests, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
    cost_usd::text AS cost_usd
FROM public.ai_imported_usage AS stated
WHERE source = provider OR NOT EXISTS (
    SELECT FROM public.ai_imported_usage AS own
    WHERE own.provider = stated.provider AND own.source = own.provider)
ORDER BY bucket_start, id
"""  # a gateway's sums are of the same calls as the provider's own
_TOLD = ("requests", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")


def provider_rows(path: Path) -> list[dict[str, Any]] | None:
    """Read a provider's own export; None if the file is of another form.

    Raises:
        InvalidRequestError: it is one, and a row of it can't be read.
    """
    known = formats(UTC)
    found = None
    rows: list[dict[str, Any]] = []
    for row in read_rows(path):
        if found is None:
            found = None if row.error else format_of(row.values, known)
            if found is None or found.name not in ("openai", "anthropic", "litellm"):
                return None
        if row.error:
            raise InvalidRequestError(f"{row.file}:{row.line}: {row.error}")
        for values in found.expand(row.values):
            try:
                item = found.read(values)
            except BadRowError as error:
                raise InvalidRequestError(f"{row.file}:{row.line}: {error}") from None
            if isinstance(item, UsageBucket):
                rows.append(_row(item))
    return _with_one_name(rows)


def imported_rows(mirror: LogMirror, provider: str | None) -> list[dict[str, Any]]:
    """Return what was imported of providers' sums: tokens of their usage, dollars of their cost exports.

    Raises:
        InvalidRequestError: nothing was imported.
    """
    rows = [row for batch in mirror.batches(_STATED) for row in batch.to_pylist()]
    if provider is not None:
        rows = [row for row in rows if row["provider"] == provider.lower()]
    if not rows:
        of = "" if provider is None else f" of {provider}"
        raise InvalidRequestError(
            f"no usage{of} was imported: name an invoice, or bring a provider's usage or cost export in "
            f"with `novellus import`"
        )
    for row in rows:
        row["date"], row["end"] = row.pop("bucket_start"), row.pop("bucket_end")
    return _with_one_name(rows)


def _row(bucket: UsageBucket) -> dict[str, Any]:
    what = bucket.dimensions
    tiers = (what.get("service_tier"), what.get("usage_type"))
    return {
        "date": bucket.start,
        "end": bucket.end,
        "provider": bucket.provider,
        "model": bucket.model,
        "batch": what.get("batch") == "true" or "batch" in tiers,
        **{name: bucket.counts.get(name) for name in COUNTS if name in _TOLD},
        "cost_usd": bucket.cost_usd,
    }


def _with_one_name(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give a model one name: Anthropic's costs leave out the date that its usage has in it."""
    rows = list(rows)
    dated: dict[str, set[str]] = {}
    for row in rows:
        if row["model"] is not None and _DATED.search(row["model"]):
            dated.setdefault(_DATED.sub("", row["model"]), set()).add(row["model"])
    for row in rows:
        names = dated.get(row["model"] or "", set())
        if len(names) == 1:
            row["model"] = next(iter(names))
    return rows
