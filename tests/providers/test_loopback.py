"""The loopback servers do what the other tests trust them to do."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.loopback import (
    WIRE,
    RecordedServer,
    Scripted,
    ScriptedServer,
    cut,
    openai_chat_reply,
    openai_chat_stream,
    read_cassette,
)

CASSETTES = sorted(WIRE.glob("*/*.yaml"))


@pytest.mark.parametrize("split", [None, "awkward", 700])
async def test_recordings_are_served_byte_for_byte(split):
    async with aiohttp.ClientSession() as session:
        for cassette in CASSETTES:
            with RecordedServer(cassette, split=split) as server:
                for recorded in server.interactions:
                    async with session.post(f"{server.url}/any?x=1", json={"n": 1}) as response:
                        assert await response.read() == recorded.body
                        assert response.status == recorded.status
                        assert response.headers["content-type"] == recorded.headers["content-type"]
                assert server.requests[0].json == {"n": 1}
                assert server.requests[0].query == {"x": "1"}


def test_recordings_can_be_filtered_by_address():
    cassette = next(c for c in CASSETTES if "cached_content" in c.name)
    assert len(list(read_cassette(cassette))) == 4
    assert len(list(read_cassette(cassette, ":generateContent"))) == 2
    with pytest.raises(ValueError, match="no interaction"):
        RecordedServer(cassette, only="api.openai.com")


async def test_an_answer_after_the_last_recorded_one_is_an_error():
    with RecordedServer(WIRE / "otel-contrib" / _name("chat_completion_streaming")) as server:
        async with aiohttp.ClientSession() as session:
            statuses = []
            for _ in range(2):
                async with session.post(server.url) as response:
                    statuses.append(response.status)
    assert statuses == [200, 500]


def _name(part: str) -> str:
    return next(c.name for c in CASSETTES if part in c.name)


@given(body=st.binary(max_size=400), size=st.integers(1, 50))
def test_pieces_joined_are_the_body(body, size):
    for split in (None, "awkward", size):
        assert b"".join(cut(body, split)) == body


def test_awkward_cuts_fall_inside_characters_and_between_line_ends():
    body = 'data: {"a": "é€😀"}\n\ndata: 2\n\n'.encode()
    pieces = cut(body, "awkward")
    assert any(piece[0] & 0xC0 == 0x80 for piece in pieces)
    assert any(a.endswith(b"\n") and b.startswith(b"\n") for a, b in itertools.pairwise(pieces))


async def test_scripts_run_in_order_and_see_what_was_sent():
    with ScriptedServer(
        [Scripted(429, headers={"retry-after": "7"}), openai_chat_reply("hello")]
    ) as server:
        async with aiohttp.ClientSession() as session:
            async with session.post(server.url) as response:
                assert (response.status, response.headers["retry-after"]) == (429, "7")
            async with session.post(server.url) as response:
                said = await response.json()
                assert said["choices"][0]["message"]["content"] == "hello"
            async with session.post(server.url) as response:
                assert response.status == 500
    assert server.connections == 1


async def test_a_handler_may_compute_or_await_its_answer():
    async def answer(request):
        await asyncio.sleep(0)
        return Scripted(body={"you_sent": request.json, "to": request.path})

    with ScriptedServer(answer) as server:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/v1/x", json=[1]) as response,
        ):
            assert await response.json() == {"you_sent": [1], "to": "/v1/x"}


async def test_connections_break_where_the_script_says():
    with ScriptedServer([openai_chat_stream(end="abort"), Scripted(end="abort")]) as server:
        async with aiohttp.ClientSession() as session:
            async with session.post(server.url) as response:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(server.url)
    assert not server.client_left.is_set()


async def test_the_server_notices_a_client_that_leaves():
    with ScriptedServer(openai_chat_stream(end="hang")) as server:
        async with aiohttp.ClientSession() as session:
            response = await session.post(server.url)
            assert await response.content.readany()
            response.close()
            assert await server.wait_client_left()


async def test_a_server_that_never_answers_never_answers():
    with ScriptedServer(Scripted(end="hang")) as server:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(session.post(server.url), 0.1)
            assert await server.wait_client_left()


async def test_as_a_program_it_serves_until_its_input_is_closed():
    root = WIRE.parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.loopback"],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        url = program.stdout.readline().strip()
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json={}) as response:
                assert (await response.json())["choices"][0]["finish_reason"] == "stop"
            async with session.post(url, data=b'{"stream":true}') as response:
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
        program.stdin.close()
        assert program.wait(timeout=20) == 0
