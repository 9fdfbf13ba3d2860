"""Streams: pieces, the whole afterwards, and every way in which they can end early."""

from __future__ import annotations

import asyncio
import gc
import time
from decimal import Decimal

import pytest

from novellus_lab.errors import (
    DeadlineExceededError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from tests.lab.conftest import openai_model
from tests.loopback import (
    Scripted,
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_error,
    openai_usage,
)

PIECES = [f"word{n} " for n in range(30)]


def until_logged(lab, rows, count=1):
    for _ in range(100):
        lab.flush()
        if len(rows()) >= count:
            return rows()
        time.sleep(0.05)
    raise AssertionError("nothing was logged")


def test_a_stream_arrives_in_pieces_and_is_logged_priced_and_kept(make_lab, rows):
    with ScriptedServer(openai_chat_stream(PIECES, usage=openai_usage(7, 30))) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        stream = lab.stream("Count")
        pieces = [str(chunk) for chunk in stream]
        r = stream.completion
        assert len(pieces) == 30
        assert "".join(pieces) == r.content == "".join(PIECES)
        assert r.cost == Decimal("0.067")
        assert r.ttft_ms is not None
        again = lab.stream("Count")
        assert "".join(map(str, again)) == r.content
        assert again.completion.cache == "memory"
        assert lab.complete("Count").cache.hit  # a streamed answer serves whole ones, too
        assert len(server.requests) == 1
        lab.flush()
    logged = rows()
    assert [row["stream"] for row in logged] == [True, True, False]
    assert logged[0]["ttft_ms"] > 0
    assert logged[0]["latency_ms"] >= logged[0]["ttft_ms"]


async def test_async_streams(make_lab):
    with ScriptedServer(openai_chat_stream(PIECES)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        async with lab.astream("Count") as stream:
            text = "".join([str(chunk) async for chunk in stream])
        assert text == stream.completion.content == "".join(PIECES)
        via_complete = await lab.acomplete("Count", stream=True)
        assert "".join([str(c) async for c in via_complete]) == text


@pytest.mark.parametrize("way", ["close", "break", "forget"])
def test_an_abandoned_stream_is_closed_priced_and_logged(make_lab, rows, way):
    with ScriptedServer(openai_chat_stream(PIECES * 40, between_s=0.01)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        if way == "break":
            for n, _ in enumerate(lab.stream("Count")):
                if n == 5:
                    break
        else:
            stream = lab.stream("Count")
            for _ in range(6):
                next(stream)
            if way == "close":
                stream.close()
            else:
                del stream
        gc.collect()
        assert server.client_left.wait(10)
        [row] = until_logged(lab, rows)
    assert row["status"] == "cancelled"
    assert row["usage_estimated"] is True
    assert row["input_tokens"] > 0
    assert row["output_tokens"] >= 6
    assert row["cost_usd"] > 0
    assert row["response"].startswith("word0 word1 ")


def test_a_stream_that_never_starts_fails_over(make_lab):
    with (
        ScriptedServer(openai_error(503)) as bad,
        ScriptedServer(openai_chat_stream(["fine"])) as good,
    ):
        lab = make_lab(openai_model("a", bad.url, priority=900), openai_model("b", good.url))
        stream = lab.stream("Hi", model_selection_strategy="priority")
        assert "".join(map(str, stream)) == "fine"
        assert stream.completion.model == "b"


def test_a_stream_that_breaks_half_way_raises_with_what_had_arrived(make_lab, rows):
    broken = openai_chat_stream(PIECES[:4], finish_reason=None, done=False, end="abort")
    with ScriptedServer(broken) as bad, ScriptedServer(openai_chat_stream(["other"])) as good:
        lab = make_lab(openai_model("a", bad.url, priority=900), openai_model("b", good.url))
        stream = lab.stream("Hi", model_selection_strategy="priority")
        got = []
        with pytest.raises(ProviderUnavailableError) as caught:
            for chunk in stream:
                got.append(str(chunk))
        assert "".join(got) == caught.value.partial_content == "".join(PIECES[:4])
        assert not good.requests  # the caller has seen text: nothing may be begun anew
        [row] = until_logged(lab, rows)
    assert row["status"] == "error"
    assert row["cost_usd"] > 0
    assert row["usage_estimated"] is True
    assert row["response"] == "".join(PIECES[:4])


def test_an_error_event_inside_a_stream(make_lab, rows):
    pieces = [
        'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
        'data: {"error":{"message":"upstream died","code":502}}\n\n',
    ]
    with ScriptedServer(Scripted(pieces=pieces)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with pytest.raises(ProviderUnavailableError, match="upstream died"):
            list(lab.stream("Hi"))
        [row] = until_logged(lab, rows)
    assert (row["status"], row["response"]) == ("error", "Hel")


def test_the_deadline_ends_a_stream(make_lab, rows):
    with ScriptedServer(openai_chat_stream(PIECES, between_s=0.1)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with pytest.raises(DeadlineExceededError):
            list(lab.stream("Hi", timeout=0.5))
        [row] = until_logged(lab, rows)
    assert row["status"] == "error"
    assert row["cost_usd"] > 0


def test_a_consumer_that_dawdles_is_waited_for(make_lab):
    many = [f"{n} " for n in range(5000)]
    with ScriptedServer(openai_chat_stream(many)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        stream = lab.stream("Count")
        next(stream)
        time.sleep(0.3)
        assert len(list(stream)) == 4999


async def test_a_cancelled_consumer_cancels_the_stream(make_lab, rows):
    with ScriptedServer(openai_chat_stream(PIECES, between_s=0.2)) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))

        async def read():
            async for _ in lab.astream("Hi"):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        [row] = await asyncio.to_thread(until_logged, lab, rows)
    assert row["status"] == "cancelled"


def test_a_bad_stream_call_is_refused_at_once(make_lab):
    with ScriptedServer(openai_chat_reply()) as server:
        lab = make_lab(openai_model("gpt-4o", server.url))
        with pytest.raises(ValueError, match="empty"):
            lab.stream("")
        assert not server.requests


def test_a_deadline_that_the_provider_notices_first_is_the_calls_deadline(make_lab, monkeypatch):
    """Its own limit is what is left of the call's: which of the two ends the wait is a race."""
    from novellus_lab.providers.openai import OpenAIProvider

    async def notices(self, call):
        while True:
            try:
                await asyncio.sleep(call.timeout_s)
            except asyncio.CancelledError:  # the call's own limit, in the same turn of the loop
                asyncio.current_task().uncancel()
            raise ProviderTimeoutError("openai model 'gpt-4o' did not answer in time")

    monkeypatch.setattr(OpenAIProvider, "complete", notices)
    lab = make_lab(openai_model("gpt-4o", "http://127.0.0.1:9"))
    with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.2 s"):
        lab.complete("Hi", timeout=0.2)
