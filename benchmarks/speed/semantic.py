"""What a semantic hit costs at 100,000 entries, embedding included; every hit is logged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks.speed.contenders import MODEL, our_model
from benchmarks.speed.figures import Effort, Row, Section, interleaved, median_ratio
from benchmarks.speed.processes import count_rows, database, loopback_server
from novellus_lab import Lab

if TYPE_CHECKING:
    from novellus_lab.pipeline.runtime import Runtime

HITS_PER_S = 2_000
FAST_P99_MS = 10.0
GREY_P99_MS = 50.0
ENCODER_SHARE = 0.8
CONCURRENCY = 8

_THINGS = [
    "bread",
    "soup",
    "rice",
    "pasta",
    "curry",
    "stew",
    "salad",
    "pizza",
    "cake",
    "pie",
    "jam",
    "cheese",
    "yogurt",
    "butter",
    "tofu",
    "noodles",
    "dumplings",
    "pancakes",
    "waffles",
    "omelettes",
    "sausages",
    "burgers",
    "tacos",
    "burritos",
    "sushi",
    "kimchi",
    "hummus",
    "falafel",
    "lasagne",
    "risotto",
    "paella",
    "gnocchi",
    "chutney",
    "pickles",
    "granola",
    "muffins",
    "scones",
    "biscuits",
]
_KINDS = [
    "sweet",
    "sour",
    "spicy",
    "salty",
    "bitter",
    "crispy",
    "soft",
    "cold",
    "hot",
    "vegan",
    "frozen",
    "fried",
    "baked",
    "grilled",
    "smoked",
    "dried",
    "fresh",
    "creamy",
    "crunchy",
    "fluffy",
    "sticky",
    "juicy",
    "plain",
    "fancy",
    "quick",
    "cheap",
    "healthy",
    "organic",
]
_PLACES = [
    "Italy",
    "France",
    "Spain",
    "Greece",
    "Turkey",
    "India",
    "China",
    "Japan",
    "Korea",
    "Vietnam",
    "Mexico",
    "Peru",
    "Brazil",
    "Morocco",
    "Egypt",
    "Ethiopia",
    "Nigeria",
    "Kenya",
    "Canada",
    "Norway",
    "Sweden",
    "Finland",
    "Poland",
    "Hungary",
    "Austria",
    "Germany",
    "Belgium",
    "Portugal",
    "Ireland",
    "Scotland",
    "Wales",
    "England",
    "Iceland",
    "Denmark",
    "Estonia",
    "Latvia",
    "Lithuania",
    "Ukraine",
    "Romania",
    "Bulgaria",
    "Serbia",
    "Croatia",
    "Slovenia",
    "Slovakia",
    "Georgia",
    "Armenia",
    "Iran",
    "Iraq",
    "Israel",
    "Lebanon",
    "Jordan",
    "Kuwait",
    "Oman",
    "Yemen",
    "Nepal",
    "Bhutan",
    "Bangladesh",
    "Thailand",
    "Laos",
    "Cambodia",
    "Malaysia",
    "Indonesia",
    "Philippines",
    "Taiwan",
    "Mongolia",
    "Australia",
    "Fiji",
    "Samoa",
    "Tonga",
    "Chile",
    "Bolivia",
    "Ecuador",
    "Colombia",
    "Venezuela",
    "Guyana",
    "Suriname",
    "Uruguay",
    "Paraguay",
    "Argentina",
    "Cuba",
    "Jamaica",
    "Haiti",
    "Panama",
    "Guatemala",
    "Honduras",
    "Nicaragua",
    "Belize",
    "Tunisia",
    "Algeria",
    "Libya",
    "Sudan",
    "Chad",
    "Niger",
    "Mali",
    "Senegal",
    "Gambia",
    "Ghana",
    "Togo",
    "Benin",
    "Cameroon",
    "Gabon",
    "Congo",
    "Angola",
    "Zambia",
    "Malawi",
    "Mozambique",
    "Botswana",
    "Namibia",
]


def measure(effort: Effort, peer_python: str | None) -> tuple[Section, ...]:
    """Measure hits that cheap features decide, then those that the encoder decides."""
    del peer_python
    questions = [
        f"How do I make {kind} {thing} in {place}?"
        for place, thing, kind in itertools.islice(
            itertools.product(_PLACES, _THINGS, _KINDS), effort.semantic_entries
        )
    ]
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(loopback_server())
        db = stack.enter_context(database())
        config = {
            "models": [our_model(url)],
            "cache": {"semantic_cache": {"enabled": True}, "max_entries": 2 * len(questions)},
        }
        lab = stack.enter_context(Lab(home=db.home, database_url=db.conninfo, config=config))
        lab.complete("How do I begin?", model_id=MODEL)
        _fill(lab._live(), questions)
        return (_by_features(effort, lab, questions, db.conninfo), _by_encoder(effort, lab))


def _fill(runtime: Runtime, questions: list[str]) -> None:
    """Put the questions where answers to them would have put them, without asking for each."""
    from dataclasses import replace

    semantic = runtime.caching.semantic

    async def fill() -> None:
        engine = await semantic.engine()
        memory = runtime.caching.responses.memory
        made: list[tuple[bytes, bytes]] = []
        model = None
        for question in questions:
            prepared = runtime.intake.prepare(question, {"model_id": MODEL}, 0.0, stream=False)
            key = prepared.plan.key
            assert key is not None
            if model is None:
                [slot] = list(memory._slots.values())[:1]
                model = slot.entry
            memory.put(replace(model, key=key, content=question))
            made.append((key, semantic._scope(prepared.question, prepared.plan)))
        for start in range(0, len(questions), 1_000):
            texts = questions[start : start + 1_000]
            keys = [key for key, _ in made[start : start + 1_000]]
            scopes = [scope for _, scope in made[start : start + 1_000]]
            semantic._add(engine, keys, scopes, texts, await engine.embedder.embed(texts))
        engine.index.settle(600)

    runtime.thread.run(fill)


def _ask(lab: Lab, prompts: list[str]) -> tuple[list[float], Counter[str]]:
    """Ask all, a few at once; return the latencies and what the cache said."""
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        waiting = iter(prompts)

        async def caller() -> None:
            for prompt in waiting:
                started = time.perf_counter()
                got = await lab.acomplete(prompt, model_id=MODEL, cache={"read_only": True})
                latencies.append((time.perf_counter() - started) * 1000)
                outcomes[str(got.cache)] += 1

        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

    asyncio.run(run())
    return latencies, outcomes


def _by_features(effort: Effort, lab: Lab, questions: list[str], conninfo: str) -> Section:
    step = max(1, len(questions) // effort.semantic_hits)
    chosen = questions[::step][: effort.semantic_hits]
    spellings = itertools.cycle(
        ("how do i {}", "How can I {}?", "please tell me how to {}", "how to {}", "How do I {} ?")
    )
    p99: list[float] = []
    told: Counter[str] = Counter()

    def hits() -> float:
        spelling = next(spellings)
        prompts = [spelling.format(q.removeprefix("How do I ").removesuffix("?")) for q in chosen]
        started = time.perf_counter()
        latencies, outcomes = _ask(lab, prompts)
        lab.flush(timeout=60.0)
        seconds = time.perf_counter() - started
        p99.append(statistics.quantiles(latencies, n=100)[98])
        told.update(outcomes)
        return len(prompts) / seconds

    runtime = lab._live()
    engine = runtime.caching.semantic._engine
    assert engine is not None

    def floor() -> float:
        scope = runtime.caching.semantic._scope(
            *(lambda p: (p.question, p.plan))(
                runtime.intake.prepare(questions[0], {"model_id": MODEL}, 0.0, stream=False)
            )
        )
        started = time.perf_counter()
        for question in chosen:
            engine.index.search(scope, engine.static.embed([question])[0], 1)
        return len(chosen) / (time.perf_counter() - started)

    alone_ms: list[float] = []

    def alone() -> float:
        spelling = next(spellings)
        texts = [spelling.format(q.removeprefix("How do I ").removesuffix("?")) for q in chosen]
        prepared = runtime.intake.prepare(texts[0], {"model_id": MODEL}, 0.0, stream=False)
        scope = runtime.caching.semantic._scope(prepared.question, prepared.plan)
        took: list[float] = []

        async def look_up() -> None:
            for text in texts:
                started = time.perf_counter()
                await runtime.caching.semantic.find_like(scope, text)
                took.append((time.perf_counter() - started) * 1000)

        started = time.perf_counter()
        runtime.thread.run(look_up)
        seconds = time.perf_counter() - started
        alone_ms.append(statistics.quantiles(took, n=100)[98])
        return len(texts) / seconds

    found = interleaved(
        {
            "embed, search, verify, one thread": alone,
            "lab.acomplete, 8 at once, logged": hits,
            "floor: embed, search the index": floor,
        },
        effort.cache_rounds,
    )
    path, ours, bare = found.values()
    semantic = told["semantic"]
    stats = runtime.caching.semantic.stats()
    memory_mb = stats.size_bytes / 1e6
    wrong = () if semantic else ("no question was a semantic hit",)
    lab.flush(timeout=60.0)
    logged = count_rows(conninfo, "cache = 'semantic'")
    if logged != semantic:
        wrong = (*wrong, f"{logged:,} semantic hits are logged of {semantic:,}")
    return Section(
        f"Semantic hits at {len(questions):,} entries",
        (
            Row(
                "embed, search, verify, one thread",
                "hits/s",
                path,
                ours=True,
                target=f"≥ {HITS_PER_S:,}/s",
                met=statistics.median(path) >= HITS_PER_S,
            ),
            Row(
                "the same, 99th percentile",
                "ms a hit",
                tuple(alone_ms[1:]),
                ours=True,
                target=f"< {FAST_P99_MS:g} ms",
                met=statistics.median(alone_ms[1:]) < FAST_P99_MS,
            ),
            Row("lab.acomplete, 8 at once, logged", "hits/s", ours, ours=True),
            Row("the same, 99th percentile", "ms a hit", tuple(p99[1:]), ours=True),
            Row(
                "floor: embed, search the index",
                "lookups/s",
                bare,
                beside=f"ours {median_ratio(ours, bare):.2f}x",
            ),
        ),
        (
            f"{semantic:,} of {sum(told.values()):,} questions were hits; {stats.by_encoder:,} of "
            f"{stats.looked_up:,} lookups asked the encoder; the index occupies {memory_mb:,.0f} MB",
        ),
        wrong,
    )


def _by_encoder(effort: Effort, lab: Lab) -> Section:
    """How fast the encoder answers when lookups come at once, beside its own batches."""
    runtime = lab._live()
    engine = runtime.caching.semantic._engine
    assert engine is not None
    assert engine.encoder is not None
    encoder: Any = engine.encoder
    texts = [f"What should I know before I make {thing}?" for thing in _THINGS]
    texts = (texts * (effort.encoded // len(texts) + 1))[: effort.encoded]
    p99: list[float] = []

    def batched() -> float:
        started = time.perf_counter()
        for start in range(0, len(texts), 32):
            encoder._embedder.embed(texts[start : start + 32])
        return len(texts) / (time.perf_counter() - started)

    def at_once() -> float:
        latencies: list[float] = []

        async def run() -> None:
            waiting = iter(texts)

            async def caller() -> None:
                for text in waiting:
                    started = time.perf_counter()
                    await encoder.embed([text])
                    latencies.append((time.perf_counter() - started) * 1000)

            await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

        started = time.perf_counter()
        runtime.thread.run(run)
        seconds = time.perf_counter() - started
        p99.append(
            statistics.quantiles(latencies, n=100)[98] if len(latencies) > 1 else latencies[0]
        )
        return len(texts) / seconds

    found = interleaved({"one by one": at_once, "floor: batches of 32": batched}, 3)
    ours, bare = found.values()
    ratio = median_ratio(ours, bare)
    return Section(
        "The encoder, which decides the grey zone",
        (
            Row(
                "texts of 8 callers at once",
                "texts/s",
                ours,
                ours=True,
                target=f"≥ {ENCODER_SHARE:g}x of its batches",
                met=ratio >= ENCODER_SHARE,
            ),
            Row(
                "the same, 99th percentile",
                "ms a text",
                tuple(p99[1:]),
                ours=True,
                target=f"< {GREY_P99_MS:g} ms",
                met=statistics.median(p99[1:]) < GREY_P99_MS,
            ),
            Row("floor: batches of 32", "texts/s", bare, beside=f"ours {ratio:.2f}x"),
        ),
    )
