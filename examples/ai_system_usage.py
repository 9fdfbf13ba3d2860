"""The production system's own calls, one after another: `python examples/ai_system_usage.py`.

With a key in the environment or in `.env` (OPENAI_API_KEY, CLAUDE_API_KEY, GOOGLE_API_KEY), or an
Ollama in reach, live models answer. Without, recorded answers of two models do, labelled as replay;
so that both work, the questions here are among the recorded ones.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from novellus_lab import NovellusError
from novellus_lab.integration import (
    AIModelManager,
    CacheManager,
    ModelLoadBalancer,
    ai_complete,
    ai_embed,
    ai_health,
    ai_metrics,
    shared_lab,
)
from novellus_lab.providers.replay_data import recorded_prompts

FIRST, SECOND, THIRD = recorded_prompts(3)


def title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m")


async def basic_completion() -> str:
    title("Basic completion, with automatic model selection")
    response = await ai_complete(prompt=FIRST, max_tokens=200, temperature=0.7)

    print(f"Prompt: {FIRST}")
    print(f"Response: {response['content']}")
    print(f"Model used: {response['model']}{' (replay)' if response['is_replay'] else ''}")
    print(f"Cost: ${response['cost']:.6f}")
    return response["model"]


async def chat_conversation(model_id: str) -> None:
    title(f"Chat conversation with a specific model, {model_id}")
    messages = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": SECOND},
    ]
    response = await ai_complete(messages=messages, model_id=model_id, max_tokens=300)
    print(response["content"])


async def with_caching() -> None:
    title("The same question twice: the second answer comes from the cache")
    for _ in range(2):
        response = await ai_complete(prompt=THIRD, use_cache=True)
        cache, ms = response["cache"], response["latency_ms"]
        print(f"{cache:>6}: {ms:8.2f} ms, ${response['cost']:.6f}")


async def with_semantic_caching() -> None:
    title("A similar question: the answer to another may do, if it means the same")
    for prompt in ("What is Python?", "Tell me about Python programming", "What is Java?"):
        response = await ai_complete(prompt=prompt, use_cache=True, use_semantic_cache=True)
        cache, source = response["cache"], response["cache_source_prompt"]
        print(f"{prompt:<34} {cache:<9} {'as ' + repr(source) if source else ''}")


async def semantic_search() -> None:
    title("Search in what was asked")
    cache_manager = CacheManager()
    results = await cache_manager.semantic_search(query="programming languages", top_k=5)
    for result in results:
        print(f"{result['similarity']:6.3f}  {result['prompt']}")


def told(strategy: str, response: dict[str, Any]) -> None:
    chance = response["route"].propensity
    print(f"{strategy:>14}: {response['model']}, picked with probability {chance:.2g}")


async def load_balancing_strategies() -> None:
    title("Load balancing strategies")

    # Cost-optimized routing
    response = await ai_complete(
        prompt=FIRST, model_selection_strategy="cost_optimized", use_cache=False
    )
    told("cost_optimized", response)

    # Performance-optimized routing
    response = await ai_complete(
        prompt=FIRST, model_selection_strategy="least_latency", use_cache=False
    )
    told("least_latency", response)

    # Weighted selection (default)
    response = await ai_complete(prompt=FIRST, model_selection_strategy="weighted", use_cache=False)
    told("weighted", response)
    print(await shared_lab().router.aexplain(FIRST, model_selection_strategy="cost_optimized"))


class CustomLoadBalancer(ModelLoadBalancer):
    """The cheap model for short questions, the dear one for long ones."""

    def select_model(self, **kwargs: Any) -> str | None:
        priced = [c for c in kwargs["candidates"] if c.expected_cost_usd is not None]
        choose = max if len(kwargs["prompt"]) > 300 else min
        return choose(priced, key=lambda c: c.expected_cost_usd).model_id if priced else None


async def custom_load_balancing() -> None:
    title("A load balancer of one's own")
    shared_lab().router.register("custom", CustomLoadBalancer)
    for prompt in (FIRST, SECOND):
        response = await ai_complete(
            prompt=prompt, model_selection_strategy="custom", use_cache=False
        )
        told("custom", response)


async def embedding_generation() -> None:
    title("Embeddings, cached automatically")
    for _ in range(2):
        try:
            embedding = await ai_embed(
                text="Machine learning is fascinating", model="text-embedding-3-small"
            )
        except NovellusError as error:  # needs a key: nothing is recorded for embeddings
            print(error)
            return
        print(f"{len(embedding)} numbers: {embedding[0]:.4f}, {embedding[1]:.4f}, …")


async def request_queue() -> None:
    title("A request for later")
    model_manager = AIModelManager()
    try:
        job = await model_manager.queue_request(
            request_data={"prompt": FIRST},
            priority=10,
            scheduled_at=datetime.utcnow() + timedelta(minutes=5),
        )
    except NovellusError as error:  # needs novellus_lab[queue]
        print(error)
        return
    print(job)
    await job.acancel()  # else `novellus worker` would answer it in five minutes


async def performance_monitoring(answered_by: str) -> None:
    for model_id in dict.fromkeys(["gpt-4o", answered_by]):
        title(f"Performance of {model_id}")

        # Get performance metrics
        metrics = await ai_metrics(
            model_id=model_id,
            time_range="24h",  # 1h, 6h, 24h, 7d, 30d
        )

        print(f"Success rate: {metrics['success_rate']}%")
        print(f"Avg latency: {metrics['latency']['avg']}ms")
        print(f"Total cost: ${metrics['cost']['total']}")

    title("Health of the models; None where there is too little to say")

    # Check model health
    health = await ai_health()
    for model, score in health.items():
        print(f"{model}: {score}/100")


def what_was_logged() -> None:
    title("What it left in ai_requests")
    lab = shared_lab()
    log = lab.requests("1h")
    for row in log.reverse().tail(12).iter_rows(named=True):
        print(
            f"{row['created_at']:%H:%M:%S}  {row['model'] or '-':<30}{row['strategy'] or '-':<16}"
            f"{row['cache']:<8}{row['latency_ms']:9.2f} ms  ${row['cost_usd']:.6f}"
        )
    print(f"\n{lab}")


async def main() -> None:
    model_id = await basic_completion()
    await chat_conversation(model_id)
    await with_caching()
    await with_semantic_caching()
    await semantic_search()
    await load_balancing_strategies()
    await custom_load_balancing()
    await embedding_generation()
    await request_queue()
    await performance_monitoring(model_id)
    what_was_logged()


if __name__ == "__main__":
    asyncio.run(main())
