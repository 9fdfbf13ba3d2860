"""Anything at all, end to end: an answer, or a refusal in words before anything is sent; one row each."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from novellus_lab import BatchFailure
from novellus_lab.errors import (
    ConfigurationError,
    ContextWindowExceededError,
    InvalidRequestError,
    NoModelAvailableError,
    StoreUnavailableError,
)
from novellus_lab.lab import Lab
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_embedding_reply

SELF: list = []
SELF.extend([SELF, SELF, SELF])


class Odd:
    """Compares like an array: to nothing that is a truth value."""

    def __eq__(self, other):
        return self

    __hash__ = None

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")

    def __repr__(self):
        return "odd"


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
    | st.text(max_size=20) | st.binary(max_size=5) | st.sampled_from(["\x00", "a\ud800", "💥\udc00"])
    | st.sampled_from([print, int, dict, object(), {1, 2}, 1j, Odd(), SELF, range(3)])
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "assistant", "tool", "usr"]) | ANYTHING,
        "content": ANYTHING
        | st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["text", "image_url"]) | ANYTHING},
                optional={"text": ANYTHING, "image_url": ANYTHING},
            ),
            max_size=2,
        ),
        "tool_calls": ANYTHING,
        "tool_call_id": ANYTHING,
    },
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function") | ANYTHING},
    optional={
        "function": ANYTHING
        | st.fixed_dictionaries({"name": st.text(max_size=5)}, optional={"parameters": ANYTHING})
    },
)
PLAUSIBLE = {
    "messages": st.lists(MESSAGE, max_size=3),
    "model_id": st.sampled_from(["m", "openai/m", "n", "e", ""]),
    "max_tokens": st.integers(-2, 2**70),
    "temperature": st.floats(-1, 3),
    "top_p": st.floats(-1, 2),
    "stop": st.lists(st.text(max_size=3), max_size=2),
    "seed": st.integers(),
    "tools": st.lists(TOOL, max_size=2),
    "functions": st.lists(TOOL, max_size=2),
    "tool_choice": st.sampled_from(["auto", "none", "required", "f"]),
    "response_format": st.sampled_from(["json", "text", {"type": "object", "properties": {}}]),
    "params": st.dictionaries(st.text(max_size=5), ANYTHING, max_size=2),
    "use_cache": st.booleans(),
    "use_semantic_cache": st.booleans(),
    "cache": st.fixed_dictionaries(
        {}, optional={"ttl": ANYTHING | st.floats(), "sample": ANYTHING, "namespace": ANYTHING}
    ),
    "model_selection_strategy": st.sampled_from(["weighted", "round_robin", "x", ""]),
    "timeout": st.floats(5, 1e300),
    "priority": st.sampled_from(["high", 5, True]),
    "tags": st.dictionaries(st.text(max_size=3), ANYTHING, max_size=2),
    "session_id": st.text(max_size=3),
    "experiment": st.text(max_size=3),
    "arm": st.text(max_size=3),
    "no_such_argument": st.none(),
}
ARGUMENTS = st.dictionaries(st.sampled_from(sorted(PLAUSIBLE)), st.just(None), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: PLAUSIBLE[name] | ANYTHING for name in names})
)
PROMPT = st.just("Hello") | st.none() | ANYTHING
REFUSALS = (InvalidRequestError, NoModelAvailableError)
CALM = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def answer(request):
    if "input" in request.json:
        return openai_embedding_reply([[1.0]] * len(request.json["input"]))
    return openai_chat_reply('{"fine": true}')


class Bench:
    """A lab, its server, and how far both have come."""

    def __init__(self, lab, server, conninfo):
        self.lab, self.server, self.conninfo = lab, server, conninfo

    def count(self):
        self.lab.flush()
        with psycopg.connect(self.conninfo) as connection:
            [found] = connection.execute("SELECT count(*) FROM ai_requests").fetchone()
        return found

    def check(self, call, more_rows=1):
        """Call; hold it to its promise."""
        rows, sent = self.count(), len(self.server.requests)
        try:
            return call()
        except REFUSALS as error:
            assert len(str(error)) > 10
            assert len(self.server.requests) == sent
            return None
        finally:
            assert self.count() == rows + more_rows


@pytest.fixture
def bench(make_lab, database):
    with ScriptedServer(answer) as server:
        lab = make_lab(
            openai_model("m", server.url),
            openai_model("n", server.url),
            embedding_model("e", server.url),
        )
        yield Bench(lab, server, database.conninfo)


@CALM
@given(prompt=PROMPT, arguments=ARGUMENTS)
@example(prompt="x", arguments={"params": 5})
@example(prompt="x", arguments={"temperature": 10**400})
@example(prompt="x", arguments={"params": {"self": SELF}})
@example(prompt="x", arguments={"tool_choice": Odd()})
@example(prompt="x", arguments={"response_format": Odd()})
@example(prompt="x", arguments={"cache": {"ttl": 1e300}})
@example(prompt=None, arguments={"messages": dict})
@example(prompt="x", arguments={"priority": "\ud800"})
@example(prompt="x", arguments={"model_selection_strategy": ""})
@example(prompt="x", arguments={"no_such_argument": None})
def test_complete_answers_or_refuses(bench, prompt, arguments):
    bench.check(lambda: bench.lab.complete(prompt, **arguments))


@CALM
@given(
    text=st.text(min_size=1, max_size=9) | st.lists(st.text(max_size=5), max_size=3) | ANYTHING,
    arguments=st.dictionaries(
        st.sampled_from(["model", "dimensions", "use_cache", "timeout", "tags", "session_id"]),
        ANYTHING,
        max_size=2,
    ),
)
@example(text="x", arguments={"model": 5})
@example(text="x", arguments={"model": []})
@example(text="x", arguments={"dimensions": 2**70})
@example(text="x", arguments={"timeout": 10**400})
@example(text="x", arguments={"tags": [1]})
@example(text="x", arguments={"use_cache": "no"})
def test_embed_answers_or_refuses(bench, text, arguments):
    bench.check(lambda: bench.lab.embed(text, **arguments))


@CALM
@given(
    prompts=st.lists(
        st.just("Hello")
        | ANYTHING
        | st.fixed_dictionaries({}, optional={"prompt": PROMPT, "stream": st.just(True)}),
        max_size=3,
    )
    | ANYTHING,
    concurrency=st.just(4) | ANYTHING,
)
@example(prompts=[{"prompt": "x", "stream": True}, {"prompt": "y", 5: 5}], concurrency=2)
def test_batch_answers_or_refuses_each_item(bench, prompts, concurrency):
    rows = bench.count()
    try:
        results = bench.lab.batch(prompts, max_concurrency=concurrency, progress=False)
    except InvalidRequestError:
        assert bench.count() == rows + 1
        return
    assert bench.count() == rows + len(results)
    for result in results:
        assert result.content == '{"fine": true}' or isinstance(result, BatchFailure)
        if isinstance(result, BatchFailure):
            assert isinstance(result.error, REFUSALS)


def test_a_prompt_of_ten_megabytes_is_answered_or_refused(bench, make_lab):
    big = "a very long prompt " * 550_000
    assert bench.check(lambda: bench.lab.complete(big)).content
    narrow = make_lab(openai_model("m", bench.server.url, context_window=128_000))
    with pytest.raises(ContextWindowExceededError, match="Nothing was sent"):
        narrow.complete(big)


def test_an_unknown_argument_is_answered_with_near_names(bench):
    with pytest.raises(InvalidRequestError, match="'max_token'.*'max_tokens'"):
        bench.lab.complete("x", max_token=5)


def test_half_a_yaml_and_a_database_that_is_not_there(tmp_path):
    (tmp_path / "half.yaml").write_text("models:\n  - {provider: openai, model_name: [\n")
    with pytest.raises(ConfigurationError, match=r"half\.yaml, line"):
        Lab(config=tmp_path / "half.yaml", home=tmp_path / "home")
    with pytest.raises(StoreUnavailableError, match="127.0.0.1:9"):
        Lab(home=tmp_path / "home", database_url="postgresql://u:secret@127.0.0.1:9/db")
