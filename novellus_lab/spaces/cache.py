"""`lab.cache`: look into the response cache, put into it, take out of it, and judge it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from novellus_lab.cache.manager import expiry
from novellus_lab.cache.policy import CachePolicy
from novellus_lab.cache.values import VALUE_SCOPE, value_entry, value_key, value_of
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pipeline.judging import (
    JUDGE_PROMPT,
    calibrated,
    judged_pairs,
    keep_judgement,
    read_verdict,
    sample_hits,
    served,
    verdict_of,
)
from novellus_lab.pipeline.log_entries import entries_from_log
from novellus_lab.pipeline.question import PURPOSE_TAG, checked_tags
from novellus_lab.pipeline.request import Request
from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path
    from uuid import UUID

    from novellus_lab.cache.entry import CacheEntry
    from novellus_lab.cache.semantic.calibration import Calibration
    from novellus_lab.cache.semantic.verifier import Verdict
    from novellus_lab.pipeline.judging import Served, ServedHit
    from novellus_lab.pipeline.runtime import Runtime
    from novellus_lab.pipeline.semantic import SemanticStats

_ANY = CachePolicy()
_DEFAULT_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class TierState:
    """One tier at a glance."""

    tier: str
    entries: int | None
    """None where nobody counts them."""
    size_bytes: int | None
    served: int
    """Answers that came from it since this lab was opened."""
    faults: int
    """Reads and writes that failed since then: each was a miss, or an entry that was not stored."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What `lab.cache.stats()` returns. Shows itself as a table."""

    tiers: tuple[TierState, ...]
    coalesced: int
    """Requests since the lab was opened that shared the provider call of an equal one."""
    semantic: SemanticStats
    """What the semantic cache did, and what its index in this process holds."""

    def __getitem__(self, tier: str) -> TierState:
        return next(state for state in self.tiers if state.tier == tier)

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (
                state.tier,
                "" if state.entries is None else f"{state.entries:,}",
                "" if state.size_bytes is None else f"{state.size_bytes / 1e6:,.1f} MB",
                f"{state.served:,}",
                f"{state.faults:,}",
                state.note,
            )
            for state in self.tiers
        ]
        header = ("tier", "entries", "size", "served", "faults", "")
        return table_html(header, rows, (f"{self.coalesced:,} calls shared another's",))


@dataclass(frozen=True, slots=True)
class Match:
    """A kept question, and how like the one searched for it is."""

    prompt: str | None
    value: Any
    """The answer's text, or the value that was set."""
    similarity: float
    """Cosine of the two embeddings: likeness of topic. Whether one answer fits both, the semantic
    cache decides by more than this."""
    model: str | None
    created_at: datetime
    source_request_id: UUID | None

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """How two questions stand to each other. Shows itself as a table."""

    question: str
    other: str
    verdict: Verdict

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        v = self.verdict
        rows = [
            ("question", self.question),
            ("other", self.other),
            ("one answer for both", "yes" if v.accepted else "no"),
            ("score", f"{v.score:.4f}"),
            ("decided by", v.path),
            ("why", "; ".join(v.reasons)),
        ]
        return table_html(("", ""), rows)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """What `lab.cache.calibrate` found. Shows itself as a table; `figure()` draws the curve."""

    calibration: Calibration

    @property
    def threshold(self) -> float:
        """Least score of a hit."""
        return self.calibration.threshold

    @property
    def bound(self) -> float:
        """Upper bound of the share of wrong hits."""
        return self.calibration.bound

    @property
    def recall(self) -> float:
        """Share of the pairs that ask the same which are hits."""
        return self.calibration.recall

    def __repr__(self) -> str:
        c = self.calibration
        return (
            f"CalibrationResult(threshold={c.threshold:.4f}, {c.errors} of {c.hits:,} hits wrong, at "
            f"most {c.bound:.2%} in truth, recall {c.recall:.1%} of {c.positives:,})"
        )

    def figure(self) -> Any:
        """Return the curve of precision and recall over thresholds, with 95% intervals (Plotly).

        Raises:
            MissingDependencyError: Plotly is not installed.
        """
        from novellus_lab.plots.calibration import calibration_figure

        return calibration_figure(self.calibration)

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        c = self.calibration
        rows = [
            ("threshold", f"{c.threshold:.4f}"),
            ("wrong hits", f"{c.errors:,} of {c.hits:,}, at most {c.bound:.2%} in truth"),
            ("recall", f"{c.recall:.1%} of {c.positives:,} pairs that ask the same"),
            ("pairs", f"{c.pairs:,}"),
        ]
        about = (f"bound holds in {c.confidence:.0%} of calibrations", c.embedding_model)
        return table_html(("calibration", f"error rate {c.max_error_rate:.2%}"), rows, about)


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What judges said of the hits since a time. Shows itself as a table."""

    served: Served

    @property
    def bound(self) -> float:
        """Upper bound of the share of wrong hits, at 95%, however often one looks."""
        return self.served.judged.upper_bound()

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        s = self.served
        share = "–" if s.hit_share is None else f"{s.hit_share:.1%} of {s.looked_up:,} requests"
        rows = [
            ("semantic hits", f"{s.hits:,}, {share}"),
            ("judged", f"{s.judged.judged:,}"),
            ("wrong", f"{s.judged.wrong:,}"),
            ("error rate", f"at most {self.bound:.1%}" if s.judged.judged else "not known"),
        ]
        return table_html(("hits", ""), rows, ("95% bound, valid at any time",))


class Matches(list[Match]):
    """What a search found, nearest first. Shows itself as a table."""

    def _repr_html_(self) -> str:
        from novellus_lab.display import table_html

        rows = [
            (f"{m.similarity:.3f}", m.prompt or "", str(m.value)[:160], m.model or "a kept value")
            for m in self
        ]
        return table_html(("similarity", "question", "answer", "model"), rows)


class LabCache:
    """The response cache of a lab. Each method has an async twin: `aget`, `aset`, …

    Answers come and go by themselves; this is for looking, for putting in values of your own, and
    for taking out what is no longer true.
    """

    def __init__(self, live: Callable[[], Runtime]) -> None:
        self._live = live

    def __repr__(self) -> str:
        return "lab.cache: get, set, semantic_search, invalidate, stats, warm, calibrate, judge, export, restore"

    # --- values ------------------------------------------------------------------------------

    async def aget(
        self, key: str, use_semantic: bool = False, semantic_query: str | None = None
    ) -> Any | None:
        """Look a value up: the async twin of `get`."""
        runtime = self._live()
        return await runtime.thread.arun(_get, runtime, key, use_semantic, semantic_query)

    def get(
        self, key: str, use_semantic: bool = False, semantic_query: str | None = None
    ) -> Any | None:
        """Return the value that `set` kept under a key, or None.

        Args:
            key: the very text that it was kept under.
            use_semantic: where there is none, take that of a key which means the same, of those that
                were kept with `generate_embedding=True`.
            semantic_query: the text to compare with those keys; default `key`.

        Raises:
            InvalidRequestError: the key is no text.
            MissingDependencyError: semantic lookups need `novellus_lab[semantic]`.
        """
        runtime = self._live()
        return runtime.thread.run(_get, runtime, key, use_semantic, semantic_query)

    async def aset(
        self,
        key: str,
        value: Any,
        ttl: float | None = _DEFAULT_TTL_S,
        generate_embedding: bool = False,
        *,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a value: the async twin of `set`."""
        runtime = self._live()
        entry = _value(key, value, ttl, tags)
        await runtime.thread.arun(_set, runtime, entry, key if generate_embedding else None)

    def set(
        self,
        key: str,
        value: Any,
        ttl: float | None = _DEFAULT_TTL_S,
        generate_embedding: bool = False,
        *,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a value for every process of this database.

        Args:
            key: any text. Values and answers of models never meet under one key.
            value: anything that JSON holds.
            ttl: seconds; None: for ever.
            generate_embedding: whether `get(…, use_semantic=True)` may find it by a key that means
                the same.
            tags: labels by which `invalidate` finds it.

        Raises:
            InvalidRequestError: an argument is wrong.
        """
        runtime = self._live()
        entry = _value(key, value, ttl, tags)
        runtime.thread.run(_set, runtime, entry, key if generate_embedding else None)

    # --- taking out --------------------------------------------------------------------------

    async def ainvalidate(
        self,
        key: str | None = None,
        *,
        model: str | None = None,
        tags: Mapping[str, Any] | None = None,
        older_than: str | datetime | timedelta | None = None,
        where: Callable[[CacheEntry], bool] | None = None,
        everything: bool = False,
    ) -> int:
        """Take entries out: the async twin of `invalidate`."""
        runtime = self._live()
        condition = _condition(key, model, tags, older_than, where, everything=everything)
        return await runtime.thread.arun(_invalidate, runtime, condition)

    def invalidate(
        self,
        key: str | None = None,
        *,
        model: str | None = None,
        tags: Mapping[str, Any] | None = None,
        older_than: str | datetime | timedelta | None = None,
        where: Callable[[CacheEntry], bool] | None = None,
        everything: bool = False,
    ) -> int:
        """Take entries out of every tier and every process; return how many there were.

        Args:
            key: the value of this key alone.
            model: what this model answered.
            tags: what was made by requests (or kept) with all of these tags.
            older_than: what was made before: a duration (`"7d"`), or a time.
            where: what this function says yes to; it is given each `CacheEntry`.
            everything: all there is.

        What is given must all hold. Other processes drop their copies when they hear of it, within
        milliseconds.

        Raises:
            InvalidRequestError: nothing is named, or wrongly.
            StoreUnavailableError: PostgreSQL can't be asked, and may still hold the entries.
        """
        runtime = self._live()
        condition = _condition(key, model, tags, older_than, where, everything=everything)
        return runtime.thread.run(_invalidate, runtime, condition)

    # --- looking -----------------------------------------------------------------------------

    async def astats(self) -> CacheStats:
        """Return what each tier holds and did: the async twin of `stats`."""
        runtime = self._live()
        return await runtime.thread.arun(_stats, runtime)

    def stats(self) -> CacheStats:
        """Return what each tier holds, and what it did since this lab was opened."""
        runtime = self._live()
        return runtime.thread.run(_stats, runtime)

    async def asemantic_search(self, query: str, top_k: int = 5) -> Matches:
        """Search kept questions: the async twin of `semantic_search`."""
        runtime = self._live()
        return await runtime.thread.arun(_search, runtime, *_checked_search(query, top_k))

    def semantic_search(self, query: str, top_k: int = 5) -> Matches:
        """Return the kept questions (and keys of values) that are most like a text, nearest first.

        Those of calls with `use_semantic_cache` and of `set(…, generate_embedding=True)` are
        searched, whatever they were asked of. Nothing is decided: see `Match.similarity`.

        Raises:
            InvalidRequestError: an empty query, or a `top_k` that is no number.
            MissingDependencyError: semantic search needs `novellus_lab[semantic]`.
            StoreUnavailableError: the database does not answer.
        """
        runtime = self._live()
        return runtime.thread.run(_search, runtime, *_checked_search(query, top_k))

    def explain(self, question: str, other: str) -> Explanation:
        """Return whether the answer to one question would serve another, and why. Asks no model.

        Raises:
            MissingDependencyError: it needs `novellus_lab[semantic]`.
        """
        runtime = self._live()
        return runtime.thread.run(_explain, runtime, question, other)

    # --- how often it is wrong ---------------------------------------------------------------

    def calibrate(
        self,
        pairs: Iterable[Sequence[Any] | Mapping[str, Any]] | None = None,
        *,
        since: str | datetime | timedelta = "90d",
        max_error_rate: float = 0.01,
        confidence: float = 0.95,
    ) -> CalibrationResult:
        """Find the score from which similar questions may share an answer, with a bound that holds.

        Args:
            pairs: labelled pairs, drawn as those in use will be: `(question, other, same)`, or dicts
                with these keys (a frame's `.to_dicts()`). None: those that were judged (`judge`).
            since: where pairs are None, how far back to look for them.
            max_error_rate: share of hits that may be wrong.
            confidence: of the bound, over repeated calibrations.

        The threshold is kept in the database and used from now on by every lab whose YAML asks for
        at least this error rate.

        Raises:
            InvalidRequestError: too few pairs for such a bound (299 hits, all right, for 1% at 95%),
                or too many of them wrong.
            MissingDependencyError: it needs `novellus_lab[semantic]`.
        """
        runtime = self._live()
        given = None if pairs is None else [_pair(n, pair) for n, pair in enumerate(pairs)]
        return runtime.thread.run(
            _calibrate, runtime, given, _since(since), max_error_rate, confidence
        )

    def judge(
        self,
        sample: int = 50,
        *,
        by: str | Callable[[str, str, str], bool],
        since: str | datetime | timedelta = "7d",
        progress: bool | None = None,
    ) -> JudgeReport:
        """Judge a random sample of the semantic hits that were served, and tell what that bounds.

        Args:
            sample: how many to judge, of those that nobody has judged yet.
            by: a model's id, which is asked whether the answer fits; or a function of question,
                source question and answer that says so (`lab.widgets.judge_hits` asks a person).
            since: how far back to look.
            progress: show a bar; default: in a notebook or terminal.

        The bound is anytime-valid: judge some, look, judge more, and stop when you like. It holds for
        the hits of this time, at the share of requests that it names. Judges' calls are in the log,
        with the tag `novellus.purpose`.

        Raises:
            InvalidRequestError: an argument is wrong.
            StoreUnavailableError: the database does not answer.
            ProviderError: the judge could not be asked.
        """
        if isinstance(sample, bool) or not isinstance(sample, int) or not 1 <= sample <= 10_000:
            raise InvalidRequestError(f"sample must be a whole number from 1, not {sample!r:.80}")
        from novellus_lab.display import steps

        runtime, start = self._live(), _since(since)
        runtime.flush(10.0)
        hits = runtime.thread.run(sample_hits, runtime.conninfo, start, sample)
        name = by if isinstance(by, str) else getattr(by, "__qualname__", "a function")
        with steps(len(hits), progress, "judging hits") as step:
            for hit in hits:
                if isinstance(by, str):
                    said = runtime.thread.run(_ask_judge, runtime, by, hit)
                else:
                    said = (bool(by(hit.question, hit.source, hit.answer)), None)
                if said is not None:
                    fits, why = said
                    runtime.thread.run(_keep, runtime, hit, name, fits, why)
                step()
        return JudgeReport(runtime.thread.run(served, runtime.conninfo, start))

    # --- filling -----------------------------------------------------------------------------

    async def awarm(
        self, since: str | datetime | timedelta = "7d", *, ttl: float | None = None
    ) -> int:
        """Fill the cache from the log: the async twin of `warm`."""
        runtime = self._live()
        return await runtime.thread.arun(_warm, runtime, _since(since), ttl)

    def warm(self, since: str | datetime | timedelta = "7d", *, ttl: float | None = None) -> int:
        """Fill the cache from the log: answers that it does not hold (any more), or never did.

        Args:
            since: how far back to look: a duration, or a time.
            ttl: seconds that they are kept from now; None: as configured, from when they were made.

        Returns how many entries were added. Only whole answers of requests that could have been
        cached are taken; reasoning texts are not in the log, and so not in these entries.

        Raises:
            InvalidRequestError: the lab's log is redacted: its texts are not the answers.
            StoreUnavailableError: the database does not answer.
        """
        runtime = self._live()
        return runtime.thread.run(_warm, runtime, _since(since), ttl)

    # --- files -------------------------------------------------------------------------------

    def export(self, path: str | Path) -> int:
        """Write all entries to a Parquet file; return how many there are.

        Raises:
            MissingDependencyError: pyarrow is not installed.
            StoreUnavailableError: the database does not answer.
        """
        from novellus_lab.analytics.cache_files import write_entries

        runtime = self._live()
        entries = runtime.thread.run(_all_entries, runtime)
        return write_entries(entries, path)

    def restore(self, path: str | Path) -> int:
        """Take the entries of a Parquet file that `export` wrote; return how many were taken.

        Those that are expired are left out, and so are those that are here already and younger.

        Raises:
            MissingDependencyError: pyarrow is not installed.
            InvalidRequestError: the file is none that `export` wrote.
        """
        from novellus_lab.analytics.cache_files import read_entries

        runtime = self._live()
        return runtime.thread.run(_take, runtime, read_entries(path))


# --- on the lab's loop -------------------------------------------------------------------------


async def _get(runtime: Runtime, key: str, use_semantic: bool, query: str | None) -> Any | None:
    entry, _ = await runtime.caching.responses.get(value_key(key), _ANY)
    if entry is not None and entry.fresh(time.time()):
        return value_of(entry)
    if not use_semantic:
        return None
    await runtime.caching.semantic.engine()  # raises what is missing
    found = await runtime.caching.semantic.find_like(VALUE_SCOPE, query or key)
    return None if found is None else value_of(found.entry)


async def _set(runtime: Runtime, entry: CacheEntry, embedded: str | None) -> None:
    runtime.caching.responses.put(entry, embedded)
    if embedded is not None:
        await runtime.caching.semantic.engine()  # raises what is missing
        runtime.caching.semantic.learn_text(entry.key, VALUE_SCOPE, embedded)


async def _search(runtime: Runtime, query: str, top_k: int) -> Matches:
    semantic = runtime.caching.semantic
    engine = await semantic.engine()
    await runtime.caching.flush(5.0)
    vector = (await engine.embedder.embed([query]))[0]
    near = await semantic.store.nearest(None, vector, engine.embedder.name, top_k)
    known = await runtime.caching.responses.get_many([n.key for n in near], _ANY)
    return Matches(
        Match(
            prompt=neighbour.prompt,
            value=value_of(entry),
            similarity=neighbour.cosine,
            model=entry.model or None,
            created_at=datetime.fromtimestamp(entry.created_at, UTC),
            source_request_id=entry.source_request_id,
        )
        for neighbour in near
        if (entry := known[neighbour.key][0] if neighbour.key in known else None) is not None
    )


async def _invalidate(
    runtime: Runtime, condition: bytes | Callable[[CacheEntry], bool] | None
) -> int:
    if condition is None:
        return await runtime.caching.clear()
    if isinstance(condition, bytes):
        return await runtime.caching.discard([condition])
    return await runtime.caching.discard_where(condition)


async def _stats(runtime: Runtime) -> CacheStats:
    cache = runtime.caching.responses
    memory = cache.memory
    tiers = [
        TierState(
            "memory",
            len(memory),
            memory.size_bytes,
            cache.served[CacheOutcome.MEMORY],
            0,
            f"{memory.evicted:,} made room for others" if memory.evicted else "",
        )
    ]
    if cache.redis is not None:
        redis = cache.redis.stats()
        faults = redis.read_errors + redis.write_errors + redis.dropped_writes + redis.unreadable
        note = "away" if redis.away else ""
        tiers.append(TierState("redis", None, None, cache.served[CacheOutcome.REDIS], faults, note))
    postgres = cache.postgres.stats()
    size = await cache.postgres.size()
    tiers.append(
        TierState(
            "postgres",
            None if size is None else size.entries,
            None if size is None else size.size_bytes,
            cache.served[CacheOutcome.POSTGRES],
            postgres.read_errors + postgres.write_errors + postgres.dropped_writes,
            "away" if size is None else "",
        )
    )
    semantic = runtime.caching.semantic.stats()
    if semantic.looked_up:
        tiers.append(
            TierState(
                "semantic",
                semantic.entries,
                semantic.size_bytes,
                semantic.hits,
                0,
                f"{semantic.looked_up:,} looked up, {semantic.by_encoder:,} by the encoder",
            )
        )
    return CacheStats(tuple(tiers), cache.served[CacheOutcome.COALESCED], semantic)


async def _warm(runtime: Runtime, since: datetime, ttl_s: float | None) -> int:
    if runtime.content.redact is not None or not runtime.content.log_content:
        raise InvalidRequestError(
            "the cache can't be filled from this lab's log: its texts are redacted or left out, so "
            "they are not the answers that were given"
        )
    await asyncio.to_thread(runtime.log.flush)
    await runtime.caching.flush(5.0)
    added = 0
    configured_s = runtime.settings.cache.ttl_seconds
    async for entry in entries_from_log(runtime.conninfo, since, ttl_s, configured_s):
        runtime.caching.responses.put(entry, None)
        added += 1
    return added


async def _all_entries(runtime: Runtime) -> list[CacheEntry]:
    return [entry async for entry in runtime.caching.responses.entries()]


async def _take(runtime: Runtime, entries: list[CacheEntry]) -> int:
    cache = runtime.caching.responses
    now = time.time()
    known = await cache.get_many([entry.key for entry in entries], _ANY)
    taken = 0
    for entry in entries:
        here = known.get(entry.key)
        if entry.fresh(now) and (here is None or here[0].created_at < entry.created_at):
            cache.put(entry, None)
            taken += 1
    return taken


async def _explain(runtime: Runtime, question: str, other: str) -> Explanation:
    engine = await runtime.caching.semantic.engine()
    return Explanation(question, other, await verdict_of(engine, question, other))


async def _calibrate(
    runtime: Runtime,
    pairs: list[tuple[str, str, bool]] | None,
    since: datetime,
    max_error_rate: float,
    confidence: float,
) -> CalibrationResult:
    engine = await runtime.caching.semantic.engine()
    if pairs is None:
        pairs = await judged_pairs(runtime.conninfo, since)
    least = runtime.settings.cache.semantic_cache.similarity_threshold
    found = await calibrated(
        runtime.conninfo, engine, pairs, max_error_rate, confidence, least=least
    )
    return CalibrationResult(found)


async def _ask_judge(
    runtime: Runtime, model_id: str, hit: ServedHit
) -> tuple[bool, str | None] | None:
    prompt = JUDGE_PROMPT.format(question=hit.question, source=hit.source, answer=hit.answer)
    arguments = {
        "model_id": model_id,
        "temperature": 0.0,
        "tags": {PURPOSE_TAG: "judge a semantic hit"},
        "use_semantic_cache": False,
    }
    started = time.perf_counter()
    prepared = runtime.intake.prepare(prompt, arguments, started, stream=False)
    request = Request.of(prepared.question, started)
    answer = await runtime.pipeline.answer(request, prepared.plan)
    return read_verdict(answer.content)


async def _keep(runtime: Runtime, hit: ServedHit, by: str, fits: bool, why: str | None) -> None:
    await keep_judgement(runtime.conninfo, hit, by, fits=fits, why=why)


# --- arguments ---------------------------------------------------------------------------------


def _value(key: str, value: Any, ttl: float | None, tags: Mapping[str, Any] | None) -> CacheEntry:
    if ttl is not None:
        CachePolicy.parse({"ttl": ttl})
    labels = {} if tags is None else checked_tags(tags)
    return value_entry(key, value, expiry(time.time(), ttl), labels)


def _pair(number: int, given: Any) -> tuple[str, str, bool]:
    if isinstance(given, dict):
        given = tuple(given.get(name) for name in ("question", "other", "same"))
    try:
        question, other, same = given
    except (TypeError, ValueError):
        question = other = same = None
    if not isinstance(question, str) or not isinstance(other, str) or same not in (0, 1):
        raise InvalidRequestError(
            f"pairs[{number}] must be (question, other, same), two texts and True or False, not "
            f"{given!r:.120}"
        )
    return question, other, bool(same)


def _checked_search(query: str, top_k: int) -> tuple[str, int]:
    if not isinstance(query, str) or not query.strip():
        raise InvalidRequestError(f"query must be a text, not {query!r:.80}")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= 1_000:
        raise InvalidRequestError(f"top_k must be a whole number from 1 to 1,000, not {top_k!r}")
    return query, top_k


def _since(given: str | datetime | timedelta) -> datetime:
    from novellus_lab.analytics.requests import moment

    return moment("since", given) or datetime.now(UTC)


def _condition(
    key: str | None,
    model: str | None,
    tags: Mapping[str, Any] | None,
    older_than: str | datetime | timedelta | None,
    where: Callable[[CacheEntry], bool] | None,
    *,
    everything: bool,
) -> bytes | Callable[[CacheEntry], bool] | None:
    """Return a key, or what tells which entries are meant; None: all of them."""
    named = [argument for argument in (key, model, tags, older_than, where) if argument is not None]
    if everything:
        if named:
            raise InvalidRequestError(
                "everything=True is given with other conditions: which is it?"
            )
        return None
    if not named:
        raise InvalidRequestError(
            "say what to take out: key, model, tags, older_than or where; everything=True takes all"
        )
    if key is not None:
        if len(named) > 1:
            raise InvalidRequestError("a key names one entry: give no other condition with it")
        return value_key(key)
    from novellus_lab.analytics.requests import moment

    before = moment("older_than", older_than)
    labels = {} if tags is None else checked_tags(tags)

    def holds(entry: CacheEntry) -> bool:
        return (
            (model is None or model in (entry.model, f"{entry.provider}/{entry.model}"))
            and (before is None or entry.created_at < before.timestamp())
            and all(name in entry.tags and entry.tags[name] == labels[name] for name in labels)
            and (where is None or where(entry))
        )

    return holds
