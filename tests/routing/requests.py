"""Requests and models for tests of strategies, without a lab around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from novellus_lab.routing.latency import LatencyTracker
from novellus_lab.routing.strategies import Option, RoutingContext
from novellus_lab.routing.traffic import Traffic


@dataclass
class Request:
    last_user_text: str = "Hi"
    messages: list[Any] = field(default_factory=lambda: [{"role": "user", "content": "Hi"}])
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    priority: Any = None
    session_id: str | None = None
    input_tokens: int = 10
    stream: bool = False


@dataclass
class Known:
    """What is known of the models."""

    costs: dict[str, str | None] = field(default_factory=dict)
    latencies: LatencyTracker = field(default_factory=LatencyTracker)
    traffic: Traffic = field(default_factory=Traffic)
    stream: bool = False
    output_tokens: int = 256

    def expected_cost_usd(self, model_id: str) -> Decimal | None:
        cost = self.costs.get(model_id)
        return None if cost is None else Decimal(cost)

    def expected_output_tokens(self, model_id: str) -> int:
        return self.output_tokens

    def forecast(self, model_id: str):
        return self.latencies.forecast(
            model_id, input_tokens=10, output_tokens=self.output_tokens, stream=self.stream
        )

    def in_flight(self, model_id: str) -> int:
        return self.traffic.in_flight(model_id)

    def success_share(self, model_id: str) -> float:
        return self.traffic.success_share(model_id)


def options(*names: str, **more: dict[str, Any]) -> list[Option]:
    """Options by name; keywords give those of one model."""
    return [Option(name, **more.get(name, {})) for name in names]


def context(
    seed: int = 0, known: Known | None = None, request: Request | None = None, router: Any = None
) -> RoutingContext:
    return RoutingContext(Random(seed), request or Request(), known or Known(), router)
