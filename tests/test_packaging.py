"""What installs the package agrees with what is installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from novellus_lab import __version__
from novellus_lab.providers.registry import GROUP, known_providers

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_conda_builds_the_same_as_pip(project: dict[str, Any]) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == project["name"]
    assert f"python{project['requires-python']}" in environment["dependencies"]
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert "pip" in environment["dependencies"]
    (extra,) = [re.fullmatch(r"-e \.\[(\w+)\]", line) for line in pip]
    assert extra is not None
    assert extra[1] in project["optional-dependencies"]


def test_every_extra_of_extras_exists(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            if match := re.fullmatch(r"novellus_lab\[(.*)\]", requirement):
                assert set(match[1].split(",")) <= set(extras), requirement


def test_every_extra_that_a_message_names_exists(project: dict[str, Any]) -> None:
    sources = (ROOT / "novellus_lab").glob("**/*.py")
    named = {
        match
        for source in sources
        for match in re.findall(r"novellus_lab\[(\w+)\]", source.read_text(encoding="utf-8"))
    }
    assert named <= set(project["optional-dependencies"])


def test_both_places_say_the_same_version(project: dict[str, Any]) -> None:
    assert project["version"] == __version__


def test_the_built_in_providers_are_entry_points(project: dict[str, Any]) -> None:
    declared = project["entry-points"][GROUP]
    registered = {point.name for point in entry_points(group=GROUP)}
    assert set(declared) <= set(known_providers()) <= set(declared) | registered


def test_the_licence_is_whole_and_named(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The novellus_lab authors" in text


def test_type_checkers_are_told_that_the_package_is_typed(project: dict[str, Any]) -> None:
    assert "Typing :: Typed" in project["classifiers"]
    assert (ROOT / "novellus_lab" / "py.typed").is_file()
