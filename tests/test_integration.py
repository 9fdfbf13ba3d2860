"""The production system's own calls, as its documentation writes them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import novellus_lab
from novellus_lab import (
    AIModelManager,
    Lab,
    MetricsCollector,
    ai_complete,
    ai_embed,
    ai_health,
    ai_metrics,
    integration,
)
from tests.lab.conftest import embedding_model, openai_model
from tests.loopback import (
    ScriptedServer,
    openai_chat_reply,
    openai_chat_stream,
    openai_embedding_reply,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def answer(request: Any) -> Any:
    if "input" in request.json:
        return openai_embedding_reply([[0.1, 0.2]])
    if request.json.get("stream"):
        return openai_chat_stream(["Once ", "more."])
    return openai_chat_reply("Quantum computing is …")


@pytest.fixture
def llm() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer) as llm:
        yield llm


@pytest.fixture
def shared(
    llm: ScriptedServer, database: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    """The lab that the module's functions open for themselves, on a configuration of ours."""
    opened: list[Lab] = []

    def open_lab() -> Lab:
        models = [
            openai_model("gpt-4o", llm.url),
            openai_model(
                "unpriced", llm.url, weight=0, input_token_cost=None, output_token_cost=None
            ),
            embedding_model("text-embedding-3-small", llm.url),
        ]
        lab = Lab(config={"models": models}, home=tmp_path / "home", database_url=database.conninfo)
        opened.append(lab)
        return lab

    monkeypatch.setattr(integration, "Lab", open_lab)
    monkeypatch.setattr(integration, "_shared", None)
    yield integration.shared_lab()
    assert len(opened) == 1
    opened[0].close()


async def test_a_basic_completion_is_a_dict_that_prints_as_documented(shared: Lab) -> None:
    response = await ai_complete(
        prompt="Explain quantum computing", max_tokens=200, temperature=0.7
    )
    assert type(response) is dict
    assert f"Response: {response['content']}" == "Response: Quantum computing is …"
    assert f"Model used: {response['model']}" == "Model used: gpt-4o"
    assert f"Cost: ${response['cost']:.6f}" == "Cost: $0.020000"


async def test_an_unknown_cost_prints_too_and_is_not_zero(shared: Lab) -> None:
    response = await ai_complete(prompt="x", model_id="unpriced")
    assert isinstance(response, dict)
    assert f"${response['cost']:.6f}" == "$NaN"
    assert (response["cost"] + Decimal(1)).is_nan()
    assert shared.complete("x", model_id="unpriced", use_cache=False).cost is None


async def test_a_conversation_and_the_cache(shared: Lab, llm: ScriptedServer) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "What is machine learning?"},
    ]
    for outcome in ("miss", "memory"):
        response = await ai_complete(
            messages=messages, model_id="gpt-4o", max_tokens=300, use_cache=True
        )
        assert isinstance(response, dict)
        assert response["cache"] == outcome
    assert len(llm.requests) == 1


@pytest.mark.parametrize("strategy", ["cost_optimized", "least_latency", "weighted"])
async def test_strategies(shared: Lab, strategy: str) -> None:
    response = await ai_complete(prompt="Simple question", model_selection_strategy=strategy)
    assert isinstance(response, dict)
    assert response["route"].strategy == strategy


async def test_an_embedding_is_a_list_of_numbers_and_cached(
    shared: Lab, llm: ScriptedServer
) -> None:
    for _ in range(2):
        embedding = await ai_embed(
            text="Machine learning is fascinating", model="text-embedding-3-small"
        )
        assert embedding == [0.1, 0.2]
    assert len(llm.requests) == 1


async def test_performance_monitoring(shared: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(10):
        await ai_complete(f"{n}", model_id="gpt-4o", use_cache=False)

    # Get performance metrics
    metrics = await ai_metrics(
        model_id="gpt-4o",
        time_range="24h",  # 1h, 6h, 24h, 7d, 30d
    )

    print(f"Success rate: {metrics['success_rate']}%")
    print(f"Avg latency: {metrics['latency']['avg']}ms")
    print(f"Total cost: ${metrics['cost']['total']}")

    # Check model health
    health = await ai_health()
    for model, score in health.items():
        print(f"{model}: {score}/100")

    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Success rate: 100.0%"
    assert float(shown[1].removeprefix("Avg latency: ").removesuffix("ms")) > 0
    assert Decimal(shown[2].removeprefix("Total cost: $")) > 0
    assert "gpt-4o: 100.0/100" in shown
    assert await MetricsCollector().calculate_health_score("gpt-4o") == 100


async def test_the_manager_takes_its_arguments_by_name_and_by_place(
    shared: Lab, llm: ScriptedServer
) -> None:
    manager = AIModelManager()
    function = {"name": "look", "parameters": {"type": "object"}}
    response = await manager.complete(
        prompt=None,
        messages=[{"role": "user", "content": "Hi"}],
        model_id="gpt-4o",
        max_tokens=5,
        temperature=0.5,
        stream=False,
        functions=[function],
        use_cache=False,
    )
    assert isinstance(response, dict)
    assert response["content"].startswith("Quantum")
    sent = llm.requests[-1].json
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["temperature"] == 0.5
    by_place = await manager.complete("Hi", None, "gpt-4o", 5, 0.5, False, None, False)
    assert isinstance(by_place, dict)
    assert by_place["cache"] == "off"


async def test_streams(shared: Lab) -> None:
    stream = await AIModelManager(shared).complete(prompt="x", stream=True)
    assert not isinstance(stream, dict)
    assert "".join([str(chunk) async for chunk in stream]) == "Once more."
    again = await ai_complete("y", stream=True)
    assert not isinstance(again, dict)
    assert "".join([str(chunk) async for chunk in again]) == "Once more."


def test_one_lab_serves_all_calls_and_loops_and_is_opened_anew_when_closed(
    llm: ScriptedServer, database: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Lab] = []

    def open_lab() -> Lab:
        opened.append(
            Lab(
                config={"models": [openai_model("m", llm.url)]},
                home=tmp_path / "home",
                database_url=database.conninfo,
            )
        )
        return opened[-1]

    monkeypatch.setattr(integration, "Lab", open_lab)
    monkeypatch.setattr(integration, "_shared", None)

    async def many() -> None:
        await asyncio.gather(*(ai_complete(f"{n}") for n in range(8)))

    asyncio.run(many())
    asyncio.run(many())
    assert len(opened) == 1
    opened[0].close()
    asyncio.run(many())
    assert len(opened) == 2
    opened[1].close()
    with psycopg.connect(database.conninfo) as connection:
        [count] = connection.execute("SELECT count(*) FROM ai_requests").fetchone() or [0]
    assert count == 24


def test_the_names_stand_on_the_package_too() -> None:
    assert novellus_lab.ai_complete is integration.ai_complete
    assert {"ai_complete", "ai_embed", "ai_metrics", "ai_health", "MetricsCollector"} <= set(
        dir(novellus_lab)
    )
