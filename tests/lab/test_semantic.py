"""Similar questions share an answer, different ones do not: through the public face."""

from __future__ import annotations

import logging
import time

import pytest

from novellus_lab import CacheManager, CacheOutcome
from novellus_lab.errors import InvalidRequestError, MissingDependencyError
from novellus_lab.integration import AIModelManager
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_embedding_reply

PYTHON, SAME, OTHER = "What is Python?", "Tell me about Python programming", "What is Java?"
ON = {"semantic_cache": {"enabled": True}}


@pytest.fixture
def llm():
    with ScriptedServer(lambda request: openai_chat_reply(f"answer {len(server.requests)}")) as s:
        server = s
        yield s


def ask(lab, prompt, **more):
    return lab.complete(prompt, use_semantic_cache=True, **more)


def test_the_seeds_example_and_what_the_log_keeps_of_it(make_lab, rows, llm):
    lab = make_lab(openai_model("m", llm.url))
    first = ask(lab, PYTHON)
    assert first.cache is CacheOutcome.MISS
    assert lab.complete(PYTHON).cache is CacheOutcome.MEMORY
    hit = ask(lab, SAME)
    assert (hit.cache, hit.content, hit.cost) == (CacheOutcome.SEMANTIC, first.content, 0)
    assert hit.cache_source_prompt == PYTHON
    assert hit.cache_source_id == first.request_id
    assert 0.85 <= hit.cache_similarity <= 1
    assert "semantic cache hit" in hit._repr_html_()
    assert "as “What is Python?”" in hit._repr_html_()
    assert ask(lab, OTHER).cache is CacheOutcome.MISS
    assert lab.complete("Explain Python").cache is CacheOutcome.MISS  # this call did not ask for it
    lab.flush()
    row = next(row for row in rows() if row["cache"] == "semantic")
    assert row["cache_similarity"] == pytest.approx(hit.cache_similarity)
    assert (row["cost_usd"], row["uncached_cost_usd"]) == (0, first.cost)
    assert row["cache_source_id"] == first.request_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Flights from London to Paris", "Flights from Paris to London"),
        ("What is 15% of 80?", "What is 15% of 90?"),
        ("How do I enable dark mode?", "How do I disable dark mode?"),
        ("Who won the 2018 world cup?", "Who won the 2022 world cup?"),
        ("Is aspirin safe for dogs?", "Is aspirin not safe for dogs?"),
        ("Convert 10 miles to km", "Convert 10 km to miles"),
        ("Summarise this: the cat sat on the mat", "Summarise this: the dog lay on the rug"),
        ("Was ist Python?", "Was ist Java?"),
    ],
)
def test_near_questions_that_are_others_are_never_answered_alike(make_lab, llm, one, other):
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    lab.complete(one)
    assert lab.complete(other).cache is CacheOutcome.MISS


def test_all_but_the_last_turn_must_be_equal(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), openai_model("n", llm.url), cache=ON)

    def chat(*before, prompt=PYTHON, **more):
        messages = [*before, {"role": "user", "content": prompt}]
        return lab.complete(messages=messages, **{"model_id": "m", **more}).cache

    kind, rude = ({"role": "system", "content": f"Be {how}."} for how in ("kind", "rude"))
    assert chat(kind) is CacheOutcome.MISS
    assert chat(kind, prompt=SAME) is CacheOutcome.SEMANTIC
    assert chat(rude, prompt=SAME) is CacheOutcome.MISS
    assert chat(prompt=SAME) is CacheOutcome.MISS
    assert chat(kind, prompt=SAME, temperature=0.1) is CacheOutcome.MISS
    assert chat(kind, prompt=SAME, model_id="n") is CacheOutcome.MISS
    assert chat(kind, prompt=SAME, cache={"namespace": "x"}) is CacheOutcome.MISS
    assert chat(kind, prompt="Tell me about Python", experiment="e", arm="a") is CacheOutcome.MISS
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    assert chat(*turns) is CacheOutcome.MISS
    assert chat(*turns, prompt=SAME) is CacheOutcome.SEMANTIC
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    for text in (PYTHON, SAME):
        content = [{"type": "text", "text": text}, image]
        got = lab.complete(messages=[{"role": "user", "content": content}], model_id="m")
        assert got.cache is CacheOutcome.MISS


def test_streams_are_answered_too(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    first = lab.complete(PYTHON)
    stream = lab.stream(SAME)
    assert "".join(map(str, stream)) == first.content
    assert stream.completion.cache is CacheOutcome.SEMANTIC


def test_another_process_answers_with_what_this_one_made(make_lab, llm):
    lab, other = make_lab(openai_model("m", llm.url)), make_lab(openai_model("m", llm.url))
    assert ask(other, "something else entirely").cache is CacheOutcome.MISS  # it is open now
    first = ask(lab, PYTHON)
    lab.flush()
    wait_for(lambda: ask(other, SAME, cache={"read_only": True}).cache is CacheOutcome.SEMANTIC)
    late = make_lab(openai_model("m", llm.url))
    hit = ask(late, SAME)
    assert (hit.cache, hit.content) == (CacheOutcome.SEMANTIC, first.content)


def test_what_is_taken_out_or_expired_answers_nothing(make_lab, llm):
    lab, other = make_lab(openai_model("m", llm.url)), make_lab(openai_model("m", llm.url))
    ask(lab, PYTHON)
    lab.flush()
    assert ask(other, SAME).cache is CacheOutcome.SEMANTIC
    lab.cache.invalidate(everything=True)
    assert ask(lab, SAME, cache={"read_only": True}).cache is CacheOutcome.MISS
    wait_for(lambda: ask(other, SAME, cache={"read_only": True}).cache is CacheOutcome.MISS)
    ask(lab, PYTHON, cache={"ttl": 0.1, "write_only": True})
    time.sleep(0.15)
    assert ask(lab, SAME).cache is CacheOutcome.MISS


def test_redacted_prompts_stay_in_this_process(make_lab, rows, llm):
    lab = make_lab(openai_model("m", llm.url), redact=lambda text: text.replace("Python", "***"))
    ask(lab, PYTHON)
    assert ask(lab, SAME).cache is CacheOutcome.SEMANTIC
    lab.flush()
    entry = rows("ai_response_cache", "created_at")[0]
    assert entry["embedding_model"] is None
    assert "Python" not in entry["prompt"]


def test_prompts_are_found_by_topic(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    for prompt in ("How do I bake bread?", "What is gradient descent?", "Capital of France?"):
        lab.complete(prompt)
    found = lab.cache.semantic_search("training neural networks", top_k=2)
    assert found[0].prompt == "What is gradient descent?"
    assert found[0].value.startswith("answer")
    assert found[0].similarity > found[1].similarity
    with pytest.raises(InvalidRequestError):
        lab.cache.semantic_search("", top_k=1)


async def test_the_seeds_cache_manager(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    manager = CacheManager(lab)
    await manager.set("How do I get a refund?", {"days": 30}, ttl=60, generate_embedding=True)
    assert await manager.get("How do I get a refund?") == {"days": 30}
    assert await manager.get("how can I get a refund") is None
    assert await manager.get("how can I get a refund", use_semantic=True) == {"days": 30}
    assert await manager.get("k", use_semantic=True, semantic_query="get a refund, how?") in (
        None,
        {"days": 30},
    )
    assert await manager.get("How do I get a visa?", use_semantic=True) is None
    found = await manager.semantic_search(query="money back", top_k=5)
    assert found[0]["prompt"] == "How do I get a refund?"
    models = AIModelManager(lab)
    first = await models.complete(PYTHON, use_semantic_cache=True)
    again = await models.complete(SAME, use_semantic_cache=True)
    assert (again["cache"], again["content"]) == ("semantic", first["content"])


# --- how often it is wrong -----------------------------------------------------------------------

WORDS = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}ish" for n in range(400)]
PAIRS = [(f"How do I cook {w}?", f"How can I cook {w}?", True) for w in WORDS]
WRONG = [(f"How do I cook {w}?", f"How do I clean {w}?", False) for w in WORDS]


def test_calibration_finds_a_threshold_keeps_it_and_every_lab_uses_it(make_lab, rows, llm):
    lab = make_lab(openai_model("m", llm.url))
    found = lab.cache.calibrate([*PAIRS, *WRONG], max_error_rate=0.01)
    assert found.bound <= 0.01
    assert found.recall > 0.5
    assert "threshold" in found._repr_html_()
    [kept] = rows("ai_cache_calibrations")
    assert kept["threshold"] == found.threshold
    other = make_lab(openai_model("m", llm.url))
    ask(other, PYTHON)
    engine = other._live().caching.semantic._engine
    assert engine.verifier.threshold == max(found.threshold, 0.85)
    figure = found.figure()
    assert figure.layout.title.text


def test_too_few_pairs_can_not_bound_an_error_rate(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url))
    with pytest.raises(InvalidRequestError, match="299"):
        lab.cache.calibrate(PAIRS[:50], max_error_rate=0.01)
    with pytest.raises(InvalidRequestError, match=r"pairs\[1\]"):
        lab.cache.calibrate([PAIRS[0], ("a", "b")])


def test_a_rate_that_nothing_supports_lets_only_the_same_text_through(make_lab, llm, caplog):
    lab = make_lab(
        openai_model("m", llm.url),
        cache={"semantic_cache": {"enabled": True, "max_error_rate": 0.0001}},
    )
    with caplog.at_level(logging.WARNING):
        lab.complete(PYTHON)
        assert lab.complete(SAME).cache is CacheOutcome.MISS
    assert "calibrate" in caplog.text
    assert lab.complete("what is python ?").cache is CacheOutcome.SEMANTIC


def test_a_function_judges_hits_and_the_bound_falls(make_lab, llm):
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    lab.complete(PYTHON)
    for n in range(30):
        assert lab.complete(SAME + "!" * (n % 3)).cache is CacheOutcome.SEMANTIC
    report = lab.cache.judge(10, by=lambda question, source, answer: source == PYTHON)
    assert (report.served.judged.judged, report.served.judged.wrong) == (10, 0)
    more = lab.cache.judge(100, by=lambda question, source, answer: True)
    assert more.served.judged.judged == 30
    assert more.bound < report.bound < 1
    assert more.served.hit_share == pytest.approx(30 / 31)
    assert lab.cache.judge(5, by=lambda *_: False).served.judged.wrong == 0  # none is left
    assert "at most" in more._repr_html_()


def test_a_model_judges_and_its_pairs_calibrate(make_lab, rows):
    def answer(request):
        if "QUESTION A" in request.json["messages"][-1]["content"]:
            return openai_chat_reply('Sure: {"fits": false, "why": "<b>no</b>"}')
        return openai_chat_reply("An answer.")

    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("m", server.url), cache=ON)
        lab.complete(PYTHON)
        lab.complete(SAME)
        report = lab.cache.judge(5, by="m")
        assert (report.served.judged.judged, report.served.judged.wrong) == (1, 1)
        [row] = rows("ai_cache_judgements", "judged_at")
        assert (row["judged_by"], row["why"]) == ("m", "<b>no</b>")
        assert "<b>no" not in report._repr_html_()
        with pytest.raises(InvalidRequestError, match="1 of the 1|pairs"):
            lab.cache.calibrate()
        lab.flush()
        purposes = [row["tags"].get("novellus.purpose") for row in rows()]
        assert "judge a semantic hit" in purposes


# --- what it stands on ---------------------------------------------------------------------------


def test_an_embedding_model_of_the_yaml_finds_candidates(make_lab, rows, llm):
    def embed(request):
        texts = request.json["input"]
        return openai_embedding_reply(
            [[float("ython" in t), 1.0, float("ava" in t)] for t in texts]
        )

    with ScriptedServer(embed) as embedder:
        lab = make_lab(
            openai_model("m", llm.url),
            embedding_model("e", embedder.url),
            cache={"semantic_cache": {"enabled": True, "embedding_model": "e"}},
        )
        lab.complete(PYTHON)
        assert lab.complete(SAME).cache is CacheOutcome.SEMANTIC
        assert lab.complete(OTHER).cache is CacheOutcome.MISS
        lab.flush()
        stored = rows("ai_response_cache", "created_at")
        assert {row["embedding_model"] for row in stored if row["kind"] == "chat"} == {"e"}
        assert any(row["tags"].get("novellus.purpose") for row in rows())


def test_another_embedding_model_embeds_anew_and_never_compares(make_lab, rows, llm):
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    lab.complete(PYTHON)
    lab.close()
    other = make_lab(
        openai_model("m", llm.url),
        cache={"semantic_cache": {"enabled": True, "embedding_model": "minilm"}},
    )

    def embedded_by() -> set[str]:
        return {row["embedding_model"] for row in rows("ai_response_cache", "created_at")}

    wait_for(lambda: embedded_by() == {"minilm-l6-v2-int8-384"}, 30)
    wait_for(lambda: other.complete(SAME, cache={"read_only": True}).cache.hit)


def test_what_is_missing_is_said_before_money_is_spent(make_lab, llm, monkeypatch):
    from novellus_lab.pipeline import semantic

    monkeypatch.setattr(semantic, "find_spec", lambda name: None)
    lab = make_lab(openai_model("m", llm.url))
    with pytest.raises(MissingDependencyError, match=r"novellus_lab\[semantic\]"):
        ask(lab, PYTHON)
    assert llm.requests == []
    assert lab.complete(PYTHON).content == "answer 1"
    with pytest.raises(MissingDependencyError):
        make_lab(openai_model("m", llm.url), cache=ON)


def test_a_database_that_is_away_leaves_what_this_process_knows(make_lab, llm, monkeypatch):
    from novellus_lab.cache.semantic import pgvector
    from novellus_lab.errors import StoreUnavailableError

    async def away(self, *_, **__):
        raise StoreUnavailableError("away")

    monkeypatch.setattr(pgvector.SemanticStore, "now", away)
    monkeypatch.setattr(pgvector.SemanticStore, "store_embeddings", away)
    lab = make_lab(openai_model("m", llm.url), cache=ON)
    lab.complete(PYTHON)
    assert lab.complete(SAME).cache is CacheOutcome.SEMANTIC


def wait_for(condition, timeout_s: float = 15.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
