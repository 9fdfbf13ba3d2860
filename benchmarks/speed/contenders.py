"""Clients, each in a process of its own: a program that takes orders on stdin.

Run by path, by whichever Python has the client installed, so that a peer needs no place in ours:
`python -P contenders.py NAME URL [JSON]`. An order is a line of JSON such as
`{"do": "sequential", "calls": 60}`; the answer is a line of JSON, seconds for all the calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

MODEL = "gpt-4o"
MESSAGES = [
    {"role": "system", "content": "You answer briefly and in plain words. " * 10},
    {"role": "user", "content": "What does a cache do, and when does it do harm? " * 10},
]
"""About 1 kB: a short conversation."""
DEPLOYMENTS = 4
PLENTY = 10**9
"""Of requests, tokens, dollars: limits that are kept to and never reached."""
ASKED = {"messages": MESSAGES, "max_tokens": 200, "temperature": 0.7}


class Contender:
    """Asks the server. `ask` is synchronous, `aask` runs on the process's one event loop."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url
        self.options = options

    def ask(self) -> Any:
        return _loop.run_until_complete(self.aask())

    async def aask(self) -> Any:
        raise NotImplementedError

    def sequential(self, calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            self.ask()
        return time.perf_counter() - started

    def concurrent(self, calls: int, concurrency: int) -> float:
        started = time.perf_counter()
        _loop.run_until_complete(self._crowd(calls, concurrency))
        return time.perf_counter() - started

    async def _crowd(self, calls: int, concurrency: int) -> None:
        left = iter(range(calls))

        async def one() -> None:
            for _ in left:
                await self.aask()

        await asyncio.gather(*(one() for _ in range(concurrency)))

    def close(self) -> None:
        """Finish: write what is to be written, close what is open."""


class SequentialOnTheLoop(Contender):
    """For clients that know no synchronous call: the loop starts once a turn, not once a call."""

    def sequential(self, calls: int) -> float:
        return self.concurrent(calls, 1)


class Httpx(Contender):
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        import httpx

        self._client = httpx.Client(trust_env=False)
        self._aclient = httpx.AsyncClient(trust_env=False)
        self._path = f"{url}/v1/chat/completions"
        self._body = {"model": MODEL, **ASKED}

    def ask(self) -> Any:
        response = self._client.post(self._path, json=self._body).json()
        return response["choices"][0]["message"]["content"]

    async def aask(self) -> Any:
        response = (await self._aclient.post(self._path, json=self._body)).json()
        return response["choices"][0]["message"]["content"]


class Aiohttp(SequentialOnTheLoop):
    """The floor: bytes out, bytes in, JSON by C."""

    _session: Any = None

    async def aask(self) -> Any:
        import aiohttp
        import orjson

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with self._session.post(
            f"{self.url}/v1/chat/completions",
            data=orjson.dumps({"model": MODEL, **ASKED}),
            headers={"Content-Type": "application/json", "Authorization": "Bearer key"},
        ) as response:
            return orjson.loads(await response.read())["choices"][0]["message"]["content"]

    def close(self) -> None:
        if self._session is not None:
            _loop.run_until_complete(self._session.close())


class Sdk(Contender):
    """OpenAI's own, as it comes."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        import openai

        given = {"base_url": f"{url}/v1", "api_key": "key", "max_retries": 0}
        self._client = openai.OpenAI(**given)
        self._aclient = openai.AsyncOpenAI(**given)

    def ask(self) -> Any:
        answer = self._client.chat.completions.create(model=MODEL, **ASKED)
        return answer.choices[0].message.content

    async def aask(self) -> Any:
        answer = await self._aclient.chat.completions.create(model=MODEL, **ASKED)
        return answer.choices[0].message.content


class SdkOnAiohttp(SequentialOnTheLoop):
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        import openai

        self._client = openai.AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key="key",
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(),
        )

    async def aask(self) -> Any:
        answer = await self._client.chat.completions.create(model=MODEL, **ASKED)
        return answer.choices[0].message.content

    def close(self) -> None:
        _loop.run_until_complete(self._client.close())


class LiteLlm(Contender):
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        import litellm

        litellm.telemetry = False
        litellm.suppress_debug_info = True
        self._litellm = litellm
        self._given = {
            "model": f"openai/{MODEL}",
            "api_base": f"{url}/v1",
            "api_key": "key",
            **ASKED,
        }
        if options.get("cache"):
            litellm.cache = litellm.Cache(type="local")
            self._given["caching"] = True

    def ask(self) -> Any:
        return self._litellm.completion(**self._given).choices[0].message.content

    async def aask(self) -> Any:
        return (await self._litellm.acompletion(**self._given)).choices[0].message.content


class LiteLlmRouter(Contender):
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        import litellm

        litellm.telemetry = False
        litellm.suppress_debug_info = True
        self._router = litellm.Router(
            model_list=[
                {
                    "model_name": MODEL,
                    "litellm_params": {
                        "model": f"openai/{MODEL}",
                        "api_base": f"{url}/v1",
                        "api_key": "key",
                    },
                }
            ],
            num_retries=0,
        )

    def ask(self) -> Any:
        return self._router.completion(model=MODEL, **ASKED).choices[0].message.content

    async def aask(self) -> Any:
        answer = await self._router.acompletion(model=MODEL, **ASKED)
        return answer.choices[0].message.content


class LiteLlmRouted(LiteLlmRouter):
    """Several deployments. Options: limits (requests and tokens a minute are kept to)."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        Contender.__init__(self, url, options)
        import litellm

        litellm.telemetry = False
        litellm.suppress_debug_info = True
        limits = {"rpm": PLENTY, "tpm": PLENTY} if options.get("limits") else {}
        more = {"routing_strategy": "usage-based-routing-v2"} if limits else {}
        deployment = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "key"}
        self._router = litellm.Router(
            model_list=[
                {"model_name": MODEL, "litellm_params": {**deployment, **limits}}
                for _ in range(DEPLOYMENTS)
            ],
            num_retries=2,
            **more,
        )


class GptCache(Contender):
    """GPTCache's exact match in its map, without the call around it."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        from gptcache import Cache
        from gptcache.adapter.api import get, put
        from gptcache.manager import get_data_manager
        from gptcache.processor.pre import get_prompt

        self._get = get
        self._cache = Cache()
        self._cache.init(pre_embedding_func=get_prompt, data_manager=get_data_manager())
        self._prompt = json.dumps(ASKED)
        put(self._prompt, "Hello there.", cache_obj=self._cache)

    def ask(self) -> Any:
        return self._get(self._prompt, cache_obj=self._cache)


class OurLab(Contender):
    """Ours. Options: home, database_url, tags."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        from novellus_lab import Lab

        self._lab = Lab(
            home=options["home"],
            database_url=options["database_url"],
            config={"models": [our_model(url)]},
        )
        self._given = {**ASKED, "model_id": MODEL, "use_cache": False, "tags": options["tags"]}

    def ask(self) -> Any:
        return self._lab.complete(**self._given).content

    async def aask(self) -> Any:
        return (await self._lab.acomplete(**self._given)).content

    def close(self) -> None:
        self._lab.close()


class OurBatch(OurLab):
    def concurrent(self, calls: int, concurrency: int) -> float:
        started = time.perf_counter()
        answers = self._lab.batch(
            [MESSAGES] * calls,
            max_concurrency=concurrency,
            progress=False,
            **{k: v for k, v in self._given.items() if k != "messages"},
        )
        seconds = time.perf_counter() - started
        if not all(answers):
            raise AssertionError(f"a call of the batch failed: {next(a for a in answers if not a)}")
        return seconds


class OurRouted(OurLab):
    """Several models to choose from by a rule, with limits and a hard budget."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        Contender.__init__(self, url, options)
        from novellus_lab import Lab

        limits = {"rpm": PLENTY, "tpm": PLENTY, "concurrent": 1_000}
        names = [f"{MODEL}-{n}" for n in range(DEPLOYMENTS)]
        self._lab = Lab(
            home=options["home"],
            database_url=options["database_url"],
            config={
                "models": [{**our_model(url, name), **limits} for name in names],
                "load_balancing": {"rules": [{"name": "all", "model_pool": names}]},
                "budgets": [{"name": "speed", "usd": PLENTY, "per": "day"}],
            },
        )
        self._given = {**ASKED, "use_cache": False, "tags": options["tags"]}


class OurRoutedBatch(OurRouted, OurBatch):
    """The same calls as one batch."""


def our_model(url: str, name: str = MODEL) -> dict[str, Any]:
    """The model's entry in a lab's configuration."""
    return {
        "provider": "openai",
        "model_name": name,
        "base_url": f"{url}/v1",
        "capabilities": ["chat"],
        "input_token_cost": "0.0025",
        "output_token_cost": "0.01",
    }


CONTENDERS: dict[str, type[Contender]] = {
    "httpx": Httpx,
    "aiohttp": Aiohttp,
    "sdk": Sdk,
    "sdk_on_aiohttp": SdkOnAiohttp,
    "litellm": LiteLlm,
    "litellm_router": LiteLlmRouter,
    "gptcache": GptCache,
    "lab": OurLab,
    "lab_batch": OurBatch,
    "lab_routed": OurRouted,
    "lab_routed_batch": OurRoutedBatch,
    "litellm_routed": LiteLlmRouted,
}


def main() -> None:
    """Answer orders until stdin ends."""
    name, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    # What libraries print must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    asyncio.set_event_loop(_loop)
    contender = CONTENDERS[name](url, options)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        done = getattr(contender, order.pop("do"))(**order)
        print(json.dumps(done), file=answers, flush=True)
    _loop.close()


_loop = asyncio.new_event_loop()

if __name__ == "__main__":
    main()
