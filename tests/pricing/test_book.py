"""Whose word counts, at what time, for which server; and the arithmetic of the lines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, getcontext, localcontext
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.pricing import ConfiguredPrice, PriceBook
from novellus_lab.types import Price, Usage

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BOOK = PriceBook()
MILLION = 1_000_000


def price(usage: Usage, provider: str = "openai", model: str = "gpt-4o", **more: Any) -> Price:
    return BOOK.price(usage, provider=provider, model=model, **{"at": NOW, **more})


def by_kind(found: Price) -> dict[str, Decimal | None]:
    return {line.kind: line.usd_per_million for line in found.lines}


# -- whose word counts ---------------------------------------------------------------------------


def test_the_table_prices_each_kind_of_token() -> None:
    found = price(Usage(1_000, 500, cached_input_tokens=200, reasoning_tokens=100))
    assert found.cost_usd == Decimal("0.00725")
    assert [(line.kind, line.quantity, line.cost_usd) for line in found.lines] == [
        ("input", 800, Decimal("0.002")),
        ("cached_input", 200, Decimal("0.00025")),
        ("output", 400, Decimal("0.004")),
        ("reasoning", 100, Decimal("0.001")),
    ]
    assert found.fees_usd == 0
    assert found.version.startswith("genai-prices ")
    assert found.reason is None


def test_the_configuration_outranks_the_table() -> None:
    own = ConfiguredPrice(Decimal("0.03"), Decimal("0.06"))
    found = price(Usage(1_000, 1_000), configured=[own])
    assert found.cost_usd == Decimal("0.09")
    assert found.version == "config"


def test_configured_kinds_default_to_the_wider_kind() -> None:
    usage = Usage(
        3_000, 2_000, cached_input_tokens=1_000, cache_write_tokens=1_000, reasoning_tokens=1_000
    )
    own = ConfiguredPrice(Decimal(1), Decimal(10))
    assert price(usage, configured=[own]).cost_usd == 23
    full = ConfiguredPrice(
        Decimal(1),
        Decimal(10),
        cached_input_token_cost=Decimal("0.1"),
        cache_write_token_cost=Decimal("1.25"),
        reasoning_token_cost=Decimal(20),
    )
    assert price(usage, configured=[full]).cost_usd == Decimal("32.35")


def test_a_configured_zero_is_free_not_unknown() -> None:
    own = ConfiguredPrice(Decimal(0), Decimal(0))
    found = price(Usage(5, 5), model="mine", base_url="http://localhost:8000/v1", configured=[own])
    assert found.cost_usd == 0
    assert found.version == "config"


def test_what_the_configuration_leaves_open_comes_from_the_table() -> None:
    own = ConfiguredPrice(Decimal("0.001"), None)
    found = price(Usage(1_000, 1_000), configured=[own])
    assert found.cost_usd == Decimal("0.011")
    assert found.version.startswith("config, genai-prices ")


def test_half_a_price_of_an_unknown_model_is_no_price() -> None:
    own = ConfiguredPrice(Decimal("0.001"), None)
    found = price(Usage(1_000, 1), model="nobody-knows-this", configured=[own])
    assert found.cost_usd is None
    assert "output" in (found.reason or "")
    assert price(Usage(1_000), model="nobody-knows-this", configured=[own]).cost_usd == Decimal(
        "0.001"
    )


def test_the_bill_outranks_everything() -> None:
    own = ConfiguredPrice(Decimal(1), Decimal(1))
    found = price(Usage(10, 10), configured=[own], billed_cost_usd=Decimal("0.0123"))
    assert found.cost_usd == Decimal("0.0123")
    assert found.version == "provider"


def test_a_bill_of_zero_is_a_bill_and_an_impossible_one_is_none() -> None:
    assert price(Usage(10, 10), billed_cost_usd=Decimal(0)).version == "provider"
    for nonsense in (Decimal(-1), Decimal("NaN"), Decimal("Infinity")):
        assert price(Usage(10, 10), billed_cost_usd=nonsense).version.startswith("genai-prices")


def test_fees_are_a_line_of_their_own() -> None:
    found = price(Usage(1_000), fees_usd=Decimal("0.005"))
    assert found.fees_usd == Decimal("0.005")
    assert found.cost_usd == Decimal("0.0075")
    assert found.lines[-1].kind == "fees"
    billed = price(Usage(1_000), fees_usd=Decimal("0.005"), billed_cost_usd=Decimal("0.02"))
    assert [(x.kind, x.cost_usd) for x in billed.lines] == [
        ("billed", Decimal("0.015")),
        ("fees", Decimal("0.005")),
    ]


# -- fees for searches ---------------------------------------------------------------------------


def test_web_searches_are_charged_where_the_table_has_their_price() -> None:
    found = price(Usage(1_000, web_searches=3), "anthropic", "claude-sonnet-4-5-20250929")
    assert found.fees_usd == Decimal("0.03")
    assert found.cost_usd == Decimal("0.033")
    assert found.lines[-1].kind == "web_search"
    assert found.lines[-1].quantity == 3


def test_a_search_of_unknown_price_makes_the_total_unknown() -> None:
    found = price(
        Usage(1_000, web_searches=1), "openai", "deepseek/deepseek-chat",
        base_url="https://openrouter.ai/api/v1",
    )  # fmt: skip
    assert found.cost_usd is None
    assert "web_search" in (found.reason or "")


def test_a_configured_price_does_not_make_searches_free() -> None:
    own = ConfiguredPrice(Decimal("0.001"), Decimal("0.001"))
    known = price(Usage(1_000, web_searches=1), configured=[own])
    assert known.cost_usd == Decimal("0.011")
    assert price(Usage(1_000, web_searches=1), model="nobody", configured=[own]).cost_usd is None


def test_a_fee_for_each_request_is_charged() -> None:
    found = price(Usage(1_000), "perplexity", "sonar-pro")
    assert found.fees_usd is not None
    assert found.fees_usd > 0
    assert found.lines[-1].kind == "request"


# -- kinds of tokens -----------------------------------------------------------------------------


def test_anthropic_cache_writes_cost_by_lifetime() -> None:
    usage = Usage(
        MILLION // 10, cached_input_tokens=10_000, cache_write_tokens=30_000,
        cache_write_1h_tokens=10_000,
    )  # fmt: skip
    rates = by_kind(price(usage, "anthropic", "claude-haiku-4-5"))
    base = rates["input"]
    assert base is not None
    assert rates["cache_write"] == base * Decimal("1.25")
    assert rates["cache_write_1h"] == base * 2
    assert rates["cached_input"] == base / 10


@pytest.mark.parametrize(("tokens", "rate"), [(200_000, "1.25"), (200_001, "2.5")])
def test_long_inputs_cost_more_from_the_first_token(tokens: int, rate: str) -> None:
    found = price(Usage(tokens, 10), "google", "gemini-2.5-pro")
    assert by_kind(found)["input"] == Decimal(rate)
    assert by_kind(found)["output"] == Decimal(10 if tokens == 200_000 else 15)


def test_audio_and_images_have_their_own_prices() -> None:
    heard = by_kind(price(Usage(100, input_audio_tokens=60), "google", "gemini-2.5-flash"))
    assert heard["input_audio"] != heard["input"]
    drawn = by_kind(
        price(Usage(10, 1_300, output_image_tokens=1_290), "google", "gemini-2.5-flash-image")
    )
    assert drawn == {"input": Decimal("0.3"), "output": Decimal("2.5"), "output_image": Decimal(30)}


def test_service_tiers() -> None:
    usage = Usage(1_000, 1_000)
    standard = price(usage, model="gpt-5").cost_usd
    assert standard is not None
    for name in ("default", "auto", "standard", "", "Default"):
        assert price(usage, model="gpt-5", service_tier=name).cost_usd == standard
    assert price(usage, model="gpt-5", service_tier="flex").cost_usd == standard / 2
    assert price(usage, model="gpt-5", service_tier="priority").cost_usd == standard * 2
    assert price(usage, model="gpt-5", service_tier="batch").cost_usd == standard / 2
    unknown = price(usage, model="gpt-4o", service_tier="flex")
    assert unknown.cost_usd is None
    assert "'flex'" in (unknown.reason or "")


# -- time ----------------------------------------------------------------------------------------


def test_configured_prices_hold_from_their_first_moment_until_before_their_last() -> None:
    change = datetime(2026, 7, 1, tzinfo=UTC)
    old = ConfiguredPrice(Decimal(1), Decimal(1), effective_until=change)
    new = ConfiguredPrice(Decimal(2), Decimal(2), effective_from=change)

    def cost(at: datetime) -> Decimal | None:
        return price(Usage(1_000), at=at, configured=[new, old]).cost_usd

    assert cost(change - timedelta(microseconds=1)) == 1
    assert cost(change) == 2
    assert cost(change.astimezone(timezone(timedelta(hours=9)))) == 2
    assert cost(datetime(2026, 6, 30, 23)) == 1  # naive counts as UTC


def test_configured_prices_of_another_time_leave_it_to_the_table() -> None:
    old = ConfiguredPrice(Decimal(1), Decimal(1), effective_until=datetime(2020, 1, 1, tzinfo=UTC))
    assert price(Usage(1_000), configured=[old]).cost_usd == Decimal("0.0025")


def test_dated_prices_change_at_midnight_utc() -> None:
    long = Usage(300_000)  # long-context prices of claude-opus-4-6 ended on 2026-03-13
    before = price(
        long, "anthropic", "claude-opus-4-6", at=datetime(2026, 3, 12, 23, 59, tzinfo=UTC)
    )
    tokyo = timezone(timedelta(hours=9))
    same = price(
        long, "anthropic", "claude-opus-4-6", at=datetime(2026, 3, 13, 8, 59, tzinfo=tokyo)
    )
    after = price(long, "anthropic", "claude-opus-4-6", at=datetime(2026, 3, 13, tzinfo=UTC))
    assert (before.cost_usd, same.cost_usd, after.cost_usd) == (3, 3, Decimal("1.5"))


def test_prices_by_the_time_of_day_change_on_their_minute() -> None:
    def rate(hour: int, minute: int, second: int = 0) -> Decimal | None:
        at = datetime(2026, 11, 24, hour, minute, second, tzinfo=UTC)
        return by_kind(price(Usage(1_000), "deepseek", "deepseek-chat", at=at))["input"]

    assert rate(0, 29, 59) == rate(16, 30) == Decimal("0.135")
    assert rate(0, 30) == rate(16, 29, 59) == Decimal("0.27")


# -- which model, which server -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "model", "list_of"),
    [
        ("https://api.openai.com/v1", "gpt-4o", "openai"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openrouter"),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", "groq"),
        ("https://api.deepseek.com", "deepseek-chat", "deepseek"),
        ("https://api.mistral.ai/v1", "mistral-large-latest", "mistral"),
        ("https://api.together.xyz/v1", "mistralai/Mixtral-8x7B-Instruct-v0.1", "together"),
        ("https://api.together.ai/v1", "mistralai/Mixtral-8x7B-Instruct-v0.1", "together"),
        ("https://api.x.ai/v1", "grok-4", "x-ai"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "gemini-2.5-flash",
            "google",
        ),
    ],
)
def test_known_servers_are_priced_by_their_own_list(url: str, model: str, list_of: str) -> None:
    found = price(Usage(1_000, 1_000), model=model, base_url=url)
    theirs = calc_price(
        TheirUsage(input_tokens=1_000, output_tokens=1_000),
        model,
        provider_id=list_of,
        genai_request_timestamp=NOW,
    )
    assert found.cost_usd == theirs.total_price > 0


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "http://10.0.0.5:1234/v1",
        "https://api.openai.com.example.org/v1",
        "https://llm.example.org/openai",
    ],
)
def test_an_unknown_server_is_not_priced_at_openais_prices(url: str) -> None:
    found = price(Usage(1_000), base_url=url, response_model="gpt-4o")
    assert found.cost_usd is None
    assert "input_token_cost" in (found.reason or "")
    assert "base_model" in (found.reason or "")


def test_a_gateway_shows_itself_by_the_dated_name_of_the_model_that_answered() -> None:
    found = price(Usage(1_000), base_url="http://gateway/v1", response_model="gpt-4o-2024-08-06")
    assert found.cost_usd == Decimal("0.0025")


def test_gateways_to_closed_models_of_anthropic_and_google() -> None:
    for provider, model in (("anthropic", "claude-haiku-4-5"), ("google", "gemini-2.5-flash")):
        direct = price(Usage(1_000), provider, model)
        through = price(Usage(1_000), provider, model, base_url="http://gateway")
        assert through == direct
        assert direct.cost_usd
    assert price(Usage(1), "anthropic", "qwen3", base_url="http://localhost").cost_usd is None


def test_base_model_says_what_a_server_serves() -> None:
    url = "http://localhost:4000"
    assert price(Usage(1_000), model="fast", base_url=url, base_model="gpt-4o") == price(
        Usage(1_000)
    )
    assert price(
        Usage(1_000), model="fast", base_url=url, base_model="anthropic/claude-haiku-4-5"
    ) == price(Usage(1_000), "anthropic", "claude-haiku-4-5")
    wrong = price(Usage(1_000), base_url=url, base_model="no-such-model")
    assert wrong.cost_usd is None
    assert "no-such-model" in (wrong.reason or "")


def test_a_key_in_an_address_stays_out_of_the_reason() -> None:
    found = price(Usage(1), base_url="http://user:s3cret@host:80/v1?key=s3cret")
    assert "s3cret" not in (found.reason or "")
    assert "host:80" in (found.reason or "")


def test_azure_deployments_are_priced_by_what_they_are() -> None:
    usage = Usage(1_000)
    url = "https://mine.openai.azure.com"
    assert price(usage, "azure", "gpt-4o", base_url=url).cost_usd is None
    assert "base_model" in (price(usage, "azure", "prod").reason or "")
    answered = price(usage, "azure", "prod", base_url=url, response_model="gpt-4o-2024-08-06")
    assert answered.cost_usd == Decimal("0.0025")
    told = price(usage, "azure", "prod", response_model="gpt-4o", base_model="gpt-4o-mini")
    assert told.cost_usd == Decimal("0.00015")
    assert price(usage, "azure", "prod", response_model="prod").cost_usd is None


def test_ollama_is_free_unless_configured_or_in_the_cloud() -> None:
    local = price(Usage(1_000, 1_000), "ollama", "llama3.2")
    assert (local.cost_usd, local.version) == (0, "local")
    own = ConfiguredPrice(Decimal("0.001"), Decimal("0.001"))
    assert price(Usage(1_000), "ollama", "llama3.2", configured=[own]).version == "config"
    for model, url in (("gpt-oss:120b-cloud", None), ("gpt-oss:120b", "https://ollama.com")):
        cloud = price(Usage(1_000), "ollama", model, base_url=url)
        assert cloud.cost_usd is None
        assert "cloud" in (cloud.reason or "")


def test_replayed_models_cost_what_their_makers_list_says() -> None:
    usage = Usage(1_000, 1_000)
    gpt = price(usage, "replay", "gpt-4-1106-preview")
    assert gpt.cost_usd == Decimal("0.04")
    mixtral = price(usage, "replay", "mixtral-8x7b-instruct")
    assert mixtral.cost_usd == Decimal("0.0014")


def test_the_model_that_answered_counts() -> None:
    dear = price(Usage(1_000), model="gpt-4o", response_model="gpt-4o-2024-05-13")
    assert dear.cost_usd == Decimal("0.005")
    unheard = price(Usage(1_000), model="gpt-4o", response_model="never-heard-of")
    assert unheard.cost_usd == Decimal("0.0025")


def test_an_unknown_model_says_what_to_set() -> None:
    found = price(Usage(1_000), model="gpt-99-omega")
    assert found.cost_usd is None
    assert found.fees_usd is None
    assert found.lines == ()
    assert "'gpt-99-omega'" in (found.reason or "")
    assert "input_token_cost" in (found.reason or "")


def test_free_models_are_free_and_models_without_a_price_are_not() -> None:
    url = "https://openrouter.ai/api/v1"
    free = price(Usage(1_000, 1), model="deepseek/deepseek-r1:free", base_url=url)
    assert free.cost_usd == 0
    assert price(Usage(1_000, 1), "cerebras", "qwen-3-coder-480b").cost_usd is None
    spoken = price(Usage(1_000, 1), "openai", "tts-1")
    assert spoken.cost_usd is None


def test_a_plugin_provider_without_a_list_is_unpriced() -> None:
    assert price(Usage(1), "parrot", "gpt-4o").cost_usd is None


# -- estimates -----------------------------------------------------------------------------------


def test_an_estimate_is_the_price_of_such_a_call() -> None:
    estimate = BOOK.estimate(
        provider="openai", model="gpt-4o", input_tokens=1_000, output_tokens=500,
        cached_input_tokens=200, at=NOW,
    )  # fmt: skip
    assert estimate == price(Usage(1_000, 500, cached_input_tokens=200)).cost_usd
    unknown = BOOK.estimate(
        provider="openai", model="gpt-99", input_tokens=1, output_tokens=1, at=NOW
    )
    assert unknown is None


def test_an_azure_estimate_takes_a_deployment_named_like_a_model_for_it() -> None:
    def estimate(model: str) -> Decimal | None:
        return BOOK.estimate(
            provider="azure", model=model, input_tokens=1_000, output_tokens=0, at=NOW
        )

    assert estimate("gpt-4o") == Decimal("0.0025")
    assert estimate("production") is None


# -- properties ----------------------------------------------------------------------------------

MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-5.4"),
    ("anthropic", "claude-haiku-4-5"),
    ("anthropic", "claude-sonnet-4-5-20250929"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("google", "gemini-2.5-flash-image"),
    ("deepseek", "deepseek-chat"),
)


@st.composite
def usages(draw: st.DrawFn, largest: int = 400_000) -> Usage:
    count = st.integers(0, largest)
    received, produced = draw(count), draw(count)
    cached = draw(st.integers(0, received))
    written = draw(st.integers(0, received - cached))
    reasoning = draw(st.integers(0, produced))
    return Usage(
        input_tokens=received,
        output_tokens=produced,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=draw(st.integers(0, written)),
        reasoning_tokens=reasoning,
        input_audio_tokens=draw(st.integers(0, received - cached - written)),
        output_image_tokens=draw(st.integers(0, produced - reasoning)),
    )


def add(a: Usage, b: Usage) -> Usage:
    names = (
        "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
        "cache_write_1h_tokens", "reasoning_tokens", "input_audio_tokens", "output_image_tokens",
    )  # fmt: skip
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in names})


@given(usages(), st.sampled_from(MODELS))
def test_lines_add_up_exactly_and_cover_every_token(usage: Usage, model: tuple[str, str]) -> None:
    found = price(usage, *model)
    assert found.cost_usd is not None
    assert found.cost_usd == sum((line.cost_usd for line in found.lines), Decimal(0))
    assert sum(line.quantity for line in found.lines) == usage.total_tokens
    for line in found.lines:
        assert line.usd_per_million is not None
        assert line.cost_usd * MILLION == line.quantity * line.usd_per_million


@given(usages(), st.sampled_from(MODELS))
def test_the_total_is_that_of_the_library_itself(usage: Usage, model: tuple[str, str]) -> None:
    theirs = calc_price(
        TheirUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
            input_audio_tokens=usage.input_audio_tokens,
            cache_audio_read_tokens=0,
            cache_audio_write_tokens=0,
            output_image_tokens=usage.output_image_tokens,
        ),
        model[1],
        provider_id=model[0],
        genai_request_timestamp=NOW,
    )
    assert price(usage, *model).cost_usd == theirs.total_price


@given(usages(100_000), usages(100_000), st.sampled_from(MODELS))
def test_two_calls_cost_the_sum_below_the_first_threshold(
    a: Usage, b: Usage, model: tuple[str, str]
) -> None:
    one, other, both = (price(usage, *model).cost_usd for usage in (a, b, add(a, b)))
    assert one is not None
    assert other is not None
    assert both == one + other


@given(usages(), st.sampled_from(MODELS), st.integers(1, 1_000))
def test_more_tokens_never_cost_less(usage: Usage, model: tuple[str, str], more: int) -> None:
    before = price(usage, *model).cost_usd
    assert before is not None
    for name in ("input_tokens", "output_tokens"):
        grown = price(replace(usage, **{name: getattr(usage, name) + more}), *model).cost_usd
        assert grown is not None
        assert grown >= before


@given(st.integers(0, 400_000), st.data(), st.sampled_from(MODELS))
def test_cached_input_never_costs_more_than_fresh(
    tokens: int, data: st.DataObject, model: tuple[str, str]
) -> None:
    cached = data.draw(st.integers(0, tokens))
    fresh = price(Usage(tokens), *model).cost_usd
    hit = price(Usage(tokens, cached_input_tokens=cached), *model).cost_usd
    assert hit is not None
    assert fresh is not None
    assert hit <= fresh


@given(usages(), st.sampled_from(MODELS))
def test_a_token_costs_less_than_a_tenth_of_a_cent(usage: Usage, model: tuple[str, str]) -> None:
    cost = price(usage, *model).cost_usd
    assert cost is not None
    assert usage.total_tokens * Decimal("1e-9") <= cost <= usage.total_tokens * Decimal("1e-3")


@given(usages(), st.booleans())
def test_fields_that_are_no_quantities_change_nothing(usage: Usage, estimated: bool) -> None:
    assert price(replace(usage, estimated=estimated)) == price(usage)


@given(
    st.decimals("0", "1000", places=9), st.decimals("0", "1000", places=9), usages(10**9)
)  # fmt: skip
def test_configured_prices_are_exact(received: Decimal, produced: Decimal, usage: Usage) -> None:
    found = price(usage, configured=[ConfiguredPrice(received, produced)])
    with localcontext() as context:
        context.prec = 60
        expected = (received * usage.input_tokens + produced * usage.output_tokens) / 1000
        assert found.cost_usd == expected


def test_the_callers_decimal_context_does_not_matter() -> None:
    usage = Usage(123_457, 7_919)
    exact = price(usage).cost_usd
    with localcontext() as context:
        context.prec = 3
        assert getcontext().prec == 3
        assert price(usage).cost_usd == exact


@given(
    st.builds(
        Usage,
        *[st.integers(0, 1_000)] * 11,
    )
)
def test_a_usage_that_contradicts_itself_still_gets_a_sane_price(usage: Usage) -> None:
    found = price(usage, "google", "gemini-2.5-flash")
    assert found.cost_usd is not None
    assert found.cost_usd >= 0
    assert all(line.quantity > 0 for line in found.lines)


# -- lightness -----------------------------------------------------------------------------------


def test_importing_and_free_pricing_load_no_table() -> None:
    code = (
        "import sys; from datetime import datetime, UTC; from novellus_lab.pricing import PriceBook\n"
        "from novellus_lab.types import Usage\n"
        "PriceBook().price(Usage(1), provider='ollama', model='m', at=datetime.now(UTC))\n"
        "print([m for m in ('genai_prices', 'pydantic', 'httpx', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_updated_prices_are_used_and_named() -> None:
    from genai_prices import data_snapshot

    bundled = data_snapshot.get_snapshot()
    updated = data_snapshot.DataSnapshot(providers=bundled.providers, from_auto_update=True)
    book = PriceBook()
    usage = Usage(1_000)
    try:
        data_snapshot.set_custom_snapshot(updated)
        found = book.price(usage, provider="openai", model="gpt-4o", at=NOW)
        assert f"updated {updated.timestamp:%Y-%m-%d}" in found.version
    finally:
        data_snapshot.set_custom_snapshot(None)
    again = book.price(usage, provider="openai", model="gpt-4o", at=NOW)
    assert "updated" not in again.version
