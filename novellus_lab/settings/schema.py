"""What the configuration may hold: one class a section, frozen, no unknown keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from novellus_lab.errors import UnknownModelError, did_you_mean
from novellus_lab.settings.environment import provider_address

CAPABILITIES = (
    "chat",
    "completion",
    "function_calling",
    "vision",
    "json_schema",
    "streaming",
    "reasoning",
    "audio",
    "embedding",
)

FAILURES = (
    "rate_limit",
    "timeout",
    "unavailable",
    "authentication",
    "context_window_exceeded",
    "content_filtered",
    "bad_request",
    "provider_error",
)
"""Kinds of `ProviderError`, by their `code`. The last stands for each that is not named apart."""

_SECRET_NAME = re.compile(
    r"(^|[_-])(api[_-]?key|authorization|password|passwd|secret|token)$", re.I
)
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


def names_a_secret(name: str) -> bool:
    """Whether a key's name says that its value is a secret (`api_key`, `Authorization`, …)."""
    return _SECRET_NAME.search(name) is not None


def _decimal(value: object) -> object:
    """Take a number as it was written: the float between a YAML and a price would bend it."""
    text = getattr(value, "text", value)
    if isinstance(text, bool) or not isinstance(text, (str, int, float, Decimal)):
        raise ValueError("must be a number of US dollars")
    try:
        return Decimal(str(text).replace("_", ""))
    except InvalidOperation:
        raise ValueError("must be a number of US dollars, such as 0.0025") from None


def _timestamp(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a date such as 2026-11-24, or a time with its zone") from None
    if not isinstance(value, date):
        raise ValueError("must be a date such as 2026-11-24, or a time with its zone")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if value.tzinfo is not None:
        return value
    try:
        return value.astimezone()
    except (OverflowError, ValueError, OSError):
        raise ValueError("is too far from today") from None


def _capabilities(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in CAPABILITIES:
            raise ValueError(
                f"{name!r} is no capability. {did_you_mean(name, CAPABILITIES)} "
                f"All of them: {', '.join(CAPABILITIES)}"
            )
    return names


def _failure(name: str) -> str:
    if name not in FAILURES:
        raise ValueError(
            f"{name!r} is no kind of failure. {did_you_mean(name, FAILURES)} "
            f"All of them: {', '.join(FAILURES)}"
        )
    return name


def _failure_or_default(name: str) -> str:
    return name if name == "default" else _failure(name)


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an address such as https://host:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("must hold no user or password: name the key's variable in api_key_env")
    return value


def _variable(value: str) -> str:
    # A key that was pasted here would otherwise stand in "… is not set", in the log and in tables.
    if not _VARIABLE_NAME.fullmatch(value):
        raise ValueError(
            "must be the name of an environment variable in capitals, such as OPENAI_API_KEY, "
            "not the key itself"
        )
    return value


def _without_secrets(value: dict[str, Any]) -> dict[str, Any]:
    def look(part: object) -> None:
        if isinstance(part, Mapping):
            for name, inner in part.items():
                if isinstance(inner, (str, bytes)) and names_a_secret(str(name)):
                    raise ValueError(
                        f"must not hold {name!r}: keep secrets in the environment or `.env`, and "
                        f"name the variable in api_key_env"
                    )
                look(inner)
        elif isinstance(part, Sequence) and not isinstance(part, (str, bytes)):
            for inner in part:
                look(inner)

    look(value)
    return value


_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _minute(text: str) -> int:
    hour, _, minute = text.strip().partition(":")
    return int(hour) * 60 + int(minute)


def _period_of_day(value: object) -> object:
    # A bare 09:00 is a number of base 60 to YAML: only a text with both ends will do.
    found = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*[-–]\s*(\d{1,2}):(\d{2})\s*", str(value))
    if isinstance(value, str) and found is not None:
        hours = int(found[1]), int(found[3])
        minutes = int(found[2]), int(found[4])
        start, end = (60 * h + m for h, m in zip(hours, minutes, strict=True))
        if max(minutes) < 60 and start < 1440 and end <= 1440 and start != end:
            return f"{hours[0]:02}:{minutes[0]:02}-{hours[1]:02}:{minutes[1]:02}"
    raise ValueError("must be a time of day such as 09:00-17:30, or 22:00-06:00 over midnight")


def _weekdays(value: object) -> object:
    stated = [value] if isinstance(value, str) else value
    if not isinstance(stated, (list, tuple)):
        raise ValueError("must be weekdays such as [mon, wed] or mon-fri")
    days: list[str] = []
    for part in stated:
        ends = [end.strip().lower()[:3] for end in str(part).split("-")]
        if not 1 <= len(ends) <= 2 or any(end not in _WEEKDAYS for end in ends):
            raise ValueError(f"{part!r} is no weekday; they are {', '.join(_WEEKDAYS)}, or mon-fri")
        first, last = _WEEKDAYS.index(ends[0]), _WEEKDAYS.index(ends[-1])
        days += [_WEEKDAYS[n % 7] for n in range(first, last + 1 + (7 if last < first else 0))]
    return tuple(day for day in _WEEKDAYS if day in days)


def _time_zone(name: str) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone such as Europe/Berlin or UTC") from None
    return name


PerThousand = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False)]
"""US dollars per 1,000 tokens, exactly as written in the YAML."""

# Strict: `yes`, which YAML reads as true, is no 1, and "7" no number.
_Count = Annotated[int, Field(ge=1, strict=True)]
_CountOrZero = Annotated[int, Field(ge=0, strict=True)]
_Whole = Annotated[int, Field(strict=True)]
_Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, strict=True)]
_Temperature = Annotated[float, Field(ge=0, le=2, strict=True)]
_Flag = Annotated[bool, Field(strict=True)]
_Name = Annotated[str, Field(min_length=1)]
_Address = Annotated[str, AfterValidator(_address)]
_Variable = Annotated[str, AfterValidator(_variable)]
_Time = Annotated[datetime, BeforeValidator(_timestamp)]
_Open = Annotated[dict[str, Any], AfterValidator(_without_secrets)]
_Capabilities = Annotated[tuple[str, ...], AfterValidator(_capabilities)]
_OnUnsupported = Literal["error", "drop"]
_Failure = Annotated[str, AfterValidator(_failure)]
_Retries = Annotated[int, Field(ge=0, le=19, strict=True)]
_Fallbacks = dict[Annotated[str, AfterValidator(_failure_or_default)], tuple[str, ...]]
"""Whom to ask after a failure of a kind, in order; `default`: after any, when all candidates failed."""


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True, slots=True)
class ConfiguredPrice:
    """A price that the YAML states, in US dollars per 1,000 tokens; None: not stated."""

    input_token_cost: Decimal | None = None
    output_token_cost: Decimal | None = None
    cached_input_token_cost: Decimal | None = None
    """Default: the input price."""
    cache_write_token_cost: Decimal | None = None
    """Default: the input price."""
    reasoning_token_cost: Decimal | None = None
    """Default: the output price."""
    effective_from: datetime | None = None
    effective_until: datetime | None = None
    batch_discount: Decimal | None = None
    """Share of the token prices that a batch saves; None: what its provider documents."""

    @property
    def states_a_price(self) -> bool:
        """Whether it is more than a discount."""
        return any(
            price is not None
            for price in (
                self.input_token_cost,
                self.output_token_cost,
                self.cached_input_token_cost,
                self.cache_write_token_cost,
                self.reasoning_token_cost,
            )
        )


class PriceSettings(Section):
    """One dated price of a model: from (inclusive) until (exclusive)."""

    input_token_cost: PerThousand | None = None
    output_token_cost: PerThousand | None = None
    cached_input_token_cost: PerThousand | None = None
    cache_write_token_cost: PerThousand | None = None
    reasoning_token_cost: PerThousand | None = None
    effective_from: _Time | None = None
    effective_until: _Time | None = None


class ModelSettings(Section):
    """One entry of `models`."""

    provider: _Name
    model_name: _Name
    """The provider's own name of the model, or the Azure deployment."""
    display_name: str | None = None
    max_tokens: _Count | None = None
    """Longest answer where the call does not say."""
    temperature: _Temperature | None = None
    """Where the call does not say; None leaves it to the provider."""
    input_token_cost: PerThousand | None = None
    output_token_cost: PerThousand | None = None
    cached_input_token_cost: PerThousand | None = None
    cache_write_token_cost: PerThousand | None = None
    reasoning_token_cost: PerThousand | None = None
    batch_discount: Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=1)] | None = None
    """Share of the token prices that the provider's batch API saves; None: what it documents."""
    prices: tuple[PriceSettings, ...] = ()
    """Dated prices; the first whose dates hold is taken."""
    priority: _Whole = 100
    """Higher goes first under the `priority` strategy."""
    weight: _NotNegative | None = None
    """Share in the weighted lottery; None counts 1; 0 keeps a model out of automatic routing."""
    capabilities: _Capabilities = ("chat",)
    base_url: _Address | None = None
    """Any OpenAI-compatible server (vLLM, llama.cpp, LM Studio, OpenRouter), or a proxy."""
    api_key_env: _Variable | None = None
    """The variable that holds the key, where it is not the provider's usual one."""
    base_model: _Name | None = None
    """What an Azure deployment, or a local server's alias, really is: prices go by it."""
    rpm: _Count | None = None
    """Requests per minute that the provider allows."""
    tpm: _Count | None = None
    """Tokens per minute that the provider allows."""
    concurrent: _Count | None = None
    """Calls at once."""
    context_window: _Count | None = None
    """Tokens that prompt and answer may have together."""
    params: _Open = {}
    """Passed on to the provider as they are (`reasoning_effort`, `thinking`, …)."""
    on_unsupported: _OnUnsupported | None = None
    """What becomes of a parameter that the model can't honour; default as its provider, else error."""
    timeout_s: _Positive | None = None
    """Longest time of one attempt at this model."""
    cache_ttl_seconds: _NotNegative | None = None
    """How long its answers are kept; None: as `cache.ttl_seconds` says."""
    fallbacks: _Fallbacks = {}
    """Who stands in for it, also where a call names it; they go before the rule's and the lab's."""
    enabled: _Flag = True

    _model_id: str = PrivateAttr("")

    @property
    def model_id(self) -> str:
        """`model_name`, or `provider/model_name` where two providers share a name."""
        return self._model_id or self.model_name

    @property
    def configured_prices(self) -> tuple[ConfiguredPrice, ...]:
        """What the YAML says of prices: dated ones first, then the undated."""
        discount = self.batch_discount
        dated = [ConfiguredPrice(**dict(price), batch_discount=discount) for price in self.prices]
        stated = (self.input_token_cost, self.output_token_cost, discount)
        if any(value is not None for value in stated):
            dated.append(
                ConfiguredPrice(
                    self.input_token_cost,
                    self.output_token_cost,
                    self.cached_input_token_cost,
                    self.cache_write_token_cost,
                    self.reasoning_token_cost,
                    batch_discount=discount,
                )
            )
        return tuple(dated)

    def mirror(self) -> dict[str, Any]:
        """The entry as `ai_models` keeps it. There are no secrets in it: only names of variables."""
        return {
            "model_id": self.model_id,
            "provider": self.provider,
            "model_name": self.model_name,
            "config": self.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        }


class ProviderSettings(Section):
    """One entry of `providers`: what all models of a provider share."""

    base_url: _Address | None = None
    api_key_env: _Variable | None = None
    max_connections: _Count = 256
    on_unsupported: _OnUnsupported | None = None
    options: _Open = {}
    """The provider's own: `api_version` (Azure), `organization` (OpenAI), `latency` (replay), …"""


class HedgingSettings(Section):
    """A second call beside one that takes long; the first answer wins."""

    enabled: _Flag = True
    """`false`, of a rule: not for its calls."""
    after_ms: _NotNegative | None = None
    """So long after the first; None: when `quantile` of such calls of that model have ended."""
    quantile: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.95
    min_calls: _Count = 5
    """Recent calls of a model without which its quantile is not known: then there is no second."""
    to: Literal["next", "same"] = "next"
    """The next candidate (the same model where there is none), or the same model."""
    max_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.1
    """Most calls that are hedged."""

    def policy(self) -> dict[str, Any] | None:
        """As `pipeline.hedging.Hedging` takes it; None: off."""
        return self.model_dump(exclude={"enabled"}) if self.enabled else None


class ConditionSettings(Section):
    """When a rule applies: all that are stated must hold."""

    priority: str | int | tuple[str | int, ...] | None = None
    """The call's `priority`, or any of several."""
    max_latency_ms: _Positive | None = None
    """Only models whose recent latency stays below."""
    max_cost_usd: Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0)] | None = None
    """Only models whose expected cost of this call stays below."""
    min_input_tokens: _CountOrZero | None = None
    max_input_tokens: _Count | None = None
    capabilities: _Capabilities = ()
    """What the call needs: `vision` where it has images, `function_calling` where it has tools, …"""
    tags: dict[str, Any] = {}
    """Tags that the call must have, with these values."""
    session: _Name | None = None
    """A pattern for the call's `session_id`: `support-*`."""
    time: Annotated[str, BeforeValidator(_period_of_day)] | None = None
    """From (inclusive) until (exclusive): `09:00-17:30`; `22:00-06:00` goes over midnight."""
    weekdays: Annotated[tuple[str, ...], BeforeValidator(_weekdays)] = ()
    """`[mon, wed]` or `mon-fri`; a time over midnight belongs to the day on which it begins."""
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    """In which `time` and `weekdays` are meant: `Europe/Berlin`."""

    @property
    def depends_on_time(self) -> bool:
        """Whether it may hold now and not in an hour."""
        return self.time is not None or bool(self.weekdays)

    @property
    def minutes(self) -> tuple[int, int]:
        """`time` in minutes after midnight: from, until."""
        start, _, end = (self.time or "00:00-24:00").partition("-")
        return _minute(start), _minute(end)


class RuleSettings(Section):
    """One entry of `load_balancing.rules`; the first whose conditions hold decides."""

    name: _Name
    strategy: _Name = "weighted"
    model_pool: tuple[str, ...] = ()
    """Model ids; empty: all that are available."""
    cache_ttl_seconds: _NotNegative | None = None
    """How long answers of its requests are kept; None: as the model's entry says."""
    epsilon: _Share | None = None
    """Share of calls that go to any candidate, to learn of it; None: as `load_balancing.epsilon`."""
    options: dict[str, Any] = {}
    """Of its strategy."""
    fallbacks: _Fallbacks = {}
    """They go before the lab's."""
    hedging: HedgingSettings | None = None
    """None: as the lab's."""
    conditions: ConditionSettings = ConditionSettings()

    def mirror(self) -> dict[str, Any]:
        """The rule as `load_balancing_rules` keeps it."""
        later = ("epsilon", "options", "fallbacks", "hedging")
        added = {name for name in later if not getattr(self, name)}
        config = self.model_dump(mode="json", exclude={"conditions", *added})
        conditions = self.conditions.model_dump(mode="json", exclude_defaults=True)
        return {"name": self.name, "config": {**config, "conditions": conditions}}


def _of_the_request(conditions: ConditionSettings) -> ConditionSettings:
    for name in ("max_latency_ms", "max_cost_usd"):
        if getattr(conditions, name) is not None:
            raise ValueError(f"must not hold {name!r}: it chooses among models, and here is one")
    return conditions


class ShadowSettings(Section):
    """One entry of `shadows`: a model that is also asked, unseen by the caller."""

    model: _Name
    share: Annotated[float, Field(gt=0, le=1, strict=True)]
    """Of the answered requests for which the conditions hold."""
    usd: Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False)]
    """What its calls may cost together …"""
    per: Literal["day", "month", "total"] = "day"
    """… in this time, in UTC."""
    max_concurrent: _Count = 4
    """Calls at once of one process; what would be more is not asked."""
    conditions: Annotated[ConditionSettings, AfterValidator(_of_the_request)] = ConditionSettings()


class LoadBalancingSettings(Section):
    """How a model is chosen where the call names none."""

    default_strategy: _Name = "weighted"
    epsilon: _Share = 0.0
    """Share of calls that go to any candidate, whatever the strategy says, to learn of it."""
    options: dict[str, dict[str, Any]] = {}
    """Of strategies, by their names, where a rule states none."""
    rules: tuple[RuleSettings, ...] = ()


class SemanticCacheSettings(Section):
    """Whether a question may be answered with the answer to another that means the same."""

    enabled: _Flag = False
    """Whether calls that don't say `use_semantic_cache` use it."""
    similarity_threshold: _Share = 0.85
    """Least score of a hit (0 to 1), whatever was calibrated; not a cosine."""
    max_error_rate: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = 0.01
    """Share of hits that may be wrong: calibration holds it. None: similarity and guards alone."""
    embedding_model: _Name = "static"
    """What finds candidates: `static` (offline), `minilm` (offline), or an embedding model's id."""
    encoder: _Name | None = "minilm"
    """What decides where cheap features can't: `minilm`, or an embedding model's id. None: such
    questions are misses."""
    max_index_entries: _Count = 1_000_000
    """Of this process's index; the latest are kept."""


class CacheSettings(Section):
    """Answers kept for equal requests."""

    enabled: _Flag = True
    ttl_seconds: _NotNegative | None = 3600
    """None keeps answers for ever."""
    max_entries: _CountOrZero = 10_000
    """Of this process's memory tier."""
    max_bytes: _CountOrZero = 256 * 2**20
    """Of this process's memory tier."""
    max_temperature: _Temperature | None = None
    """Requests with a higher temperature are neither kept nor answered from the cache; None: all are.
    One that neither call nor model states is the provider's own, and counts as 1."""
    max_stored_entries: _Count | None = 1_000_000
    """Of the shared tier, PostgreSQL: beyond, what is worth least goes. None: no bound."""
    stale_while_revalidate_seconds: _NotNegative = 0
    """How long after its end an answer is still served, while a new one is made for the next call."""
    tool_calls: _Flag = False
    """Whether answers that call tools are kept, too."""
    single_flight: _Flag = True
    """Whether equal requests that are under way at once share one provider call."""
    semantic_cache: SemanticCacheSettings = SemanticCacheSettings()


class RetrySettings(Section):
    """How often, and after what wait, a failed call is made again."""

    max_attempts: Annotated[int, Field(ge=1, le=20, strict=True)] = 3
    """Calls of one model, the first included, before the next candidate's turn."""
    base_delay_s: _NotNegative = 0.5
    """Longest first wait; it doubles with each failure."""
    max_delay_s: _NotNegative = 20.0
    jitter: _Flag = True
    """Wait a random part of it, so that many clients do not return at once."""
    after: dict[_Failure, _Retries] = {}
    """How often a model is asked again after failures of a kind, whatever `max_attempts` says."""


class BreakerSettings(Section):
    """When a model is not called for a while."""

    enabled: _Flag = True
    failure_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """Of a decayed window's calls, from which on the circuit opens …"""
    min_calls: _Count = 10
    """… if the window holds so many."""
    consecutive_failures: _Count = 5
    """In a row; they open it whatever the window holds."""
    cooldown_s: _Positive = 5.0
    """First time open; it doubles with each probe that fails."""
    max_cooldown_s: _Positive = 300.0
    probes: _Count = 2
    """Calls let through to see whether the model is back."""

    def policy(self) -> dict[str, Any]:
        """As `routing.breaker.BreakerPolicy` takes it."""
        return self.model_dump(exclude={"enabled"})


class HealthSettings(Section):
    """When a model counts as healthy; see `monitoring.health.HealthRules` and docs/monitoring.md."""

    window_s: _Positive = 3_600.0
    min_requests: _Count = 10
    error_rate_from: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.01
    error_rate_full: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.2
    slowdown_from: Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)] = 1.5
    slowdown_full: Annotated[float, Field(gt=1, strict=True, allow_inf_nan=False)] = 3.0
    baseline_s: _Positive = 7 * 86_400.0
    min_baseline: _Count = 50
    max_latency_ms: _Positive | None = None
    hit_rate_from: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.2
    min_lookups: _Count = 50
    anomalies_s: _Positive = 86_400.0

    @model_validator(mode="after")
    def _in_order(self) -> HealthSettings:
        for name in ("error_rate", "slowdown"):
            if getattr(self, f"{name}_from") >= getattr(self, f"{name}_full"):
                raise ValueError(f"{name}_from must be less than {name}_full")
        return self


class MonitoringSettings(Section):
    """How the models are watched."""

    health: HealthSettings = HealthSettings()


class KeyLimitSettings(Section):
    """What a provider allows one key, over all models that are called with it."""

    api_key_env: _Variable
    rpm: _Count | None = None
    tpm: _Count | None = None
    concurrent: _Count | None = None


class LimitsSettings(Section):
    """What becomes of calls for which the models' `rpm`, `tpm` and `concurrent` leave no room."""

    on_limit: Literal["wait", "raise"] = "wait"
    max_wait_s: _Positive | None = None
    """Longest wait; None: as long as the call's deadline allows."""
    burst: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    """Share of a minute's allowance that may go at once."""
    keys: tuple[KeyLimitSettings, ...] = ()


class BudgetScopeSettings(Section):
    """Whose calls count: all that are stated must hold. `*` gives every value its own budget."""

    model: _Name | None = None
    tag: _Name | None = None
    """`key=value`, or `key=*`."""
    session: _Name | None = None


class BudgetSettings(Section):
    """One entry of `budgets`."""

    name: _Name
    usd: Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False)]
    per: Literal["day", "month", "total"] = "month"
    scope: BudgetScopeSettings = BudgetScopeSettings()
    on_exceed: Literal["warn", "downgrade", "refuse"] = "refuse"
    warn_at: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.8
    time_zone: _Name = "UTC"


class BudgetPolicySettings(Section):
    """What becomes of calls of which a hard budget can't say whether they fit."""

    unpriced: Literal["refuse", "allow"] = "refuse"
    """The model's price is not known."""
    unreachable: Literal["refuse", "allow"] = "refuse"
    """The database can't be asked."""
    settle_wait_s: _NotNegative = 5.0
    """Longest wait for what other calls have reserved; 0 refuses at once."""


NO_REDIS_URL = (
    "sessions.store is redis, and no redis_url is known: set REDIS_URL, pass redis_url, or leave the "
    "sessions in PostgreSQL"
)


class SessionsSettings(Section):
    """Where `lab.session()` keeps conversations."""

    store: Literal["postgres", "redis"] = "postgres"
    ttl_seconds: _Positive | None = None
    """How long after its latest turn a session in Redis is kept; None: for ever."""


class LoggingSettings(Section):
    """What the log holds."""

    content: _Flag = True
    """Whether messages and answers are logged."""


class TelemetrySettings(Section):
    """What others are told."""

    opentelemetry: _Flag = False
    """Whether requests are given to OpenTelemetry's global providers as spans and metrics."""
    content: _Flag = False
    """Whether spans hold the conversation, as far as `logging.content` lets it through."""


class Settings(Section):
    """All of it."""

    models: tuple[ModelSettings, ...] = ()
    providers: dict[str, ProviderSettings] = {}
    load_balancing: LoadBalancingSettings = LoadBalancingSettings()
    cache: CacheSettings = CacheSettings()
    retries: RetrySettings = RetrySettings()
    fallbacks: _Fallbacks = {}
    """Who stands in for the candidates of calls that name no model."""
    hedging: HedgingSettings | None = None
    """None: no call is made twice, but those that ask for it."""
    shadows: tuple[ShadowSettings, ...] = ()
    logging: LoggingSettings = LoggingSettings()
    sessions: SessionsSettings = SessionsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    limits: LimitsSettings = LimitsSettings()
    budgets: tuple[BudgetSettings, ...] = ()
    budget_policy: BudgetPolicySettings = BudgetPolicySettings()
    timeout_s: _Positive | None = 600.0
    """Deadline of a whole call where the call does not say; None: no limit."""

    _environ: dict[str, str] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr("defaults")
    _home: str | None = PrivateAttr(None)
    _database_url: SecretStr | None = PrivateAttr(None)
    _redis_url: SecretStr | None = PrivateAttr(None)

    @property
    def source(self) -> str:
        """The file that this came from, or `config` for a mapping."""
        return self._source

    @property
    def home(self) -> str | None:
        """Where the embedded server, spool and state live, if that was said."""
        return self._home

    @property
    def database_url(self) -> SecretStr | None:
        """The PostgreSQL to log to; None: the embedded server."""
        return self._database_url

    @property
    def redis_url(self) -> SecretStr | None:
        return self._redis_url

    @property
    def chat_models(self) -> tuple[ModelSettings, ...]:
        return tuple(m for m in self.models if "embedding" not in m.capabilities)

    @property
    def embedding_models(self) -> tuple[ModelSettings, ...]:
        return tuple(m for m in self.models if "embedding" in m.capabilities)

    def model(self, model_id: str) -> ModelSettings:
        """Return a model's entry, by its id or by `provider/model_name`.

        Raises:
            UnknownModelError: with near matches.
        """
        for model in self.models:
            if model_id in (model.model_id, f"{model.provider}/{model.model_name}"):
                return model
        known = [m.model_id for m in self.models]
        raise UnknownModelError(
            f"no model {model_id!r} in {self.source}. {did_you_mean(model_id, known)}"
        )

    def api_key(self, names: tuple[str, ...]) -> SecretStr | None:
        """Return the first of these variables, of the environment or `.env`, that is set."""
        for name in names:
            value = self._environ.get(name, "").strip()
            if value:
                return SecretStr(value)
        return None

    def base_url(self, provider: str) -> str | None:
        """Return the address that the environment gives a provider, if it does.

        Raises:
            ConfigurationError: OLLAMA_HOST or AZURE_OPENAI_ENDPOINT is no address.
        """
        return provider_address(provider, self._environ)
