"""History at other prices: each provider call of the log priced again, from what it used."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from novellus_lab.analytics.frames import UNPRICED
from novellus_lab.analytics.grouping import Question, Usd
from novellus_lab.analytics.log_columns import KEPT_USD, exact_amount
from novellus_lab.analytics.provider_calls import ProviderCalls
from novellus_lab.analytics.stated_prices import check_met, over
from novellus_lab.errors import InvalidRequestError
from novellus_lab.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.pipeline.catalog import PricedAs
    from novellus_lab.pricing import ConfiguredPrice, PriceBook

_COUNTS = (
    *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("cache_write_1h_tokens", "reasoning_tokens", "input_audio_tokens", "cached_audio_tokens"),
    *("output_audio_tokens", "output_image_tokens", "web_searches"),
)
_USED = f"""
SELECT id::text, model_id, provider, response_model, started_at, cost_usd::text, price_version,
    CASE WHEN price_version LIKE '%batch%' THEN 'batch' ELSE raw_usage ->> 'service_tier' END AS tier,
    {", ".join(_COUNTS)}
FROM public.ai_request_attempts
"""  # noqa: S608 - our own names
_BILLED = "provider"
"""`price_version` of what the provider itself said it charged: no list of prices changes that."""


def reprice(
    mirror: LogMirror,
    question: Question,
    prices: PriceBook,
    known: Mapping[str, PricedAs] | PricedAs,
    as_of: str | date | datetime | None,
    stated: Mapping[str, ConfiguredPrice] | None = None,
) -> pl.DataFrame:
    """Return `logged_usd` beside `repriced_usd`, and their difference over the calls that have both.

    Args:
        prices: the book that is in force now.
        known: how configured models are priced, by id; or how all calls are to be priced, whatever
            their model.
        as_of: the day whose prices count for all; None: each call at those of its own day.
        stated: prices to take for some models instead; calls of all others stay as they were logged.

    `unpriced` counts calls that had no price when they were made, `still_unpriced` those that have none
    now. What a provider itself said it charged stays as it is; so does what cost nothing because
    nothing was used.

    Raises:
        InvalidRequestError: `as_of` is no day, or a price is stated of a model that was not called.
    """
    import polars as pl

    at = _moment(as_of)
    met: set[str] = set()

    def again(row: dict[str, Any]) -> Decimal | None:
        if stated is None:
            return _again(row, prices, known, at)
        called = (row["model_id"], row["model_id"].removeprefix(f"{row['provider']}/"))
        met.update(called)
        price = next((stated[name] for name in called if name in stated), None)
        if price is None:
            return None if row["cost_usd"] is None else Decimal(row["cost_usd"])
        return _again(row, prices, known, at, price)

    calls = _Repriced(mirror, question, again)
    check_met(stated or (), met)
    both = f"NOT ({UNPRICED}) AND NOT (repriced_usd IS NULL AND repriced_usd_wide IS NULL)"
    frame = calls.sums(
        {
            "calls": "count(*)",
            "unpriced": f"count(*) FILTER (WHERE {UNPRICED})",
            "still_unpriced": "count(*) FILTER "
            "(WHERE repriced_usd IS NULL AND repriced_usd_wide IS NULL)",
        },
        {
            "logged_usd": Usd("cost_usd"),
            "repriced_usd": Usd("repriced_usd"),
            "_before": Usd("cost_usd", both),
            "_after": Usd("repriced_usd", both),
        },
    )
    difference = (pl.col("_after") - pl.col("_before")).alias("difference_usd")
    return frame.with_columns(difference).drop("_after", "_before")


class _Repriced(ProviderCalls):
    """Provider calls with a second amount beside the logged one."""

    def __init__(
        self, mirror: LogMirror, question: Question, again: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._again = again
        super().__init__(mirror, question)

    def attach(self, mirror: LogMirror, question: Question) -> None:
        super().attach(mirror, question)
        import pyarrow as pa

        self.connection.execute(
            f"CREATE TEMP TABLE repriced (id UUID, repriced_usd {KEPT_USD}, repriced_usd_wide TEXT)"
        )
        bounds = [
            f"started_at {sign} '{bound.astimezone(UTC).isoformat()}'"
            for sign, bound in ((">=", self.selection.since), ("<", self.selection.until))
            if bound is not None
        ]
        query = _USED + (f"WHERE {' AND '.join(bounds)}" if bounds else "")
        for batch in mirror.batches(query):
            amounts = [self._again(row) for row in batch.to_pylist()]
            texts = [None if amount is None else f"{amount:f}" for amount in amounts]
            table = pa.table({"id": batch["id"], "repriced_usd": pa.array(texts, pa.string())})
            self.connection.register("batch", table)
            self.connection.execute(
                f"INSERT INTO repriced SELECT id::UUID, {exact_amount('repriced_usd')} FROM batch"  # noqa: S608
            )
        self.connection.execute(
            "CREATE OR REPLACE TEMP VIEW log AS "
            "SELECT told.*, repriced.* EXCLUDE (id) FROM told LEFT JOIN repriced USING (id)"
        )


def _again(
    row: dict[str, Any],
    prices: PriceBook,
    known: Mapping[str, PricedAs] | PricedAs,
    at: datetime | None,
    stated: ConfiguredPrice | None = None,
) -> Decimal | None:
    logged = None if row["cost_usd"] is None else Decimal(row["cost_usd"])
    counts = {name: row[name] for name in _COUNTS}
    instead = known if "configured" in known else None
    if row["input_tokens"] is None or (
        row["price_version"] == _BILLED and instead is None and stated is None
    ):
        return logged
    if not any(counts.values()):
        return logged
    used: dict[str, Any] = {kind: count or 0 for kind, count in counts.items()}
    name = row["model_id"].removeprefix(f"{row['provider']}/")
    unknown = {"provider": row["provider"], "model": name}
    priced_as: Any = instead or known.get(row["model_id"], unknown)
    if stated is not None:
        priced_as = {**priced_as, "configured": over(priced_as.get("configured", ()), stated)}
    return prices.price(
        Usage(**used),
        **priced_as,
        response_model=None if instead else row["response_model"],
        at=row["started_at"] if at is None else at,
        service_tier=row["tier"],
    ).cost_usd


def _moment(as_of: str | date | datetime | None) -> datetime | None:
    try:
        if isinstance(as_of, str):
            as_of = datetime.fromisoformat(as_of)
        if as_of is None or isinstance(as_of, date):
            if as_of is None or isinstance(as_of, datetime):
                return as_of if as_of is None or as_of.tzinfo else as_of.replace(tzinfo=UTC)
            return datetime.combine(as_of, time(), UTC)
    except ValueError:
        pass
    raise InvalidRequestError(f"as_of must be a day such as '2026-01-31', not {as_of!r:.80}")
