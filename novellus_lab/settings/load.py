"""Finding the configuration, reading it, and saying what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from novellus_lab.errors import ConfigurationError, did_you_mean
from novellus_lab.settings.document import read_yaml
from novellus_lab.settings.environment import (
    find_database_url,
    find_redis_url,
    read_dotenv,
    without_password,
)
from novellus_lab.settings.packaged import packaged_file
from novellus_lab.settings.schema import NO_REDIS_URL, Settings, names_a_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from novellus_lab.settings.document import KeyPath

_DEFAULT = Path("config/ai_models.yaml")


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
            `config/ai_models.yaml` here, else the file that comes with the package. One that says
            nothing of `models` has those of the package.
        database_url: default `$DATABASE_URL`, or `$POSTGRES_HOST` and its siblings; a lone
            `POSTGRES_USER` or `POSTGRES_PASSWORD` does not lead away from the embedded server.
        redis_url: default `$REDIS_URL`.
        home: default `$NOVELLUS_HOME`.
        environ: default `os.environ`; what `dotenv` adds never overrides it, and neither is changed.
        dotenv: a file of `NAME=value` lines, if it is there.

    Raises:
        ConfigurationError: naming file, line, key, value, and what is allowed; all mistakes at once.
    """
    variables = {**read_dotenv(dotenv), **(os.environ if environ is None else environ)}
    if isinstance(config, Mapping):
        document = _Document("config", dict(config), {})
    else:
        document = _read(_config_path(config, variables))
    if "models" not in document.data:
        document.data["models"] = _packaged_models(document)
    _add_azure_version(document.data, variables)
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, document)) from None
    except RecursionError:
        raise ConfigurationError(
            f"{document.source} holds itself, or is nested too deeply"
        ) from None
    _name_models(settings, document)
    settings._environ = variables
    settings._source = document.source
    settings._home = str(home) if home is not None else variables.get("NOVELLUS_HOME") or None
    settings._database_url = _secret(find_database_url(database_url, variables))
    settings._redis_url = _secret(find_redis_url(redis_url, variables))
    if settings.sessions.store == "redis" and settings.redis_url is None:
        raise ConfigurationError(f"{document.where(('sessions', 'store'))}: {NO_REDIS_URL}")
    if settings.sessions.store == "postgres" and settings.sessions.ttl_seconds is not None:
        where = document.where(("sessions", "ttl_seconds"))
        raise ConfigurationError(
            f"{where} holds for sessions in Redis only: say `store: redis` too"
        )
    return settings


class _Document:
    """What was read, and where from."""

    def __init__(self, source: str, data: dict[str, Any], lines: Mapping[KeyPath, int]) -> None:
        self.source = source
        self.data = data
        self._lines = lines

    def where(self, path: KeyPath) -> str:
        """Name the place of a key: `config/ai_models.yaml, line 12: models[2].temperature`."""
        line = self.line(path)
        return f"{self.source}{f', line {line}' if line else ''}: {_dotted(path)}"

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the nearest one above it."""
        for length in range(len(path), 0, -1):
            *above, last = path[:length]
            for key in ((*above, last), (*above, str(last))):  # a key may be written as a number
                if key in self._lines:
                    return self._lines[key]
        return None


def _read(path: Path) -> _Document:
    data, lines = read_yaml(path)
    return _Document(str(path), data, lines)


def _secret(value: str | None) -> SecretStr | None:
    return SecretStr(value) if value else None


def _config_path(config: str | Path | None, variables: Mapping[str, str]) -> Path:
    if config is not None and not isinstance(config, (str, Path)):
        raise ConfigurationError(
            f"config must be a file's path or a mapping, not a {type(config).__name__}"
        )
    named = config or variables.get("NOVELLUS_CONFIG")
    if named:
        if "\n" in str(named):
            raise ConfigurationError("config must be a file's path or a mapping, not YAML text")
        path = Path(named)
        blame = "" if config else " (named by NOVELLUS_CONFIG)"
        try:
            found, folder = path.is_file(), path.is_dir()
        except (OSError, ValueError):
            found = folder = False
        if folder:
            raise ConfigurationError(f"{path}{blame} is a folder: name the YAML file in it")
        if not found:
            raise ConfigurationError(f"there is no configuration file {path}{blame}")
        return path
    return _DEFAULT if _DEFAULT.is_file() else _packaged_path()


def _packaged_path() -> Path:
    path = packaged_file(_DEFAULT.name, _DEFAULT.parent.name)
    if path is None:
        raise ConfigurationError(
            "this installation lacks its ai_models.yaml: reinstall novellus_lab"
        )
    return path


def _packaged_models(document: _Document) -> Any:
    path = _packaged_path()
    if document.source == str(path):
        return []
    return _read(path).data.get("models", [])


def _add_azure_version(data: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Let `.env` state the API version too: the Azure adapter sees only the real environment."""
    version = variables.get("AZURE_OPENAI_API_VERSION") or variables.get("OPENAI_API_VERSION")
    providers = data.get("providers", {})
    if not version or not isinstance(providers, Mapping):
        return
    azure = providers.get("azure", {})
    if not isinstance(azure, Mapping):
        return
    options = azure.get("options", {})
    if isinstance(options, Mapping) and "api_version" not in options:
        azure = {**azure, "options": {**options, "api_version": version}}
        data["providers"] = {**providers, "azure": azure}


def _explain(error: ValidationError, document: _Document) -> str:
    problems = []
    details = error.errors(include_url=False, include_context=False)
    for detail in sorted(details, key=lambda d: document.line(d["loc"]) or 0):
        path: KeyPath = detail["loc"]
        if path and path[-1] == "[key]":
            path = path[:-1]
        where = document.where(path)
        if detail["type"] == "extra_forbidden":
            known = _fields_at(path[:-1])
            problems.append(f"{where} is no known key. {did_you_mean(str(path[-1]), known)}")
        elif detail["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            problems.append(f"{where} {_sentence(detail['msg'])}{_shown(path, detail['input'])}")
    return "\n".join(dict.fromkeys(problems))


def _sentence(message: str) -> str:
    """Turn pydantic's words into ours: what must be."""
    for theirs, ours in (
        ("Value error, ", ""),
        ("Input should be a valid ", "must be a valid "),
        ("Input should ", "must "),
    ):
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    return f"{message[:1].lower()}{message[1:]}"


def _shown(path: KeyPath, value: Any) -> str:
    """Quote the value, unless it may be a secret."""
    last = next((p for p in reversed(path) if isinstance(p, str)), "")
    if names_a_secret(last) or last.endswith("_env") or isinstance(value, (Mapping, list, tuple)):
        return ""
    written = getattr(value, "text", None)
    shown = written or repr(without_password(value) if isinstance(value, str) else value)
    return f", not {shown if len(shown) <= 100 else shown[:100] + '…'}"


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the top level"


def _fields_at(path: KeyPath) -> list[str]:
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


def _name_models(settings: Settings, document: _Document) -> None:
    """Give models their ids; check what only all of them together can show."""
    ids_of: dict[str, list[str]] = {}
    for model in settings.models:
        ids_of.setdefault(model.model_name, []).append(f"{model.provider}/{model.model_name}")
    seen: dict[str, int] = {}
    problems = []
    for index, model in enumerate(settings.models):
        full = f"{model.provider}/{model.model_name}"
        shared = len(set(ids_of[model.model_name])) > 1
        # Recorded answers are never mistaken for a live model's.
        model._model_id = full if shared or model.provider == "replay" else model.model_name
        if model.model_id in seen:
            where = document.where(("models", index))
            problems.append(f"{where} repeats {model.model_id!r} of models[{seen[model.model_id]}]")
        seen.setdefault(model.model_id, index)
    full_ids = {full for ids in ids_of.values() for full in ids}

    def check(path: KeyPath, names: Sequence[str]) -> None:
        """Whether each is the name of one model."""
        for position, name in enumerate(names):
            if name in seen or name in full_ids:
                continue
            where = document.where((*path, position))
            ids = ids_of.get(name)
            if ids is None:
                problems.append(
                    f"{where} names {name!r}, which is not among models. "
                    f"{did_you_mean(name, [*seen, *ids_of])}"
                )
            elif len(set(ids)) > 1:
                offers = " or ".join(repr(i) for i in sorted(set(ids)))
                problems.append(
                    f"{where} names {name!r}, which several providers offer: say {offers}"
                )

    for failure, names in settings.fallbacks.items():
        check(("fallbacks", failure), names)
    for index, model in enumerate(settings.models):
        for failure, names in model.fallbacks.items():
            check(("models", index, "fallbacks", failure), names)
    shadows: set[str] = set()
    for index, shadow in enumerate(settings.shadows):
        where = document.where(("shadows", index, "model"))
        if shadow.model in shadows:
            problems.append(f"{where} repeats {shadow.model!r}: give each model one entry")
        shadows.add(shadow.model)
        if shadow.model not in seen and shadow.model not in full_ids:
            problems.append(
                f"{where} names {shadow.model!r}, which is not one of models. "
                f"{did_you_mean(shadow.model, [*seen, *full_ids])}"
            )
    rule_names: set[str] = set()
    for index, rule in enumerate(settings.load_balancing.rules):
        path: KeyPath = ("load_balancing", "rules", index)
        if rule.name in rule_names:
            where = document.where((*path, "name"))
            problems.append(f"{where} repeats {rule.name!r}: each rule needs a name of its own")
        rule_names.add(rule.name)
        check((*path, "model_pool"), rule.model_pool)
        for failure, names in rule.fallbacks.items():
            check((*path, "fallbacks", failure), names)
    if problems:
        raise ConfigurationError("\n".join(problems))
