"""`lab.analytics`: questions to the log, answered with Polars frames."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack

from novellus_lab.analytics import frames, semantic_replay
from novellus_lab.analytics.cache_replay import replay_cache
from novellus_lab.analytics.export import export_log
from novellus_lab.analytics.forecast import forecast as spend_forecast
from novellus_lab.analytics.grouping import Question
from novellus_lab.analytics.imports.imported_frame import imported_frame
from novellus_lab.analytics.imports.importing import import_files
from novellus_lab.analytics.imports.provider_invoices import imported_rows
from novellus_lab.analytics.latency import latency as latency_frame
from novellus_lab.analytics.log_columns import ATTEMPTS, REQUESTS
from novellus_lab.analytics.quality import quality as quality_frame
from novellus_lab.analytics.reconcile import reconcile as reconcile_invoice
from novellus_lab.analytics.reprice import reprice as reprice_frame
from novellus_lab.analytics.stated_prices import read_prices
from novellus_lab.analytics.token_rates import token_rates
from novellus_lab.analytics.waste import waste as waste_frame
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pricing import PriceBook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import date, datetime, timedelta
    from pathlib import Path

    import polars as pl

    from novellus_lab.analytics.export import ExportReport
    from novellus_lab.analytics.forecast import Forecast
    from novellus_lab.analytics.imports.report import ImportReport
    from novellus_lab.analytics.log_mirror import LogMirror
    from novellus_lab.analytics.reconcile import Reconciliation
    from novellus_lab.analytics.selection import Filters
    from novellus_lab.pipeline.runtime import Runtime

    Since = str | datetime | timedelta | None
    By = str | Sequence[str] | None

P = ParamSpec("P")
R = TypeVar("R")


def _twin(
    method: Callable[Concatenate[LabAnalytics, P], R],
) -> Callable[Concatenate[LabAnalytics, P], Coroutine[Any, Any, R]]:
    """Make the async twin of a question: the same arguments, asked in a thread."""

    async def asked(self: LabAnalytics, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    asked.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    asked.__name__ = f"a{method.__name__}"
    asked.__doc__ = f"The async twin of `{method.__name__}`: same arguments."
    return asked


class LabAnalytics:
    """Questions to the log of a lab. Each has an async twin: `acosts`, `alatency`, …

    All take `since` (a duration back from now, a time, or None for everything) and the filters of
    `Filters`; `by` groups by labels (`"model"`, `["provider", "status"]`) and tags (`"tag:team"`);
    `every` by time (`"15m"`, `"1h"`, `"1d"`, `"1w"`, `"month"`) on the clock of `tz`. Amounts are exact
    decimals in US dollars, and what has no price is counted, never taken for 0.
    """

    def __init__(self, mirror: Callable[[], LogMirror], live: Callable[[], Runtime]) -> None:
        self._mirror = mirror
        self._live = live

    def __repr__(self) -> str:
        return (
            "lab.analytics: costs, latency, cache, usage, errors, sessions, quality, waste, reprice, "
            "what_if, reconcile, forecast, load, imported, export"
        )

    def costs(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return spend: `requests`, `unpriced`, `unpriced_share`, `cost_usd`, what it would have been
        without the cache (`uncached_cost_usd`), and what hits saved (`saved_usd`).

        Amounts are of the requests that have a price; NULL where none has.

        Raises:
            InvalidRequestError: an argument is wrong.
            StoreUnavailableError: the database does not answer.
        """
        return frames.costs(self._mirror(), _asked(since, by, every, tz, filters))

    def usage(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return requests, provider calls, and tokens by kind. `input_tokens` includes cached and
        written ones, `output_tokens` reasoning; what the cache served stands in `saved_…_tokens`."""
        return frames.usage(self._mirror(), _asked(since, by, every, tz, filters))

    def latency(
        self,
        since: Since = "7d",
        *,
        of: str = "latency_ms",
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return p50, p95 and p99 with 95% intervals, counts, mean and maximum.

        Answers of providers, of the cache, and of equal calls (`source`) are never mixed. Of
        requests that ended well, unless `status` says otherwise.

        Args:
            of: latency_ms, provider_ms, ttft_ms, queue_ms or overhead_ms.
        """
        return latency_frame(self._mirror(), _asked(since, by, every, tz, filters), of)

    def cache(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return who answered, tier by tier, the hit rate with its 95% interval, and what was saved."""
        return frames.cache(self._mirror(), _asked(since, by, every, tz, filters))

    def errors(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return what did not end well, of how many, with a 95% interval of the rate.

        `by="error_class"` tells failures apart; each is still a share of all requests.
        """
        return frames.errors(self._mirror(), _asked(since, by, every, tz, filters))

    def sessions(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return one row a session, the dearest first: cost, turns, duration, tokens, failures."""
        return frames.sessions(self._mirror(), _asked(since, by, None, tz, filters))

    def quality(
        self,
        since: Since = "30d",
        *,
        by: By = "model",
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return the mean score of answers that were scored, by scorer, beside their mean cost and
        latency, with 95% intervals. Only answers of providers count."""
        return quality_frame(self._mirror(), _asked(since, by, every, tz, filters))

    def waste(
        self,
        since: Since = "7d",
        *,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return what provider calls cost that gave no answer, beside those that did.

        `went` says what became of them: `answer`, `retried` (failed, and another took its place),
        `failed`, `cancelled`, `hedged` (lost the race), `escalated` (not good enough), `shadow`,
        `judge`. Model, provider, status and error class are the call's own, the other labels its
        request's.
        """
        asked = Question(ATTEMPTS, since, by, every, tz, filters)
        return waste_frame(self._mirror(), asked)

    def reprice(
        self,
        since: Since = "7d",
        *,
        as_of: str | date | datetime | None = None,
        by: By = "model",
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Return what provider calls cost at today's knowledge of prices, from what they used.

        Each call at the prices of its own day, or all at those of `as_of`: `logged_usd` beside
        `repriced_usd`, and `difference_usd` over the calls that have both. The log stays as it is.
        What a provider itself said it charged is not changed.
        """
        runtime, asked = self._live(), Question(ATTEMPTS, since, by, every, tz, filters)
        known = {model.id: model.priced_as for model in runtime.catalog}
        return reprice_frame(self._mirror(), asked, PriceBook(), known, as_of)

    def what_if(
        self,
        since: Since = "7d",
        *,
        prices: Mapping[str, Mapping[str, Any]] | None = None,
        on_model: str | None = None,
        cache_ttl: str | timedelta | None = None,
        semantic_threshold: float | None = None,
        sample: int = semantic_replay.SAMPLE,
        by: By = None,
        every: str | None = None,
        tz: str = "UTC",
        **filters: Unpack[Filters],
    ) -> pl.DataFrame:
        """Play the log again: at other prices, on another model, with another cache.

        Args:
            prices: `{"gpt-4o": {"input": 0.002, "output": 0.008}}`, US dollars per 1,000 tokens as in the
                YAML (also `cached_input`, `cache_write`, `reasoning`; what is not stated stays): what
                provider calls would have cost (`repriced_usd`). Calls of other models stay as they were.
            on_model: a configured model: what provider calls would have cost at its prices, for the
                same tokens (`repriced_usd`). Its own answers would be longer or shorter.
            cache_ttl: how long an answer serves (`"1h"`, a timedelta): `would_hits` and `would_usd`
                beside `hits` and `cost_usd`.
            semantic_threshold: the least score of a semantic hit, 0 to 1: hits that fall away are
                counted, those that come are estimated from a sample of the misses.
            sample: so many misses, at most.

        Raises:
            InvalidRequestError: not exactly one of these is given, or it can't be.
            UnknownModelError: no such model is configured.
        """
        wishes = (prices, on_model, cache_ttl, semantic_threshold)
        if sum(wish is not None for wish in wishes) != 1:
            raise InvalidRequestError(
                "what_if takes one of prices=, on_model=, cache_ttl= and semantic_threshold="
            )
        if semantic_threshold is not None:
            asked = _asked(since, by, every, tz, filters)
            return semantic_replay.replay_threshold(
                self._mirror(), asked, semantic_threshold, self._best_scores, sample
            )
        if cache_ttl is not None:
            return replay_cache(self._mirror(), _asked(since, by, every, tz, filters), cache_ttl)
        asked = Question(ATTEMPTS, since, by, every, tz, filters)
        if prices is not None:
            stated = read_prices(prices)
            known = {model.id: model.priced_as for model in self._live().catalog}
            return reprice_frame(self._mirror(), asked, PriceBook(), known, None, stated)
        priced_as = self._live().catalog.get(str(on_model)).priced_as
        return reprice_frame(self._mirror(), asked, PriceBook(), priced_as, None)

    def _best_scores(self, ids: Sequence[str]) -> dict[str, float | None]:
        runtime = self._live()
        settings = runtime.settings.cache.semantic_cache

        async def scored() -> dict[str, float | None]:
            engine = await runtime.caching.semantic.engine()
            free = settings.encoder == "minilm"
            return await semantic_replay.best_scores(runtime.conninfo, engine, ids, may_encode=free)

        runtime.caching.semantic.check()
        return runtime.thread.run(scored) if ids else {}

    def reconcile(
        self,
        invoice: Any = None,
        *,
        tz: str | None = None,
        provider: str | None = None,
        models: Mapping[str, str] | None = None,
        tolerance: float = 0.005,
    ) -> Reconciliation:
        """Compare a provider's usage export with the provider calls of the log, by day and model.

        Args:
            invoice: a usage or cost export as OpenAI or Anthropic give it, or CSV, JSON, JSON lines or
                Parquet (a path, or several), a Polars or pandas frame, or rows: `date`, `model`, and any of `requests`, `input_tokens`, `cached_input_tokens`,
                `cache_write_tokens`, `output_tokens`, `reasoning_tokens`, `cost_usd`, `provider`.
                None: what `load` has brought in of such exports.
            tz: whose days the invoice's are; None: UTC, unless the days of another clock fit far better.
            provider: whose invoice it is; None: of the providers that its models were called at.
            models: the log's name of a model by the invoice's, where they don't match by themselves.
            tolerance: share of a number within which two are the same.

        Raises:
            InvalidRequestError: the invoice can't be read, or an argument is wrong.
        """
        runtime = self._live()
        known = {model.id: model.priced_as for model in runtime.catalog}
        if invoice is None:
            invoice = imported_rows(self._mirror(), provider)
        return reconcile_invoice(
            self._mirror(), invoice, price_list=token_rates(PriceBook(), known), tz=tz,
            provider=provider, models=models, tolerance=tolerance,
        )  # fmt: skip

    def forecast(
        self, period: str = "month", *, tz: str = "UTC", **filters: Unpack[Filters]
    ) -> Forecast:
        """Return spend to the end of this day, week, month, quarter or year, with a 95% interval.

        With less than a week of history there is none, and with less than four no pattern of the
        week; `notes` say so.
        """
        return spend_forecast(self._mirror(), _asked(None, None, None, tz, filters), period)

    def load(
        self,
        *paths: str | Path,
        format: str | None = None,
        price: bool = False,
        strict: bool = False,
        dry_run: bool = False,
        tz: str = "UTC",
    ) -> ImportReport:
        """Bring what other tools have logged into this log, each call once however often it comes.

        Usage and cost exports of OpenAI and Anthropic, LiteLLM's spend logs, Langfuse's observations,
        JSON lines with the columns of `ai_requests`, and what `export` wrote. Sums that a provider
        states by day and model become no requests: they are the table `imported_usage` of `lab.sql`.

        Args:
            paths: files, or directories of them: CSV, JSON, JSON lines, Parquet, plain or gzipped.
            format: `litellm`, `langfuse`, `openai`, `anthropic` or `jsonl`; None: by what is in it.
            price: price calls without a cost, each at the prices of its day.
            strict: a bad row is an error, and nothing is imported; else it is reported and left out.
            dry_run: say what would come, and write nothing.
            tz: the zone of times in JSON lines that have none.

        Raises:
            InvalidRequestError: a file is not there or of no known format, or, if strict, a row is bad.
            StoreUnavailableError: the database does not answer. What was written stays; try again.
        """
        runtime = self._live()
        return import_files(
            paths,
            conninfo=None if dry_run else runtime.conninfo,
            prices=PriceBook(),
            known={model.id: model.priced_as for model in runtime.catalog},
            content=runtime.content,
            format=format,
            price=price,
            strict=strict,
            tz=tz,
        )

    def imported(
        self, since: Since = None, *, by: str | Sequence[str] = ("day", "provider", "model")
    ) -> pl.DataFrame:
        """Return what providers stated in sums and `load` brought in: requests, tokens, `cost_usd`.

        Tokens come from usage exports, dollars from cost exports; NULL where none says. None of it is in
        the log: don't add it to `costs`, compare them with `reconcile()`.

        Args:
            by: `day`, `month` (UTC), `source`, `provider`, `model`, or `dimension:project_id` and the like.
        """
        return imported_frame(self._mirror(), since, by)

    def export(
        self,
        to: str | Path,
        since: Since = None,
        *,
        until: Since = None,
        content: bool = True,
    ) -> ExportReport:
        """Write whole days (UTC) of the log as Parquet: `requests/day=…/data.parquet`, and `attempts/…`.

        A day that was exported before is replaced in one step. `load` brings an export back, every
        row as it was.

        Raises:
            InvalidRequestError: `since` or `until` is no time, or the directory can't be written.
            StoreUnavailableError: the database does not answer.
        """
        conninfo = self._live().conninfo
        return export_log(conninfo, to, since=since, until=until, content=content)

    acosts = _twin(costs)
    ausage = _twin(usage)
    alatency = _twin(latency)
    acache = _twin(cache)
    aerrors = _twin(errors)
    asessions = _twin(sessions)
    aquality = _twin(quality)
    awaste = _twin(waste)
    areprice = _twin(reprice)
    awhat_if = _twin(what_if)
    areconcile = _twin(reconcile)
    aforecast = _twin(forecast)
    aload = _twin(load)
    aimported = _twin(imported)
    aexport = _twin(export)


def _asked(since: Since, by: By, every: str | None, tz: str, filters: Any) -> Question:
    return Question(REQUESTS, since, by, every, tz, filters)
