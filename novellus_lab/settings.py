"""Configuration: the YAML, the environment and `.env`, checked and frozen.

Every mistake is named with its file, line, key, value and what is allowed, several at once.
Plain pydantic does this; pydantic-settings would add 80 ms to a lab's start and can't name lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)

from novellus_lab.errors import ConfigurationError, UnknownModelError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

PerThousand = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
"""US dollars per 1,000 tokens, as in the YAML."""

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


Path_ = tuple[str | int, ...]
"""Where a value stands in the YAML: ("models", 2, "temperature")."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _timestamp(value: datetime | date | None) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001  made aware below
    return value if value.tzinfo is not None else value.astimezone()


def _known_capabilities(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in CAPABILITIES:
            raise ValueError(f"{name!r} is none of {', '.join(CAPABILITIES)}")
    return names


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


class PriceSettings(_Section):
    """One dated price of a model."""

    input_token_cost: PerThousand | None = None
    output_token_cost: PerThousand | None = None
    cached_input_token_cost: PerThousand | None = None
    cache_write_token_cost: PerThousand | None = None
    reasoning_token_cost: PerThousand | None = None
    effective_from: Annotated[datetime | date | None, AfterValidator(_timestamp)] = None
    effective_until: Annotated[datetime | date | None, AfterValidator(_timestamp)] = None


class ModelSettings(_Section):
    """One entry of `models`."""

    provider: str = Field(min_length=1)
    model_name: str = Field(min_length=1)
    display_name: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer where the call does not say."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    input_token_cost: PerThousand | None = None
    output_token_cost: PerThousand | None = None
    cached_input_token_cost: PerThousand | None = None
    cache_write_token_cost: PerThousand | None = None
    reasoning_token_cost: PerThousand | None = None
    prices: tuple[PriceSettings, ...] = ()
    """Dated prices; the first whose dates hold is taken."""
    priority: int = 100
    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Share in the weighted lottery; None counts 1; 0 keeps a model out of automatic routing."""
    capabilities: Annotated[tuple[str, ...], AfterValidator(_known_capabilities)] = ("chat",)
    base_url: str | None = Field(default=None, pattern=r"^https?://")
    api_key_env: str | None = Field(default=None, min_length=1)
    base_model: str | None = None
    """What an Azure deployment, or a local server's alias, really is: prices go by it."""
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    context_window: int | None = Field(default=None, ge=1)
    params: dict[str, Any] = {}
    on_unsupported: Literal["error", "drop"] | None = None
    """What becomes of a parameter that the model can not honour; default as its provider, else error."""
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    enabled: bool = True

    _model_id: str = PrivateAttr("")

    @property
    def model_id(self) -> str:
        """`model_name`, or `provider/model_name` where two providers share a name."""
        return self._model_id or self.model_name

    @property
    def configured_prices(self) -> tuple[ConfiguredPrice, ...]:
        """What the YAML says of prices: dated ones first, then the undated."""
        dated = [ConfiguredPrice(**dict(price)) for price in self.prices]
        if self.input_token_cost is not None or self.output_token_cost is not None:
            dated.append(
                ConfiguredPrice(
                    self.input_token_cost,
                    self.output_token_cost,
                    self.cached_input_token_cost,
                    self.cache_write_token_cost,
                    self.reasoning_token_cost,
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


class ProviderSettings(_Section):
    """One entry of `providers`: what all models of a provider share."""

    base_url: str | None = Field(default=None, pattern=r"^https?://")
    api_key_env: str | None = Field(default=None, min_length=1)
    max_connections: int = Field(default=256, ge=1)
    on_unsupported: Literal["error", "drop"] | None = None
    options: dict[str, Any] = {}


class RuleSettings(_Section):
    """One entry of `load_balancing.rules`; the first whose conditions hold decides."""

    name: str = Field(min_length=1)
    strategy: str = "weighted"
    model_pool: tuple[str, ...] = ()
    conditions: dict[str, Any] = {}

    def mirror(self) -> dict[str, Any]:
        """The rule as `load_balancing_rules` keeps it."""
        return {"name": self.name, "config": self.model_dump(mode="json")}


class LoadBalancingSettings(_Section):
    default_strategy: str = "weighted"
    rules: tuple[RuleSettings, ...] = ()


class SemanticCacheSettings(_Section):
    enabled: bool = False
    similarity_threshold: float = Field(default=0.85, ge=0, le=1)


class CacheSettings(_Section):
    enabled: bool = True
    ttl_seconds: float | None = Field(default=3600, ge=0)
    """None keeps answers for ever."""
    max_entries: int = Field(default=10_000, ge=0)
    """Of this process's memory tier."""
    max_bytes: int = Field(default=256 * 2**20, ge=0)
    semantic_cache: SemanticCacheSettings = SemanticCacheSettings()


class RetrySettings(_Section):
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Calls of one model, the first included, before the next candidate's turn."""
    base_delay_s: float = Field(default=0.5, ge=0)
    max_delay_s: float = Field(default=20.0, ge=0)
    jitter: bool = True


class LoggingSettings(_Section):
    content: bool = True
    """Whether messages and answers are logged."""


class Settings(_Section):
    """All of it."""

    models: tuple[ModelSettings, ...] = ()
    providers: dict[str, ProviderSettings] = {}
    load_balancing: LoadBalancingSettings = LoadBalancingSettings()
    cache: CacheSettings = CacheSettings()
    retries: RetrySettings = RetrySettings()
    logging: LoggingSettings = LoggingSettings()
    timeout_s: float | None = Field(default=600.0, gt=0)
    """Deadline of a whole call where the call does not say; None: no limit."""

    _environ: dict[str, str] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr("defaults")
    _home: str | None = PrivateAttr(None)
    _database_url: SecretStr | None = PrivateAttr(None)
    _redis_url: SecretStr | None = PrivateAttr(None)

    @property
    def source(self) -> str:
        """The file that this came from."""
        return self._source

    @property
    def home(self) -> str | None:
        return self._home

    @property
    def database_url(self) -> SecretStr | None:
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
        """Return a model's entry.

        Raises:
            UnknownModelError: with near matches.
        """
        for model in self.models:
            if model_id in (model.model_id, f"{model.provider}/{model.model_name}"):
                return model
        known = [m.model_id for m in self.models]
        raise UnknownModelError(f"no model {model_id!r}. {did_you_mean(model_id, known)}")

    def api_key(self, names: tuple[str, ...]) -> SecretStr | None:
        """Return the first of these variables that is set."""
        for name in names:
            value = self._environ.get(name, "").strip()
            if value:
                return SecretStr(value)
        return None

    def base_url(self, provider: str) -> str | None:
        """Return the address that the environment gives a provider, if it does."""
        name = {"ollama": "OLLAMA_HOST", "azure": "AZURE_OPENAI_ENDPOINT"}.get(provider)
        value = self._environ.get(name, "").strip() if name else ""
        if not value:
            return None
        return value if "://" in value else f"http://{value}"


def load_settings(
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    home: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
) -> Settings:
    """Read the configuration.

    Args:
        config: a YAML file, or a mapping of the same shape. Without it: `$NOVELLUS_CONFIG`,
            `config/ai_models.yaml` here, else the file that comes with the package.
        database_url: default `$DATABASE_URL`, or `$POSTGRES_HOST` and its siblings; a lone
            `POSTGRES_USER` or `POSTGRES_PASSWORD` does not lead away from the embedded server.
        redis_url: default `$REDIS_URL`.
        home: default `$NOVELLUS_HOME`.
        environ: default `os.environ`; what `dotenv` adds never overrides it.
        dotenv: a file of `NAME=value` lines, if it is there.

    Raises:
        ConfigurationError: naming file, line, key, value, and what is allowed.
    """
    variables = {**_read_dotenv(dotenv), **(os.environ if environ is None else environ)}
    if isinstance(config, Mapping):
        source, data = "config", dict(config)
        lines: dict[Path_, int] = {}
    else:
        path = _config_path(config, variables)
        source = str(path)
        data, lines = _read_yaml(path)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, source, lines)) from None
    _name_models(settings, source, lines)
    settings._environ = variables
    settings._source = source
    settings._home = str(home) if home is not None else variables.get("NOVELLUS_HOME") or None
    settings._database_url = _secret(database_url or _database_url(variables))
    settings._redis_url = _secret(redis_url or variables.get("REDIS_URL"))
    return settings


def _secret(value: str | None) -> SecretStr | None:
    return SecretStr(value) if value else None


def _database_url(variables: Mapping[str, str]) -> str | None:
    if variables.get("DATABASE_URL"):
        return variables["DATABASE_URL"]
    if not (variables.get("POSTGRES_HOST") or variables.get("POSTGRES_DB")):
        return None
    user = quote(variables.get("POSTGRES_USER") or "postgres", safe="")
    password = variables.get("POSTGRES_PASSWORD")
    login = user if not password else f"{user}:{quote(password, safe='')}"
    host = variables.get("POSTGRES_HOST") or "localhost"
    port = variables.get("POSTGRES_PORT") or "5432"
    if not port.isdigit():
        raise ConfigurationError(f"POSTGRES_PORT must be a number, not {port!r}")
    name = quote(variables.get("POSTGRES_DB") or "novellus", safe="")
    return f"postgresql://{login}@{host}:{port}/{name}"


def _config_path(config: str | Path | None, variables: Mapping[str, str]) -> Path:
    named = config or variables.get("NOVELLUS_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigurationError(f"there is no configuration file {path}")
        return path
    here = Path("config/ai_models.yaml")
    if here.is_file():
        return here
    package = Path(__file__).parent
    for path in (package / "_data" / "ai_models.yaml", package.parent / here):
        if path.is_file():
            return path
    raise ConfigurationError("this installation lacks its ai_models.yaml: reinstall novellus_lab")


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Return the mapping in a file, and the line of each key path."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8 (byte {error.start})") from None
    lines: dict[Path_, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            for problem in _walk(node, (), lines):
                raise ConfigurationError(f"{path}, {problem}")
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{path}{where}: {error.problem or 'no valid YAML'}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no valid YAML: {error}") from None
    if data is None:
        raise ConfigurationError(f"{path} is empty: it must hold at least a list of models")
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"{path} must hold keys such as 'models:' at the top, not a {type(data).__name__}"
        )
    return data, lines


def _walk(node: yaml.Node, path: Path_, lines: dict[Path_, int], depth: int = 0) -> Iterator[str]:
    """Note where everything stands; yield a sentence for each duplicate key."""
    lines[path] = node.start_mark.line + 1
    if depth > 30:
        yield f"line {lines[path]}: nested too deeply"
        return
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), lines, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and isinstance(key, yaml.ScalarNode):
                yield f"line {line}: {name!r} stands here again, first on line {seen[name]}"
            seen[name] = line
            yield from _walk(value, (*path, name), lines, depth + 1)
            lines[(*path, name)] = line


def _explain(error: ValidationError, source: str, lines: Mapping[Path_, int]) -> str:
    problems = []
    for detail in error.errors(include_url=False, include_context=False):
        path: Path_ = detail["loc"]
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
        where = f"{source}{f', line {line}' if line else ''}: {_dotted(path)}"
        if detail["type"] == "extra_forbidden":
            known = _fields_at(path[:-1])
            problems.append(f"{where} is no known key. {did_you_mean(str(path[-1]), known)}")
        elif detail["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            shown = _shown(path, detail["input"])
            problems.append(f"{where}: {message[:1].lower()}{message[1:]}{shown}")
    return "\n".join(problems)


def _shown(path: Path_, value: Any) -> str:
    if any(word in str(path[-1:]).lower() for word in ("key", "password", "secret", "token'")):
        return ""
    if "url" in str(path[-1:]) and "@" in str(value):
        return ""
    return f" (it is {value!r:.100})"


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the top level"


def _fields_at(path: Path_) -> list[str]:
    """Return the field names allowed at a key path."""
    section: Any = Settings
    for part in path:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        annotation = field.annotation if field is not None else section
        inner = [a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")]
        section = inner[0] if inner else annotation
    return list(getattr(section, "model_fields", {}))


def _name_models(settings: Settings, source: str, lines: Mapping[Path_, int]) -> None:
    """Give models their ids; check what only all of them together can show."""
    providers_of: dict[str, set[str]] = {}
    for model in settings.models:
        providers_of.setdefault(model.model_name, set()).add(model.provider)
    seen: dict[str, int] = {}
    problems = []
    for index, model in enumerate(settings.models):
        shared = len(providers_of[model.model_name]) > 1 or model.provider == "replay"
        full = f"{model.provider}/{model.model_name}"
        model._model_id = full if shared else model.model_name
        line = lines.get(("models", index))
        where = f"{source}{f', line {line}' if line else ''}: models[{index}]"
        if model.model_id in seen:
            problems.append(f"{where} repeats {model.model_id!r} of models[{seen[model.model_id]}]")
        seen[model.model_id] = index
    known = list(seen) + [f"{m.provider}/{m.model_name}" for m in settings.models]
    for index, rule in enumerate(settings.load_balancing.rules):
        for name in rule.model_pool:
            if name not in known and name not in providers_of:
                path: Path_ = ("load_balancing", "rules", index, "model_pool")
                line = lines.get(path)
                problems.append(
                    f"{source}{f', line {line}' if line else ''}: {_dotted(path)} names {name!r}, "
                    f"which is not among models. {did_you_mean(name, list(seen))}"
                )
    if problems:
        raise ConfigurationError("\n".join(problems))


def _read_dotenv(path: Path | None) -> dict[str, str]:
    """Read `NAME=value` lines; quotes and `export` are understood, other lines are passed over."""
    if path is None or not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.strip().removeprefix("export ").strip()
        name, sep, value = text.partition("=")
        if not sep or text.startswith("#") or not name.strip().isidentifier():
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.split(" #")[0].rstrip()
        found[name.strip()] = value
    return found
