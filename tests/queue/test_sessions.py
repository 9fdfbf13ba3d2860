"""Conversations that are remembered, through the public face."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import pytest

from novellus_lab.errors import BadRequestError, InvalidRequestError
from novellus_lab.tokens import estimate_message_tokens
from tests.lab.conftest import openai_model
from tests.loopback import ScriptedServer, openai_chat_reply, openai_chat_stream, openai_error


def count(request):
    """Answer with the number of messages that were sent."""
    messages = request.json["messages"]
    if "bad" in str(messages[-1]["content"]):
        return openai_error(400, "no such thing")
    return openai_chat_reply(f"{len(messages)} messages")


def sent(server, number=-1):
    return [(m["role"], m["content"]) for m in server.requests[number].json["messages"]]


def test_what_was_said_is_sent_again(make_lab, rows):
    with ScriptedServer(count) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with lab.session("chat-1", system="Be brief.", temperature=0.0) as s:
            first = s.complete("one")
            s.complete("two", max_tokens=7)
        assert sent(server) == [
            ("system", "Be brief."),
            ("user", "one"),
            ("assistant", "2 messages"),
            ("user", "two"),
        ]
        assert server.requests[1].json["max_tokens"] == 7
        assert [r.json["temperature"] for r in server.requests] == [0.0, 0.0]
        assert s.history == [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "2 messages"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "4 messages"},
        ]
        lab.flush()
    logged = rows()
    assert {row["session_id"] for row in logged} == {"chat-1"}
    assert s.cost == sum(row["cost_usd"] for row in logged) > first.cost > 0
    assert "4 messages" in s._repr_html_()


def test_another_lab_goes_on_with_it_also_without_logged_content(make_lab, rows):
    silent = {"logging": {"content": False}}
    with ScriptedServer(count) as server:
        one = make_lab(openai_model("gpt-4o", server.url), **silent)
        other = make_lab(openai_model("gpt-4o", server.url), **silent)
        s = one.session(system="Be brief.")
        s.complete("one")
        again = other.session(s.id)
        assert again.system == "Be brief."
        again.complete("two")
        again.system = None
        s.complete("three")
        one.flush()
        other.flush()
    assert sent(server)[1:] == [
        ("user", "one"), ("assistant", "2 messages"), ("user", "two"), ("assistant", "4 messages"),
        ("user", "three"),
    ]  # fmt: skip
    assert all(row["messages"] is None for row in rows())


def test_the_system_prompt_can_be_changed_and_taken_away(make_lab):
    with ScriptedServer(count) as server:
        s = make_lab(openai_model("gpt-4o", server.url)).session()
        s.complete("one")
        s.system = "Be kind."
        s.complete("two")
        assert sent(server)[0] == ("system", "Be kind.")
        s.system = None
        s.complete("three")
        assert sent(server)[0] == ("user", "one")


async def test_those_who_speak_at_once_are_all_remembered(make_lab):
    with ScriptedServer(count) as server:
        labs = [make_lab(openai_model("gpt-4o", server.url)) for _ in range(2)]
        talks = [lab.session("shared") for lab in labs]
        said = [f"n{n}" for n in range(20)]
        await asyncio.gather(*(talks[n % 2].acomplete(text) for n, text in enumerate(said)))
        history = await talks[0].ahistory()
        cost = await talks[0].acost()
    assert sorted(m["content"] for m in history[::2]) == sorted(said)
    assert {m["role"] for m in history[1::2]} == {"assistant"}
    assert cost > 0


def test_a_call_that_fails_leaves_no_trace(make_lab, rows):
    with ScriptedServer(count) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        s = lab.session()
        s.complete("one")
        with pytest.raises(BadRequestError):
            s.complete("bad")
        with pytest.raises(InvalidRequestError, match="empty"):
            s.complete("")
        with pytest.raises(InvalidRequestError, match="temperature"):
            s.complete("x", temprature=1)
        assert len(s.history) == 2
        lab.flush()
    assert [row["status"] for row in rows()] == ["ok", "error", "refused", "refused"]


def test_a_stream_is_remembered_when_it_has_ended(make_lab):
    with ScriptedServer(openai_chat_stream(("a", " b", " c"))) as server:
        s = make_lab(openai_model("gpt-4o", server.url)).session()
        assert "".join(map(str, s.stream("say it"))) == "a b c"
        assert [m["content"] for m in s.history] == ["say it", "a b c"]


async def test_an_async_stream_is_remembered_when_it_has_ended(make_lab):
    with ScriptedServer(openai_chat_stream(("a", " b", " c"))) as server:
        s = make_lab(openai_model("gpt-4o", server.url)).session()
        assert "".join([str(chunk) async for chunk in s.astream("say it")]) == "a b c"
        assert len(await s.ahistory()) == 2


def test_an_equal_history_is_answered_by_the_cache(make_lab):
    with ScriptedServer(count) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        for _ in range(2):
            s = lab.session(temperature=0.0)
            s.complete("one")
            s.complete("two")
        assert len(server.requests) == 2
        assert s.cost == 0
        assert len(s.history) == 4
        s.complete("one")
        assert len(server.requests) == 3


def test_clear_forgets_what_was_said_not_what_it_cost(make_lab):
    with ScriptedServer(count) as server:
        s = make_lab(openai_model("gpt-4o", server.url)).session(system="Be brief.")
        s.complete("one")
        cost = s.cost
        s.clear()
        assert s.history == []
        assert s.cost == cost > 0
        s.complete("two")
        assert sent(server) == [("system", "Be brief."), ("user", "two")]


def test_a_history_that_is_too_long_loses_its_oldest_turns_whole(make_lab):
    with ScriptedServer(lambda request: openai_chat_reply("y " * 100)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url, context_window=1_000))
        s = lab.session(system="Be brief.", max_tokens=100)
        for n in range(12):
            s.complete(f"{n} " + "x " * 100)
        messages = sent(server)
        assert messages[0] == ("system", "Be brief.")
        turns = len(messages[1:-1]) // 2
        assert 1 < turns < 11
        assert [role for role, _ in messages[1:]] == ["user", "assistant"] * turns + ["user"]
        assert messages[-1][1].startswith("11 ")
        assert messages[1][1].startswith(f"{11 - turns} ")
        history = s.history
        assert len(history) == 24
        room, asked = 1_000 - 100, server.requests[-1].json["messages"]
        assert estimate_message_tokens(asked) <= room
        one_more = history[-2 * turns - 4 : -2 * turns - 2]
        assert estimate_message_tokens([*asked, *one_more]) > room * 0.9


def test_a_tools_result_is_never_sent_without_its_call(make_lab):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]

    def answer(request):
        if "tool" in [m["role"] for m in request.json["messages"][-1:]]:
            return openai_chat_reply("found " + "y " * 150)
        if "look" in request.json["messages"][-1]["content"]:
            return openai_chat_reply("", tool_calls=[call])
        return openai_chat_reply("fine " + "y " * 150)

    with ScriptedServer(answer) as server:
        lab = make_lab(openai_model("gpt-4o", server.url, context_window=1_000))
        s = lab.session(max_tokens=100, tools=tools)
        assert s.complete("look " + "x " * 100).tool_calls[0].name == "look"
        s.complete(messages=[{"role": "tool", "tool_call_id": "c1", "content": "z " * 50}])
        for _ in range(8):
            s.complete("go on " + "x " * 40)
            roles = [m["role"] for m in server.requests[-1].json["messages"]]
            assert roles[0] == "user", roles
        assert len(json.dumps(s.history)) > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": ""}, "id"),
        ({"id": "x" * 301}, "300"),
        ({"system": 5}, "system"),
        ({"session_id": "x"}, "session_id"),
    ],
)
def test_what_is_no_session_is_refused(make_lab, options, told):
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(InvalidRequestError, match=told):
        lab.session(**options)


def test_an_unknown_cost_is_no_zero(make_lab):
    model = openai_model("nobody-knows", "")
    with ScriptedServer(count) as server:
        model |= {"base_url": f"{server.url}/v1"}
        del model["input_token_cost"], model["output_token_cost"]
        s = make_lab(model).session()
        assert s.cost == Decimal(0)
        s.complete("one")
        assert s.cost is None
