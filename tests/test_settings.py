"""The configuration: found, read, checked; mistakes named so that they can be mended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from novellus_lab.errors import ConfigurationError, NovellusError, UnknownModelError
from novellus_lab.providers.registry import known_providers
from novellus_lab.settings import ModelSettings, Settings, load_settings

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "config" / "ai_models.yaml"

MODELS = """
models:
  - provider: openai
    model_name: gpt-4o
    input_token_cost: 0.005
    output_token_cost: 0.015
  - provider: anthropic
    model_name: claude-3-opus
"""


def load(config: Any = None, environ: dict[str, str] | None = None, **more: Any) -> Settings:
    return load_settings(config, environ=environ or {}, **{"dotenv": None, **more})


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Load a text as the configuration file `models.yaml`."""

    def from_text(text: str | bytes, **more: Any) -> Settings:
        path = tmp_path / "models.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, **more)

    return from_text


@pytest.fixture
def complaint(read: Any) -> Any:
    """Load a text and return what is said against it."""

    def from_text(text: str | bytes, **more: Any) -> str:
        with pytest.raises(ConfigurationError) as caught:
            read(text, **more)
        return str(caught.value)

    return from_text


# --- what the seed's documentation shows -------------------------------------------------------


def test_the_documented_example_reads_as_written(read: Any) -> None:
    settings = read(
        """
models:
  - provider: openai
    model_name: gpt-4o
    display_name: GPT-4o
    max_tokens: 4096
    temperature: 0.7
    input_token_cost: 0.005
    output_token_cost: 0.015
    priority: 100
    capabilities:
      - chat
      - completion
      - function_calling
  - {provider: anthropic, model_name: claude-3-opus}
load_balancing:
  rules:
    - name: high_priority_routing
      strategy: weighted
      model_pool:
        - gpt-4o
        - claude-3-opus
      conditions:
        priority: high
        max_latency_ms: 5000
cache:
  enabled: true
  ttl_seconds: 3600
  semantic_cache:
    enabled: true
    similarity_threshold: 0.85
"""
    )
    model = settings.model("gpt-4o")
    assert (model.provider, model.max_tokens, model.temperature) == ("openai", 4096, 0.7)
    assert model.priority == 100
    assert model.capabilities == ("chat", "completion", "function_calling")
    (rule,) = settings.load_balancing.rules
    assert rule.model_pool == ("gpt-4o", "claude-3-opus")
    assert (rule.conditions.priority, rule.conditions.max_latency_ms) == ("high", 5000)
    assert settings.cache.semantic_cache.enabled
    assert settings.cache.semantic_cache.similarity_threshold == 0.85
    assert (settings.load_balancing.default_strategy, settings.timeout_s) == ("weighted", 600)


# --- prices --------------------------------------------------------------------------------------


@given(
    digits=st.integers(0, 10**24), places=st.integers(0, 24), exponent=st.sampled_from(["", "e-3"])
)
def test_a_price_is_the_decimal_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, digits: int, places: int, exponent: str
) -> None:
    written = f"{Decimal(digits).scaleb(-places):f}{exponent}"
    path = tmp_path_factory.mktemp("prices") / "models.yaml"
    path.write_text(f"models: [{{provider: p, model_name: m, input_token_cost: {written}}}]")
    assert load(path).models[0].input_token_cost == Decimal(written)


def test_prices_come_dated_first_and_unstated_ones_stay_unknown(read: Any) -> None:
    model = read(
        """
models:
  - provider: openai
    model_name: gpt-4o
    input_token_cost: 0.005
    cached_input_token_cost: 0
    prices:
      - {input_token_cost: 0.01, effective_until: 2025-01-01}
      - {input_token_cost: 0.02, effective_from: 2025-01-01T00:00:00+02:00}
"""
    ).models[0]
    first, second, undated = model.configured_prices
    assert (first.input_token_cost, first.output_token_cost) == (Decimal("0.01"), None)
    assert first.effective_until is not None
    assert first.effective_until.tzinfo is not None
    assert second.effective_from.isoformat() == "2025-01-01T00:00:00+02:00"
    assert undated.input_token_cost == Decimal("0.005")
    assert undated.cached_input_token_cost == 0
    assert undated.output_token_cost is None


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("temperature: 2.5", "models[1].temperature must be less than or equal to 2, not 2.5"),
        ("temperature: -0.1", "models[1].temperature must be greater than or equal to 0, not -0.1"),
        ("temperature: warm", "models[1].temperature must be a valid number, not 'warm'"),
        ("max_tokens: 0", "models[1].max_tokens must be greater than or equal to 1, not 0"),
        ("max_tokens: yes", "models[1].max_tokens must be a valid integer, not True"),
        ("max_tokens: 1.5", "models[1].max_tokens must be a valid integer"),
        (
            "input_token_cost: -0.01",
            "models[1].input_token_cost must be greater than or equal to 0",
        ),
        ("input_token_cost: free", "models[1].input_token_cost must be a number of US dollars"),
        ("input_token_cost: .nan", "models[1].input_token_cost must be"),
        ("input_token_cost: .inf", "models[1].input_token_cost must be"),
        ("weight: .inf", "models[1].weight must be"),
        ("modle_name: x", "models[1].modle_name is no known key. Did you mean 'model_name'"),
        ("capabilities: [chat, vison]", "'vison' is no capability. Did you mean 'vision'"),
        (
            "on_unsupported: ignore",
            "models[1].on_unsupported must be 'error' or 'drop', not 'ignore'",
        ),
        ("base_url: localhost:8000", "models[1].base_url must be an address such as https://"),
        ("base_url: 'http://['", "models[1].base_url must be an address such as https://"),
        ("enabled: maybe", "models[1].enabled must be a valid boolean, not 'maybe'"),
        ("params: [1]", "models[1].params must be a valid dictionary"),
        ("prices: [{effective_from: soon}]", "models[1].prices[0].effective_from must be a date"),
        ("prices: [{effective_from: 5}]", "models[1].prices[0].effective_from must be a date"),
        ("prices: [{input: 5}]", "models[1].prices[0].input is no known key. Did you mean 'input_"),
    ],
)
def test_a_bad_value_is_named_with_file_line_key_and_what_is_allowed(
    complaint: Any, line: str, said: str
) -> None:
    text = complaint(f"{MODELS}    {line}\n")
    assert said in text
    assert "models.yaml, line 9: " in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "cache: {ttl_seconds: -1}",
            "cache.ttl_seconds must be greater than or equal to 0, not -1",
        ),
        (
            "cache: {semantic_cache: {similarity_threshold: 85}}",
            "similarity_threshold must be less",
        ),
        ("cache: {semantic_cache: {treshold: 1}}", "cache.semantic_cache.treshold is no known key"),
        ("cache: [on]", "cache must be a valid dictionary"),
        ("retries: {max_attempts: 0}", "retries.max_attempts must be greater than or equal to 1"),
        ("timeout_s: 0", "timeout_s must be greater than 0, not 0"),
        ("logging: {contents: false}", "logging.contents is no known key. Did you mean 'content'?"),
        ("provider: {}", "provider is no known key. Did you mean 'providers'?"),
        ("providers: {openai: {max_conections: 3}}", "Did you mean 'max_connections'?"),
        (
            "load_balancing: {rules: [{strategy: weighted}]}",
            "load_balancing.rules[0].name is missing",
        ),
        (
            "load_balancing: {rules: [{name: r, conditions: {max_latency: 5}}]}",
            "load_balancing.rules[0].conditions.max_latency is no known key. Did you mean 'max_lat",
        ),
        ("12: 13", "12"),
    ],
)
def test_the_other_sections_are_checked_alike(complaint: Any, section: str, said: str) -> None:
    text = complaint(f"{MODELS}{section}\n")
    assert said in text
    assert "models.yaml, line 9: " in text


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(complaint: Any) -> None:
    text = complaint(
        "cache: {ttl: 5}\nmodels:\n  - {provider: openai, model_name: a, temperature: 7}\n"
        "  - {provider: openai}\n  - {provider: '', model_name: b}\nretries: 3\n"
    )
    assert [line.split(": ")[0].rpartition(" ")[2] for line in text.splitlines()] == list("13456")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("null", "is empty"),
        ("- provider: openai\n", "line 1: must hold keys such as 'models:' at the top, not a list"),
        ("just words", "not a text"),
        ("models:\n  - provider: [openai\n", "line 3, column 1: "),
        ("models:\n\t- a\n", "line 2, column 1: "),
        ("models: 'unclosed\n", "line "),
        ("models: *nobody\n", "line 1, column 9: "),
        ("models: !!python/object/apply:os.getcwd []\n", "line 1, column 9: "),
        ("models: !!timestamp soon\n", "line 1, column 9: this can't be read as timestamp"),
        ("models: !!int x\n", "line 1, column 9: this can't be read as int"),
        ("models:\n- 2026-02-30\n", "line 2, column 3: this can't be read as timestamp"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is here again, first on line 1"),
        ("models: []\nb\x00: 2\n", "line 2: a character that YAML does not allow"),
        (b"\xff\xfe\x00m", "is no text in UTF-8"),
        (b"models: []\nx: \xe9\n", "is no text in UTF-8 (byte 14)"),
        ("models: " + "[" * 5000, "line 1"),
        ("models: " + "[" * 500 + "]" * 500, "nested too deeply"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=False)
        ), "too large"),
        ("a: &a {b: *a}\n", "nested too deeply"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_the_place(
    complaint: Any, text: str | bytes, said: str
) -> None:
    assert said in complaint(text)
    assert "models.yaml" in complaint(text)


def test_a_key_that_stands_twice_does_not_win_silently(complaint: Any) -> None:
    text = complaint(f"{MODELS}    temperature: 0.5\n    temperature: 0.9\n")
    assert "line 10: 'temperature' is here again, first on line 9" in text


def test_merge_keys_share_what_models_have_in_common(read: Any) -> None:
    settings = read(
        "models:\n"
        "  - &local {provider: openai, model_name: a, base_url: 'http://127.0.0.1:8000/v1', rpm: 5}\n"
        "  - {<<: *local, model_name: b, rpm: 6}\n"
    )
    assert [(m.model_name, m.base_url, m.rpm) for m in settings.models] == [
        ("a", "http://127.0.0.1:8000/v1", 5),
        ("b", "http://127.0.0.1:8000/v1", 6),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
@example("models: !!float x")
@example("? [a]\n: b")
@example("models: [!!binary '*']")
@example("!!set {a, b}")
@example("models: 2026-11-24 25:61:61")
@example("=")
@example("a: =")
def test_any_bytes_are_a_configuration_or_a_configuration_error(
    tmp_path: Path, junk: str | bytes
) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode(errors="surrogatepass"))
    with contextlib.suppress(ConfigurationError):
        assert isinstance(load(path), Settings)


_KEYS = [*ModelSettings.model_fields, *Settings.model_fields, "rules", "name", "semantic_cache"]
_VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["openai", "gpt-4o", "weighted", "https://h/v1", "chat"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=4), _VALUES, max_size=5))
def test_any_mapping_is_a_configuration_or_a_configuration_error(config: dict[str, Any]) -> None:
    try:
        assert isinstance(load(config), Settings)
    except ConfigurationError as error:
        assert str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(cut=st.integers(0, 4000), junk=st.text(max_size=3), drop=st.integers(0, 8))
def test_a_half_broken_file_is_never_a_crash(
    tmp_path: Path, cut: int, junk: str, drop: int
) -> None:
    text = SHIPPED.read_text()
    path = tmp_path / "half.yaml"
    broken = text[:cut] + junk + text[cut + drop : cut + 2000]
    path.write_bytes(broken.encode(errors="surrogatepass"))
    try:
        load(path)
    except ConfigurationError as error:
        assert "half.yaml" in str(error)


def test_a_mapping_that_holds_itself_is_refused() -> None:
    params: dict[str, Any] = {}
    params["inner"] = params
    with pytest.raises(ConfigurationError):
        load({"models": [{"provider": "openai", "model_name": "a", "params": params}]})


# --- ids and pools -------------------------------------------------------------------------------


def test_a_model_is_called_by_its_name_and_by_its_provider_where_two_share_it() -> None:
    settings = load(
        {
            "models": [
                {"provider": "openai", "model_name": "gpt-4o"},
                {"provider": "azure", "model_name": "gpt-4o"},
                {"provider": "openai", "model_name": "gpt-5"},
            ]
        }
    )
    assert [m.model_id for m in settings.models] == ["openai/gpt-4o", "azure/gpt-4o", "gpt-5"]
    assert settings.model("azure/gpt-4o").provider == "azure"
    assert settings.model("openai/gpt-5") is settings.model("gpt-5")
    with pytest.raises(UnknownModelError, match=r"Did you mean '.*gpt-4o'"):
        settings.model("gpt-4")


def test_recorded_models_always_carry_their_label() -> None:
    settings = load({"models": [{"provider": "replay", "model_name": "gpt-4-1106-preview"}]})
    assert settings.models[0].model_id == "replay/gpt-4-1106-preview"


def test_a_model_that_stands_twice_is_named(complaint: Any) -> None:
    text = complaint(f"{MODELS}  - {{provider: openai, model_name: gpt-4o}}\n")
    assert "line 9: models[2] repeats 'gpt-4o' of models[0]" in text


def test_pools_name_models_that_are_there(complaint: Any, read: Any) -> None:
    rule = "load_balancing:\n  rules:\n    - name: r\n      model_pool:\n        - {}\n"
    text = complaint(MODELS + rule.format("claude-3-opsu"))
    assert "line 13: load_balancing.rules[0].model_pool[0] names 'claude-3-opsu'" in text
    assert "Did you mean 'claude-3-opus'" in text
    two = f"{MODELS}  - {{provider: azure, model_name: gpt-4o}}\n"
    text = complaint(two + rule.format("gpt-4o"))
    assert "several providers offer: say 'azure/gpt-4o' or 'openai/gpt-4o'" in text
    assert read(two + rule.format("azure/gpt-4o")).load_balancing.rules[0].model_pool
    again = "    - name: r\n"
    assert "repeats 'r'" in complaint(MODELS + rule.format("gpt-4o") + again)


# --- secrets -------------------------------------------------------------------------------------

SECRET = "sk-Proj-abc123DEF"


@pytest.mark.parametrize(
    "line",
    [
        f"api_key: {SECRET}",
        f"api_key_env: {SECRET}",
        f"base_url: https://user:{SECRET}@host/v1",
        f"base_url: ftp://user:{SECRET}@host/v1",
        f"params: {{api_key: {SECRET}}}",
        f"params: {{extra_headers: {{Authorization: Bearer {SECRET}}}}}",
        f"params: {{headers: [{{x-api-key: {SECRET}}}]}}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(complaint: Any, line: str) -> None:
    text = complaint(f"{MODELS}    {line}\n")
    assert SECRET not in text
    assert "line 9" in text


@pytest.mark.parametrize(
    ("environ", "more"),
    [
        ({"DATABASE_URL": f"mysql://me:{SECRET}@host/db"}, {}),
        ({"REDIS_URL": f"http://:{SECRET}@host"}, {}),
        ({"REDIS_URL": f"host:6379?password={SECRET}"}, {}),
        ({}, {"database_url": f"sqlite://me:{SECRET}@host/db"}),
        ({}, {"redis_url": f"me:{SECRET}@host"}),
        ({}, {"database_url": f"me:{SECRET}@host/db"}),
    ],
)
def test_a_wrong_address_is_told_without_its_password(
    environ: dict[str, str], more: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"models": []}, environ, **more)
    text = str(caught.value)
    assert SECRET not in text
    assert "must look like" in text
    assert next(iter([*environ, *more])) in text


def test_secrets_are_in_no_repr_and_in_no_mirror() -> None:
    settings = load(
        {"models": [{"provider": "openai", "model_name": "a", "api_key_env": "MY_KEY"}]},
        {"MY_KEY": SECRET, "REDIS_URL": f"redis://:{SECRET}@host"},
        database_url=f"postgresql://u:{SECRET}@host/db",
    )
    key = settings.api_key(("MY_KEY",))
    assert key is not None
    assert key.get_secret_value() == SECRET
    shown = f"{settings!r}{settings}{key!r}{settings.database_url!r}{settings.redis_url}"
    shown += f"{settings.model_dump()}{settings.model_dump_json()}{settings.models[0].mirror()}"
    assert SECRET not in shown


# --- where the configuration comes from ----------------------------------------------------------


def test_the_search_order_is_argument_variable_here_package(tmp_path: Path) -> None:
    def file(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"models: [{{provider: openai, model_name: {name}}}]")
        return path

    packaged = load()
    assert len(packaged.models) > 10
    assert Path(packaged.source).name == "ai_models.yaml"
    (tmp_path / "config").mkdir()
    file("config/ai_models")  # the working directory is tmp_path, see conftest
    assert [m.model_name for m in load().models] == ["config/ai_models"]
    variable = {"NOVELLUS_CONFIG": str(file("variable"))}
    assert [m.model_name for m in load(environ=variable).models] == ["variable"]
    assert [m.model_name for m in load(file("argument"), variable).models] == ["argument"]
    assert [m.model_name for m in load(str(file("text")), variable).models] == ["text"]


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no configuration file .*missing\.yaml$"):
        load("missing.yaml")
    with pytest.raises(ConfigurationError, match=r"missing\.yaml \(named by NOVELLUS_CONFIG\)"):
        load(environ={"NOVELLUS_CONFIG": "missing.yaml"})
    with pytest.raises(ConfigurationError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(ConfigurationError, match="not YAML text"):
        load("models: []\ncache: {}")
    with pytest.raises(ConfigurationError, match="there is no"):
        load("x" * 5000)
    with pytest.raises(ConfigurationError, match="there is no"):
        load("a\0b")
    with pytest.raises(ConfigurationError, match="not a int"):
        load(7)


def test_a_configuration_without_models_has_those_of_the_package() -> None:
    settings = load({"cache": {"enabled": False}})
    assert not settings.cache.enabled
    assert [m.model_id for m in settings.models] == [m.model_id for m in load().models]
    assert load({"models": []}).models == ()


# --- environment ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"POSTGRES_USER": "me"}, None),
        ({"POSTGRES_USER": "me", "POSTGRES_PASSWORD": "pw"}, None),
        ({"POSTGRES_PORT": "5433"}, None),
        ({"DATABASE_URL": ""}, None),
        ({"POSTGRES_DB": "novellus"}, "postgresql://postgres@localhost:5432/novellus"),
        ({"POSTGRES_HOST": "db"}, "postgresql://postgres@db:5432/novellus"),
        (
            {
                "POSTGRES_USER": "a b",
                "POSTGRES_PASSWORD": "p@ss/w:rd",
                "POSTGRES_DB": "n",
                "POSTGRES_PORT": "1",
            },
            "postgresql://a%20b:p%40ss%2Fw%3Ard@localhost:1/n",
        ),
        ({"POSTGRES_HOST": "/var/run/pg"}, "postgresql://postgres@%2Fvar%2Frun%2Fpg:5432/novellus"),
        ({"POSTGRES_HOST": "::1"}, "postgresql://postgres@[::1]:5432/novellus"),
        ({"DATABASE_URL": "postgres://u:p@h/d", "POSTGRES_HOST": "x"}, "postgresql://u:p@h/d"),
        ({"DATABASE_URL": "postgresql+psycopg://h/d"}, "postgresql://h/d"),
        ({"DATABASE_URL": " host=h dbname=d "}, "host=h dbname=d"),
    ],
)
def test_where_the_database_is(environ: dict[str, str], url: str | None) -> None:
    found = load({"models": []}, environ).database_url
    assert (None if found is None else found.get_secret_value()) == url
    given = load({"models": []}, environ, database_url="postgresql://given/d").database_url
    assert given is not None
    assert given.get_secret_value() == "postgresql://given/d"


@pytest.mark.parametrize("port", ["x", "0", "65536", "٣", "5432 ", "9" * 5000])
def test_a_wrong_port_is_named(port: str) -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES_PORT must be a number"):
        load({"models": []}, {"POSTGRES_HOST": "h", "POSTGRES_PORT": port})


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://localhost:6379", "redis://localhost:6379"),
        ("valkey://h/1", "redis://h/1"),
        ("rediss://h", "rediss://h"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("  ", None),
    ],
)
def test_where_redis_is(url: str, found: str | None) -> None:
    secret = load({"models": []}, {"REDIS_URL": url}).redis_url
    assert (None if secret is None else secret.get_secret_value()) == found


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", None),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("box", "http://box:11434"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("[::]:5000", "http://[::1]:5000"),
        ("'box:1'", "http://box:1"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str, url: str | None) -> None:
    assert load({"models": []}, {"OLLAMA_HOST": value}).base_url("ollama") == url
    assert load({"models": []}, {"OLLAMA_HOST": value}).base_url("openai") is None


@pytest.mark.parametrize("value", ["box:port", "ftp://box", "http://[", "box:99999"])
def test_a_wrong_ollama_host_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError, match="OLLAMA_HOST must be an address"):
        load({"models": []}, {"OLLAMA_HOST": value}).base_url("ollama")


def test_azure_is_where_the_environment_says(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "AZURE_OPENAI_ENDPOINT=me.openai.azure.com\nAZURE_OPENAI_API_VERSION=2024-10-21"
    )
    settings = load({"models": []}, dotenv=dotenv)
    assert settings.base_url("azure") == "https://me.openai.azure.com"
    assert settings.providers["azure"].options == {"api_version": "2024-10-21"}
    stated = {"models": [], "providers": {"azure": {"options": {"api_version": "v1"}}}}
    assert load(stated, dotenv=dotenv).providers["azure"].options == {"api_version": "v1"}
    assert stated["providers"] == {"azure": {"options": {"api_version": "v1"}}}


def test_keys_are_taken_in_order_and_blank_ones_are_none() -> None:
    settings = load({"models": []}, {"CLAUDE_API_KEY": " ", "ANTHROPIC_API_KEY": " k \n"})
    key = settings.api_key(("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"))
    assert key is not None
    assert key.get_secret_value() == "k"
    assert settings.api_key(("OPENAI_API_KEY",)) is None


def test_dotenv_fills_in_and_overrides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_bytes(
        "\ufeffA=plain\n"
        "export B = 'single # quoted'  # comment\n"
        'C="two\\nlines \\"quoted\\" \\\\" # comment\n'
        "D=value # comment\n"
        "E=no#comment\n"
        "F=\n"
        "G=# comment\n"
        "# H=commented\n"
        "not a line\n"
        "A-B=1\n"
        "I=a=b\r\n"
        "DATABASE_URL=postgresql://dotenv/d\n"
        "OPENAI_API_KEY=dotenv\n".encode()
    )
    monkeypatch.setenv("OPENAI_API_KEY", "real")
    settings = load_settings({"models": []})
    values = {
        n: key and key.get_secret_value() for n in "ABCDEFGHI" if [key := settings.api_key((n,))]
    }
    assert values == {
        "A": "plain", "B": "single # quoted", "C": 'two\nlines "quoted" \\', "D": "value",
        "E": "no#comment", "F": None, "G": None, "H": None, "I": "a=b",
    }  # fmt: skip
    key = settings.api_key(("OPENAI_API_KEY",))
    assert key is not None
    assert key.get_secret_value() == "real"
    assert settings.database_url is not None
    import os

    assert "A" not in os.environ
    assert "DATABASE_URL" not in os.environ


@given(st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_dotenv_is_read(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "junk.env").write_bytes(junk)
    load({"models": []}, dotenv=tmp_path / "junk.env")


# --- the configuration that comes with the package -----------------------------------------------


def test_the_shipped_configuration_covers_the_five_providers_and_the_seed() -> None:
    settings = load(SHIPPED)
    offered = {m.provider for m in settings.models}
    assert offered == {"openai", "anthropic", "google", "azure", "ollama", "replay"}
    assert offered <= set(known_providers())
    for name in (
        "gpt-4o gpt-4-turbo gpt-3.5-turbo claude-3-opus claude-3-sonnet claude-3-haiku llama3.1 "
        "gemini-pro text-embedding-3-small text-embedding-3-large "
        "replay/gpt-4-1106-preview replay/mixtral-8x7b-instruct"
    ).split():
        settings.model(name)
    assert {m.provider for m in settings.embedding_models} == {"openai", "google", "ollama"}
    (rule,) = settings.load_balancing.rules
    assert rule.conditions.priority == "high"


def test_every_shipped_price_is_known() -> None:
    from datetime import UTC, datetime

    from novellus_lab.pricing import PriceBook
    from novellus_lab.types import Usage

    now, book = datetime(2026, 11, 24, tzinfo=UTC), PriceBook()
    unpriced = {
        model.model_id: price.reason
        for model in load(SHIPPED).models
        if (
            price := book.price(
                Usage(1000, 0 if "embedding" in model.capabilities else 1000),
                provider=model.provider,
                model=model.model_name,
                at=now,
                configured=model.configured_prices,
                base_model=model.base_model,
            )
        ).cost_usd
        is None
    }
    assert not unpriced


def test_the_example_of_a_dotenv_names_only_variables_that_are_read() -> None:
    names = {
        line.lstrip("# ").partition("=")[0]
        for line in (SHIPPED.parent / ".env.example").read_text().splitlines()
        if "=" in line and line.lstrip("# ").partition("=")[0].isupper()
    }
    from novellus_lab.providers.registry import load_provider_class

    read = {name for p in known_providers() for name in load_provider_class(p).api_key_envs}
    read |= {
        "OLLAMA_HOST", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_VERSION", "DATABASE_URL",
        "REDIS_URL", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_HOST",
        "POSTGRES_PORT", "NOVELLUS_CONFIG", "NOVELLUS_HOME",
    }  # fmt: skip
    assert names == read


def test_what_the_documentation_shows_is_what_is_read() -> None:
    """Every YAML example of docs/configuration.md loads; every key is described there."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        load(yaml.safe_load(block))
    for section in (Settings, *_sections(Settings)):
        for name in section.model_fields:
            assert f"`{name}`" in text, f"{section.__name__}.{name} is not described"


def _sections(section: Any) -> list[Any]:
    found: list[Any] = []
    for field in section.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(kind, "model_fields"):
                found += [kind, *_sections(kind)]
    return found


def test_settings_are_frozen_and_their_import_is_light() -> None:
    settings = load({"models": []})
    with pytest.raises(Exception, match="frozen"):
        settings.timeout_s = 5  # type: ignore[misc]
    assert issubclass(ConfigurationError, NovellusError)
    heavy = (
        "pandas plotly duckdb ipywidgets openai anthropic polars pydantic_settings numpy psycopg"
    )
    code = (
        "import sys, novellus_lab.settings; "
        f"print(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
