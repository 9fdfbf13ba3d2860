"""What calls will use, learned from what they used."""

from __future__ import annotations

import pytest

from novellus_lab.routing.answer_length import AnswerLengths


def expected(lengths: AnswerLengths, model: str = "m", **more):
    return lengths.expected(model, **{"input_tokens": 100, **more})


def test_nothing_known_is_256_tokens_or_what_the_call_allows():
    assert expected(AnswerLengths()).output_tokens == 256
    assert expected(AnswerLengths(), max_tokens=20).output_tokens == 20


def test_it_learns_by_model_prompt_length_and_tags():
    lengths = AnswerLengths()
    for _ in range(200):
        lengths.observe("m", input_tokens=100, output_tokens=50, tags={"task": "label"})
        lengths.observe("m", input_tokens=100, output_tokens=900, tags={"task": "essay"})
        lengths.observe("m", input_tokens=5000, output_tokens=300)
    by_tag = [expected(lengths, tags={"task": t}).output_tokens for t in ("label", "essay")]
    assert by_tag == pytest.approx([50, 900], rel=0.3)
    assert expected(lengths).output_tokens == pytest.approx(475, rel=0.05)
    assert expected(lengths, input_tokens=5000).output_tokens == pytest.approx(300, rel=0.05)
    assert expected(lengths, "other").output_tokens == 256


def test_one_call_is_no_verdict():
    lengths = AnswerLengths()
    lengths.observe("m", input_tokens=100, output_tokens=4000)
    assert 256 < expected(lengths).output_tokens < 2000


def test_it_expects_the_cached_share_of_such_prompts():
    lengths = AnswerLengths()
    for _ in range(100):
        lengths.observe("m", input_tokens=100, output_tokens=5, cached_input_tokens=80)
    assert expected(lengths).cached_share == pytest.approx(0.8, abs=0.05)
    assert expected(lengths, "other").cached_share == 0


def test_tags_without_end_take_memory_with_an_end():
    lengths = AnswerLengths()
    for n in range(10_000):
        lengths.observe("m", input_tokens=100, output_tokens=50, tags={"user": n})
    assert len(lengths._groups) < 5_000
    assert expected(lengths, tags={"user": 9_999}).output_tokens == pytest.approx(50, rel=0.1)
