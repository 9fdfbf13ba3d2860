"""Importing the package loads nothing heavy; each check runs in a Python of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = {
    "adbc_driver_manager",
    "anthropic",
    "duckdb",
    "genai_prices",
    "google.genai",
    "ipywidgets",
    "IPython",
    "litellm",
    "markdown_it",
    "ollama",
    "openai",
    "pandas",
    "plotly",
    "polars",
    "pyarrow",
    "pygments",
    "rich",
}

PROGRAM = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads, and their packages."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    return {".".join(name.split(".")[:depth]) for name in modules for depth in (1, 2)}


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("import novellus_lab", "novellus_lab"),
        ("from novellus_lab import Lab", "novellus_lab.lab"),
        (
            "from novellus_lab import AIModelManager, ai_complete, ai_embed",
            "novellus_lab.integration",
        ),
        (
            "from novellus_lab.providers.registry import known_providers; known_providers()",
            "novellus_lab.providers",
        ),
    ],
)
def test_importing_loads_no_sdk_and_no_analysis(statement: str, needs: str) -> None:
    if find_spec(needs) is None:
        pytest.skip(f"{needs} is not written yet")
    assert loaded_by(statement) & HEAVY == set()


def test_importing_the_package_loads_next_to_nothing_of_it() -> None:
    ours = {name for name in loaded_by("import novellus_lab") if name.startswith("novellus_lab.")}
    assert ours == set()


@pytest.mark.parametrize("name", ["openai", "azure", "anthropic", "ollama", "google", "replay"])
def test_loading_a_provider_loads_no_sdk(name: str) -> None:
    loaded = loaded_by(
        f"from novellus_lab.providers.registry import load_provider_class; load_provider_class({name!r})"
    )
    assert loaded & HEAVY == set()


def test_importing_the_lab_loads_no_driver_and_no_schema() -> None:
    """They come with the first `Lab()`."""
    assert loaded_by("from novellus_lab import Lab") & {"psycopg", "pydantic", "yaml"} == set()
