"""The verdict on pairs of questions, with the real static vectors and the real encoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novellus_lab.cache.semantic.guards import GUARDS
from novellus_lab.cache.semantic.verifier import (
    Rule,
    Undecided,
    Verdict,
    Verifier,
    shipped_rule,
)
from novellus_lab.embeddings.minilm import MiniLmEmbedder
from novellus_lab.embeddings.static import StaticEmbedder
from novellus_lab.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

Judge = "Callable[..., Verdict]"


@pytest.fixture(scope="module")
def static() -> StaticEmbedder:
    return StaticEmbedder()


@pytest.fixture(scope="module")
def judge(static: StaticEmbedder) -> Callable[..., Verdict]:
    encoder = MiniLmEmbedder()

    def verdict(question: str, candidate: str, **options: object) -> Verdict:
        verifier = Verifier(static.word_vectors, **options)  # type: ignore[arg-type]
        one, other = static.embed([question, candidate])
        return verifier.verify(question, candidate, float(one @ other), encoder.embed)

    return verdict


SAME = [
    ("Tell me about Python programming", "What is Python?"),
    ("what is machine learning", "What is machine learning?"),
    ("  What is   machine learning ? ", "What is machine learning?"),
    ("How can I install Docker on Ubuntu?", "How do I install Docker on Ubuntu?"),
    ("What are the steps to install Docker on Ubuntu?", "How do I install Docker on Ubuntu?"),
    ("Could you please tell me how to boil an egg?", "How do I boil an egg?"),
    ("Explain quantum computing", "What is quantum computing?"),
    ("What is the best way to tie a tie?", "How do I tie a tie?"),
    ("Who is taller, Jim or Tom?", "Who is taller, Tom or Jim?"),
    ("How do I turn off dark mode?", "how do i turn dark mode off"),
]


@pytest.mark.parametrize(("question", "candidate"), SAME)
def test_the_same_question_in_other_words_is_a_hit(
    judge: Callable[..., Verdict], question: str, candidate: str
) -> None:
    verdict = judge(question, candidate)
    assert verdict.accepted, verdict
    assert verdict.score >= shipped_rule().threshold


NOT_THE_SAME = [
    ("What is Java?", "What is Python?"),
    ("What is Java?", "Tell me about Python programming"),
    ("What is Java?", "What is JavaScript?"),
    ("Flights from Paris to London", "Flights from London to Paris"),
    ("flights from paris to london", "flights from london to paris"),
    ("How do I disable X", "How do I enable X"),
    ("What is 15% of 90?", "What is 15% of 80?"),
    ("What is 17 + 4?", "What is 17 - 4?"),
    ("Convert 5 km to miles", "Convert 5 miles to km"),
    ("Convert 5 dollars to yen", "Convert 5 euros to yen"),
    ("How do I lose 5 kg?", "How do I lose 5 pounds?"),
    ("What happened on 3 May 1968?", "What happened on 3 June 1968?"),
    ("What is the weather in Oslo today?", "What is the weather in Oslo tomorrow?"),
    ("Which foods should diabetics eat?", "Which foods should diabetics not eat?"),
    ("How do I grow tomatoes without a greenhouse?", "How do I grow tomatoes with a greenhouse?"),
    ("Is the Moon bigger than Mars?", "Is Mars bigger than the Moon?"),
    ("Can a dog eat a cat?", "Can a cat eat a dog?"),
    ("Why do vaccines work?", "How do vaccines work?"),
    ("When did World War II end?", "When did World War I end?"),
    ("When did World War II end?", "How did World War II end?"),
    ("What causes inflation?", "What does inflation cause?"),
    ("How many legs does a spider have?", "How many eyes does a spider have?"),
    ("How do I use `list.append`?", "How do I use `list.extend`?"),
    ("How do I call `a`?", "How do I call `b`?"),
    ("What does the error 'disk full' mean?", "What does the error 'out of memory' mean?"),
    ("Do you know my name?", "Do you know your name?"),
    ("Must I verify my identity?", "Can I verify my identity?"),
    ("What is the capital of Slovakia?", "What is the capital of Slovenia?"),
    ("what is the capital of slovakia", "what is the capital of slovenia"),
    ("What is the population of Niger?", "What is the population of Nigeria?"),
    ("Tell me about IT", "Tell me about it"),
    ("What is 5!", "What is 5?"),
    ("How do I center a div vertically?", "How do I center a div?"),
    ("Write a song about the sea", "Write a poem about the sea"),
    ("What is the oldest building in Rome?", "What is the tallest building in Rome?"),
    ("How do I install version 2.1 of foo?", "How do I install version 2.11 of foo?"),
    ("What currencies can I have?", "What currencies can I use?"),
]


@pytest.mark.parametrize(("question", "candidate"), NOT_THE_SAME)
def test_a_near_question_is_no_hit_whichever_came_first(
    judge: Callable[..., Verdict], question: str, candidate: str
) -> None:
    for verdict in (judge(question, candidate), judge(candidate, question)):
        assert not verdict.accepted, verdict
        assert verdict.reasons


PASSAGES = [
    ("Summarise this: The cat sat on the mat.", "Summarise this: The dog sat on the mat."),
    ("Translate to French: good morning", "Translate to French: good evening"),
    ("Fix the grammar:\ni are here", "Fix the grammar:\ni are there"),
    ("Fix the case: i am", "Fix the case: I am"),
    ("Explain this code:\nx = [1]\n", "Explain this code:\nx = [1, 2]\n"),
    (
        "Summarise the text.\n" + "The food was good. " * 40,
        "Summarise the text.\n" + "The food was good. " * 39 + "The food was bad. ",
    ),
    ("word " * 2000 + "Who won?", "word " * 2000 + "Who lost?"),
    ("What is good about it? " + "I like the sea. " * 30, "What is good about it? " + "I like tea. " * 30),
]  # fmt: skip


@pytest.mark.parametrize(("question", "candidate"), PASSAGES)
def test_texts_that_bring_along_different_passages_never_hit(
    judge: Callable[..., Verdict], question: str, candidate: str
) -> None:
    assert not judge(question, candidate).accepted
    assert judge(question, question).accepted


ELSEWHERE = [
    ("Wie hoch ist der Eiffelturm?", "Wie alt ist der Eiffelturm?"),
    ("Comment ouvrir un compte ?", "Comment fermer un compte ?"),
    ("¿Cuánto cuesta un vuelo a Madrid?", "¿Cuánto cuesta un vuelo a Lima?"),
    ("法国的首都是哪里？", "德国的首都是哪里？"),
    ("What does 你好 mean?", "What does 再见 mean?"),
    ("What does 😂 mean?", "What does 😭 mean?"),
    ("😀", "😂"),
    ("Как открыть файл?", "Как закрыть файл?"),
    ("", ""),
    ("   ", "\n"),
    ("?", "!"),
    ("", "What is Python?"),
]


@pytest.mark.parametrize(("question", "candidate"), ELSEWHERE)
def test_what_it_can_t_read_is_no_hit(
    judge: Callable[..., Verdict], question: str, candidate: str
) -> None:
    assert not judge(question, candidate).accepted


def test_the_same_text_in_any_language_is_a_hit(judge: Callable[..., Verdict]) -> None:
    verdict = judge("wie hoch ist der Eiffelturm", "Wie hoch ist der Eiffelturm?")
    assert verdict.accepted
    assert verdict.path == "exact text"


@pytest.mark.parametrize(
    ("guard", "question", "candidate"),
    [
        ("passage", "Classify this review: it was good", "Classify this review: it was great"),
        ("numbers", "How do I run 10 km?", "How do I run 5 km?"),
        ("times", "What is open on Monday in Rome?", "What is open on Sunday in Rome?"),
        ("negation", "Why is my card not working?", "Why is my card working?"),
        ("literals", "How do I use `map`?", "How do I use `zip`?"),
        ("signs", "What is 17 + 4?", "What is 17 * 4?"),
        ("kind", "When did World War II end?", "How did World War II end?"),
        ("operators", "How do I delete all emails?", "How do I delete some emails?"),
        ("names", "Who is the mayor of Oslo?", "Who is the mayor of Bergen?"),
        ("opposites", "How do I open a tin?", "How do I close a tin?"),
        ("person", "What is my name?", "What is your name?"),
        ("tense", "When was the bill paid?", "When must the bill be paid?"),
        ("roles", "Trains from Oslo to Bergen", "Trains from Bergen to Oslo"),
        ("substitution", "Is it safe to eat raw salmon?", "Is it safe to eat smoked salmon?"),
        ("addition", "What is the population of Canada?", "What is the population density of Canada?"),
        ("language", "Wie hoch ist der Turm?", "Wie alt ist der Turm?"),
        ("units", "How do I convert kilometres?", "How do I convert miles?"),
    ],
)  # fmt: skip
def test_each_guard_sees_its_case_and_says_so(
    judge: Callable[..., Verdict], guard: str, question: str, candidate: str
) -> None:
    others = tuple(name for name in GUARDS if name != guard)
    verdict = judge(question, candidate, without=others)
    assert not verdict.accepted
    assert verdict.score == 0
    assert verdict.reasons[0].startswith(f"{guard}: ")


def test_a_pair_that_words_don_t_settle_is_decided_by_the_encoder_s_cosine(
    static: StaticEmbedder,
) -> None:
    verifier = Verifier(static.word_vectors)
    question, candidate = "How can I fix a leaking tap?", "How do I repair a dripping tap?"
    first = verifier.compare(question, candidate, 0.8)
    assert isinstance(first, Undecided)
    assert first.texts == (question, candidate)
    scores = [verifier.decide(first, cosine / 100).score for cosine in range(50, 101)]
    assert scores == sorted(scores)
    assert verifier.decide(first, 1.0).accepted
    assert not verifier.decide(first, 0.5).accepted
    assert verifier.decide(first, 1.0).path == "encoder"


def test_without_an_encoder_what_words_don_t_settle_is_no_hit(static: StaticEmbedder) -> None:
    verdict = Verifier(static.word_vectors).verify(
        "How can I fix a leaking tap?", "How do I repair a dripping tap?", 0.8
    )
    assert not verdict.accepted
    assert "no sentence encoder" in verdict.reasons[0]


def test_no_encoder_is_asked_for_clear_cases(static: StaticEmbedder) -> None:
    def never(_texts: object) -> object:
        raise AssertionError("the encoder was asked")

    verifier = Verifier(static.word_vectors)
    for question, candidate in (*SAME[:2], *NOT_THE_SAME[:12]):
        verifier.verify(question, candidate, 0.9, never)  # type: ignore[arg-type]


def test_a_higher_threshold_serves_less(judge: Callable[..., Verdict]) -> None:
    pair = ("How old is the universe?", "What is the age of the universe?")
    assert judge(*pair, threshold=0.85).accepted
    assert not judge(*pair, threshold=1.0).accepted
    assert judge(*pair, threshold=0.85).score == judge(*pair, threshold=1.0).score


def test_a_rule_made_for_other_features_is_refused() -> None:
    import json
    from importlib.resources import files

    raw = json.loads(files("novellus_lab.cache.semantic").joinpath("rule.json").read_text())
    del raw["full"]["weights"]["encoder"]
    with pytest.raises(ConfigurationError, match="fitted to"):
        Rule.from_json(json.dumps(raw))


def test_a_verdict_can_t_be_changed(judge: Callable[..., Verdict]) -> None:
    verdict = judge("What is Python?", "What is Python?")
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.accepted = False  # type: ignore[misc]


TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(
        "what how is the Python Paris 15 % $ 3.5 km not `x` 'a' \" ? : \n 你好 😀 C++ don't from to and".split(" ")
    ),
    max_size=30,
).map(" ".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_any_two_texts_get_a_verdict_that_doesn_t_depend_on_their_order(
    static: StaticEmbedder, one: str, other: str
) -> None:
    verifier = Verifier(static.word_vectors)
    forward, back = verifier.verify(one, other, 0.9), verifier.verify(other, one, 0.9)
    assert 0 <= forward.score <= 1
    assert forward.score == pytest.approx(back.score)
    assert forward.accepted == back.accepted


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_is_its_own_answer(static: StaticEmbedder, text: str) -> None:
    verdict = Verifier(static.word_vectors).verify(text, text, 1.0)
    assert verdict.accepted == bool(text.strip())
