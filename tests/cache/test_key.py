"""Keys are equal when nothing differs that may change the answer, and only then."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from novellus_lab.cache.key import cache_key, scope_digest
from novellus_lab.pipeline.catalog import Catalog
from novellus_lab.pipeline.question import build_question
from novellus_lab.settings import load_settings

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda s: not s.isspace()
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 10_000),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "seed": st.integers(0, 2**40),
        "stop": st.lists(TEXT, min_size=1, max_size=3),
        "response_format": st.just("json"),
        "params": st.dictionaries(
            st.sampled_from(["a", "b"]), st.integers(-(2**63), 2**63), min_size=1
        ),
        "tools": st.just([{"type": "function", "function": {"name": "look"}}]),
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXT}
    ),
    min_size=1,
    max_size=4,
)


def key_of(messages, arguments, scope=b"scope", **more) -> bytes:
    request = build_question(messages=messages, **arguments)
    return cache_key(scope, request.messages_json, request.params_json, **more)


def same(a, b) -> bool:
    """JSON equality, in which 1 and 1.0 and True differ only where JSON tells them apart."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@given(MESSAGES, ARGUMENTS)
def test_equal_requests_have_equal_keys_whatever_the_order_of_their_fields(messages, arguments):
    turned = [dict(reversed(list(m.items()))) for m in messages]
    backwards = dict(reversed(list(arguments.items())))
    assert key_of(messages, arguments) == key_of(turned, backwards)


@given(MESSAGES, ARGUMENTS, MESSAGES, ARGUMENTS)
def test_different_requests_have_different_keys(m1, a1, m2, a2):
    equal = same(m1, m2) and same(
        {k: float(v) if k in ("temperature", "top_p") else v for k, v in a1.items()},
        {k: float(v) if k in ("temperature", "top_p") else v for k, v in a2.items()},
    )
    assert (key_of(m1, a1) == key_of(m2, a2)) is equal


@given(MESSAGES, ARGUMENTS, st.data())
def test_any_single_change_changes_the_key(messages, arguments, data):
    base = key_of(messages, arguments)
    changed = [dict(m) for m in messages]
    which = data.draw(st.integers(0, len(messages) - 1))
    changed[which]["content"] += data.draw(TEXT)
    assert key_of(changed, arguments) != base
    assert key_of(messages, {**arguments, "max_tokens": arguments.get("max_tokens", 0) + 1}) != base
    for name in arguments:
        assert key_of(messages, {k: v for k, v in arguments.items() if k != name}) != base


def test_parts_can_not_run_into_one_another():
    a = cache_key(b"s", b'"x"', b'{"a":1}')
    assert a != cache_key(b"s", b'1}"x"', b'{"a":')
    assert a != cache_key(b's{"a"', b'"x"', b":1}")


def test_scope_namespace_sample_and_arm_keep_entries_apart():
    message = [{"role": "user", "content": "Hello"}]
    keys = [
        key_of(message, {}),
        key_of(message, {}, scope=b"other"),
        key_of(message, {}, namespace="n"),
        key_of(message, {}, sample=1),
        key_of(message, {}, experiment="e", arm="a"),
        key_of(message, {}, experiment="e", arm="b"),
        key_of(message, {}, experiment="f", arm="a"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_pool_is_a_set():
    assert scope_digest([b"a", b"b"]) == scope_digest([b"b", b"a"])
    assert scope_digest([b"ab"]) != scope_digest([b"a", b"b"])


def test_omitted_and_zero_temperature_are_not_the_same_question():
    message = [{"role": "user", "content": "Hello"}]
    assert key_of(message, {}) != key_of(message, {"temperature": 0})
    assert key_of(message, {"temperature": 0}) == key_of(message, {"temperature": 0.0})


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_a_key_is_the_same_in_every_process_and_release(hash_seed):
    program = (
        "from novellus_lab.pipeline.question import build_question\n"
        "from novellus_lab.cache.key import cache_key, scope_digest\n"
        "r = build_question('Grüße, 世界 🎈', temperature=0.7, max_tokens=5, stop=['x'], "
        "params={'b': 1, 'a': [1.5, None]})\n"
        "print(cache_key(scope_digest([b'm']), r.messages_json, r.params_json).hex())"
    )
    out = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    # A golden value: if it changes, every cached answer of every user is lost. Bump KEY_VERSION
    # knowingly instead.
    assert out.stdout.strip() == GOLDEN


GOLDEN = "b07dabc791c914ab40888cd331a7069576a57a6dc2bfbad3677af3bea19843b9"


BASE = {"provider": "openai", "model_name": "m"}


def scope_of(*models, **config) -> bytes:
    catalog = Catalog(load_settings({"models": list(models), **config}, environ={}, dotenv=None))
    return catalog.scope(tuple(catalog))


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ({"model_name": "n"}, {}),
        ({"provider": "azure"}, {}),
        ({"base_url": "http://127.0.0.1:8000/v1"}, {}),
        ({"base_model": "gpt-4o"}, {}),
        ({"max_tokens": 5}, {}),
        ({"temperature": 0}, {}),
        ({"params": {"reasoning_effort": "low"}}, {}),
        ({"on_unsupported": "drop"}, {}),
        ({}, {"providers": {"openai": {"base_url": "http://127.0.0.1:8000/v1"}}}),
        ({}, {"providers": {"openai": {"options": {"organization": "o"}}}}),
        ({}, {"providers": {"openai": {"on_unsupported": "drop"}}}),
    ],
)
def test_whatever_of_a_models_configuration_may_change_its_answer_is_in_the_scope(model, config):
    assert scope_of({**BASE, **model}, **config) != scope_of(BASE)


@pytest.mark.parametrize(
    "model",
    [
        {"priority": 7},
        {"weight": 0.5},
        {"display_name": "M"},
        {"input_token_cost": 1},
        {"timeout_s": 5},
        {"rpm": 5},
        {"capabilities": ["chat", "vision"]},
    ],
)
def test_what_does_not_change_an_answer_loses_nobody_the_cache(model):
    assert scope_of({**BASE, **model}) == scope_of(BASE)


def test_a_pool_of_more_models_is_another_scope():
    more = {**BASE, "model_name": "n"}
    assert scope_of(BASE, more) != scope_of(BASE)
    assert scope_of(BASE, more) == scope_of(more, BASE)


def test_the_order_of_tools_the_images_and_the_schema_count():
    one, two = ({"type": "function", "function": {"name": n}} for n in ("a", "b"))
    message = [{"role": "user", "content": "Hello"}]
    assert key_of(message, {"tools": [one, two]}) != key_of(message, {"tools": [two, one]})
    images = [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{n}"}}]}]
        for n in range(2)
    ]
    assert key_of(images[0], {}) != key_of(images[1], {})
    classes = [
        type("City", (BaseModel,), {"__annotations__": {name: str}, "__module__": __name__})
        for name in ("name", "town")
    ]
    keys = {key_of(message, {"response_format": c}) for c in classes}
    keys |= {key_of(message, {}), key_of(message, {"response_format": "json"})}
    assert len(keys) == 4
    assert key_of(message, {"response_format": "text"}) == key_of(message, {})
