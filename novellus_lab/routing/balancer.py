"""`ModelLoadBalancer`: a strategy of your own, in one method."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Self

from novellus_lab.routing.strategies import Strategy
from novellus_lab.types import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from novellus_lab.routing.strategies import Option, RoutingContext

_MOST_HANGING = 16
"""Calls of one balancer that may be under way; from then on it is not asked."""


@dataclass(frozen=True, slots=True)
class BalancerCandidate:
    """A model that can take the request."""

    model_id: str
    provider: str
    weight: float
    priority: float
    capabilities: tuple[str, ...]
    context_window: int | None
    expected_cost_usd: Decimal | None
    """Of this request; None where the price is not known."""
    expected_output_tokens: int
    expected_latency_ms: float | None
    """Of this request (to the first token, for a stream); None for a model that was not seen yet."""
    in_flight: int
    success_share: float


class ModelLoadBalancer(Strategy):
    """A strategy of your own: subclass it, override `select_model`, register it by name.

    ```python
    class Cautious(ModelLoadBalancer):
        def select_model(self, **kwargs):
            cheap = [c for c in kwargs["candidates"] if c.expected_cost_usd is not None]
            return min(cheap, key=lambda c: c.expected_cost_usd).model_id if cheap else None

    lab.router.register("cautious", Cautious)
    lab.complete("…", model_selection_strategy="cautious")
    ```

    `select_model` may be a coroutine function. A plain one runs in a thread, so that it may take its
    time without holding up other calls. Either has `timeout_s`; what is late, raises, or names no
    candidate is logged as a warning, and the default strategy decides instead: a call never fails by
    its balancer.
    """

    name: ClassVar[str] = "balancer"
    timeout_s: ClassVar[float] = 1.0
    """How long `select_model` may take."""
    in_thread: ClassVar[bool] = True
    """False calls a plain `select_model` on the lab's own loop: some 0.1 ms less, but nothing can stop
    it there, and all other calls wait for it."""

    state: dict[str, Any]
    """Whatever you want to remember from call to call."""
    _under_way: int

    def __new__(cls, *_: Any, **__: Any) -> Self:
        self = super().__new__(cls)  # here, not in __init__: a subclass's own need not call ours
        self.state, self._under_way = {}, 0
        return self

    def select_model(self, **kwargs: Any) -> Any:
        """Choose a model for a request.

        Args:
            kwargs: `candidates` (a tuple of `BalancerCandidate`), `prompt` (text of the last user
                turn), `messages`, `params`, `tags`, `priority`, `session_id`, `input_tokens`,
                `stream`, `state` (a dict of yours), `random` (draw from it and nothing else, and the
                lab's seed makes your picks repeatable).

        Returns:
            a model id, which counts as picked with probability 1; or probabilities by model id (a
            dict, or pairs), from which the lab draws: then the log tells the truth of a lottery; or
            None: the default strategy decides.
        """
        return None

    def judge(self, options: Sequence[Option], context: RoutingContext) -> list[Candidate]:
        raise NotImplementedError("a balancer is asked by `ask`")

    async def ask(
        self, options: Sequence[Option], context: RoutingContext
    ) -> list[Candidate] | None:
        """Return what `select_model` says as probabilities, or None where it says nothing.

        Raises:
            TimeoutError, ValueError, or whatever `select_model` raises.
        """
        arguments = self._arguments(options, context)
        if inspect.iscoroutinefunction(self.select_model):
            async with asyncio.timeout(self.timeout_s):
                said = await self.select_model(**arguments)
        elif not self.in_thread:
            said = self.select_model(**arguments)
        else:
            if self._under_way >= _MOST_HANGING:
                raise TimeoutError(f"{self._under_way} calls of its select_model hang")
            async with asyncio.timeout(self.timeout_s):
                said = await self._threaded(arguments)
        return _probabilities(said, options)

    async def _threaded(self, arguments: Mapping[str, Any]) -> Any:
        """Run it in a daemon thread: one that hangs for ever holds up neither calls nor the exit."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._under_way += 1

        def end(result: Any, error: BaseException | None) -> None:
            self._under_way -= 1
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = self.select_model(**arguments)
            except Exception as raised:
                error = raised
            except BaseException as raised:  # an interrupt or exit is none of the call's
                error = RuntimeError(f"select_model ended with {type(raised).__name__}")
            try:
                loop.call_soon_threadsafe(end, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                return

        threading.Thread(target=work, name=f"balancer-{self.name}", daemon=True).start()
        return await done

    def _arguments(self, options: Sequence[Option], context: RoutingContext) -> dict[str, Any]:
        asked = context.asked
        return {
            "candidates": tuple(_candidate(option, context) for option in options),
            "prompt": asked.last_user_text,
            "messages": asked.messages,
            "params": dict(asked.params),
            "tags": dict(asked.tags),
            "priority": asked.priority,
            "session_id": asked.session_id,
            "input_tokens": asked.input_tokens,
            "stream": asked.stream,
            "state": self.state,
            "random": Random(context.random.getrandbits(64)),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelLoadBalancer:
        from copy import deepcopy

        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for key, value in vars(self).items():
            setattr(twin, key, 0 if key == "_under_way" else deepcopy(value, memo))
        return twin


def balancer_of(name: str, select: Callable[..., Any]) -> type[ModelLoadBalancer]:
    """Make a class of a plain function with `select_model`'s arguments."""
    if inspect.iscoroutinefunction(select):

        async def select_async(self: ModelLoadBalancer, **kwargs: Any) -> Any:
            return await select(**kwargs)

        members: dict[str, Any] = {"select_model": select_async}
    else:

        def select_sync(self: ModelLoadBalancer, **kwargs: Any) -> Any:
            return select(**kwargs)

        members = {"select_model": select_sync}
    return type(name, (ModelLoadBalancer,), {**members, "__doc__": select.__doc__})


def _candidate(option: Option, context: RoutingContext) -> BalancerCandidate:
    model_id, estimates = option.model_id, context.estimates
    forecast = estimates.forecast(model_id)
    return BalancerCandidate(
        model_id,
        option.provider,
        option.weight,
        option.priority,
        option.capabilities,
        option.context_window,
        estimates.expected_cost_usd(model_id),
        estimates.expected_output_tokens(model_id),
        forecast.latency_ms if forecast.seen else None,
        estimates.in_flight(model_id),
        estimates.success_share(model_id),
    )


def _probabilities(said: Any, options: Sequence[Option]) -> list[Candidate] | None:
    if said is None:
        return None
    known = [option.model_id for option in options]
    if isinstance(said, str):
        pairs: list[tuple[Any, Any]] = [(said, 1.0)]
    elif isinstance(said, Mapping):
        pairs = list(said.items())
    elif isinstance(said, Sequence) and all(
        isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2 for pair in said
    ):
        pairs = [(pair[0], pair[1]) for pair in said]
    else:
        raise ValueError(
            f"select_model returned {said!r:.100}: expected a model id, None, or probabilities by "
            f"model id"
        )
    weights: dict[str, float] = {}
    for model_id, weight in pairs:
        if model_id not in known:
            raise ValueError(
                f"select_model named {model_id!r}, which is no candidate of this request "
                f"({', '.join(known)})"
            )
        number = float(weight)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"select_model gave {model_id!r} the probability {weight!r}")
        weights[model_id] = weights.get(model_id, 0.0) + number
    total = sum(weights.values())
    if total <= 0:
        raise ValueError("select_model gave no model a probability above 0")
    judged = [Candidate(m, weights.get(m, 0.0) / total) for m in known]
    return sorted(judged, key=lambda c: -c.probability)
