"""The LiteLLM Router on the same servers: a program for whichever Python has litellm.

`python -P router.py '{"urls": […], "calls": …, …}'` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any


def _router(order: dict[str, Any]) -> Any:
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm.Router(
        model_list=[
            {
                "model_name": "regions",
                "litellm_params": {
                    "model": f"openai/region-{n}",
                    "api_base": f"{url}/v1",
                    "api_key": "key",
                    "timeout": order["timeout_s"],
                    "stream_timeout": order["timeout_s"],
                },
            }
            for n, url in enumerate(order["urls"])
        ],
        num_retries=order["attempts"] - 1,
        retry_after=0,
        disable_cooldowns=order["disable_cooldowns"],
    )


async def _one(router: Any, number: int) -> str:
    question = f"this is call number {number}"
    given = {
        "model": "regions",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 50,
    }
    if number % 2:
        return (await router.acompletion(**given)).choices[0].message.content or ""
    pieces = []
    async for chunk in await router.acompletion(**given, stream=True):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
    return "".join(pieces)


async def _soak(order: dict[str, Any]) -> dict[str, Any]:
    router = _router(order)
    left = iter(range(order["calls"]))
    answered, wrong, errors = 0, 0, Counter[str]()

    async def caller() -> None:
        nonlocal answered, wrong
        for number in left:
            try:
                async with asyncio.timeout(order["patience_s"]):
                    content = await _one(router, number)
            except Exception as error:
                errors[type(error).__name__] += 1
            else:
                right = content == f"You said: this is call number {number}"
                answered += right
                wrong += not right

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(order["concurrency"])))
    return {
        "answered": answered,
        "wrong": wrong,
        "errors": errors,
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not get in between
    print(json.dumps(asyncio.run(_soak(json.loads(sys.argv[1])))), file=answers)
