"""A provider from a package of somebody else's: the example of the documentation, as it stands."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest

from novellus_lab import Lab
from novellus_lab.errors import (
    ConfigurationError,
    ContentFilteredError,
    UnsupportedParameterError,
)
from novellus_lab.providers.openai import OpenAIProvider
from novellus_lab.providers.registry import GROUP, known_providers, load_provider_class

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
GREY = {"provider": "parrot", "model_name": "grey", "input_token_cost": 1, "output_token_cost": 2}


def example(language):
    """The last block of this language on the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[-1]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path: a module, and the metadata that an installer writes."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def add(distribution, module, code, points):
        (site / f"{module}.py").write_text(code)
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = "".join(f"{name} = {where}\n" for name, where in points.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        importlib.invalidate_caches()
        load_provider_class.cache_clear()
        monkeypatch.delitem(sys.modules, module, raising=False)

    yield add
    load_provider_class.cache_clear()
    for module in ("parrot_llm", "broken_llm"):
        sys.modules.pop(module, None)


@pytest.fixture
def parrot(install):
    project = tomllib.loads(example("toml"))["project"]
    install(project["name"], "parrot_llm", example("python"), project["entry-points"][GROUP])


@pytest.fixture
def lab(parrot, database, tmp_path):
    with Lab(
        config={"models": [GREY]}, database_url=database.conninfo, home=tmp_path / "home"
    ) as opened:
        yield opened


def test_it_answers_is_priced_and_is_logged(lab):
    reply = lab.complete("polly wants a cracker", max_tokens=3)
    assert (reply.content, reply.provider, reply.model) == ("POLLY WANTS A", "parrot", "grey")
    assert reply.cost == Decimal("0.009")
    lab.flush()
    (row,) = lab.requests("1h").to_dicts()
    assert (row["provider"], row["model"], row["status"]) == ("parrot", "grey", "ok")


def test_it_streams(lab):
    stream = lab.stream("polly wants a cracker")
    assert [str(chunk) for chunk in stream] == ["POLLY", " WANTS", " A", " CRACKER"]
    assert stream.completion.content == "POLLY WANTS A CRACKER"


def test_its_errors_are_those_of_any_provider(lab):
    with pytest.raises(ContentFilteredError, match="does not speak of cats"):
        lab.complete("a cat")
    with pytest.raises(UnsupportedParameterError, match="parrot model 'grey' can't honour seed"):
        lab.complete("polly", seed=4)


def test_what_it_can_not_do_may_be_dropped(parrot, database, tmp_path):
    models = [GREY | {"on_unsupported": "drop"}]
    with Lab(
        config={"models": models}, database_url=database.conninfo, home=tmp_path / "home"
    ) as lab:
        assert lab.complete("polly", seed=4).dropped_params == ("seed",)


def test_it_is_known_by_name(parrot):
    assert "parrot" in known_providers()
    with pytest.raises(ConfigurationError, match="Did you mean 'parrot'"):
        load_provider_class("parot")


@pytest.mark.parametrize(
    ("code", "where", "why"),
    [
        ("import a_package_that_is_not_there", "broken_llm:BrokenProvider", "ModuleNotFoundError"),
        ("1 / 0", "broken_llm:BrokenProvider", "ZeroDivisionError"),
        ("", "broken_llm:BrokenProvider", "AttributeError"),
        ("class BrokenProvider: pass", "broken_llm:BrokenProvider", "no subclass of"),
        ("BrokenProvider = 3", "broken_llm:BrokenProvider", "no subclass of"),
    ],
)
def test_one_that_is_broken_is_named_with_its_package(
    install, database, tmp_path, code, where, why
):
    install("broken-llm", "broken_llm", code, {"broken": where})
    model = {"provider": "broken", "model_name": "m"}
    with pytest.raises(ConfigurationError) as caught:
        Lab(config={"models": [model]}, database_url=database.conninfo, home=tmp_path / "home")
    for said in ("'broken' of broken-llm", where, why):
        assert said in str(caught.value)


def test_one_that_is_broken_disturbs_no_other(install, parrot):
    install("broken-llm", "broken_llm", "1 / 0", {"broken": "broken_llm:BrokenProvider"})
    assert load_provider_class("parrot").name == "parrot"


def test_none_takes_the_place_of_ours(install):
    install("broken-llm", "broken_llm", "1 / 0", {"openai": "broken_llm:BrokenProvider"})
    assert load_provider_class("openai") is OpenAIProvider
