"""Labs over real servers: the shared PostgreSQL, and providers on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from novellus_lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK_RETRIES = {"max_attempts": 3, "base_delay_s": 0.001, "max_delay_s": 0.05}


def openai_model(name: str, url: str, **more: Any) -> dict[str, Any]:
    """An OpenAI-compatible model on a loopback server, priced at $1 and $2 per 1,000 tokens."""
    return {
        "provider": "openai",
        "model_name": name,
        "base_url": f"{url}/v1",
        "input_token_cost": 1,
        "output_token_cost": 2,
        **more,
    }


def embedding_model(name: str, url: str, **more: Any) -> dict[str, Any]:
    return openai_model(name, url, capabilities=["embedding"], **more)


@pytest.fixture
def make_lab(database: Any, tmp_path: Any) -> Iterator[Callable[..., Lab]]:
    """Open labs on a fresh database; all are closed at the end."""
    labs: list[Lab] = []

    def make(*models: dict[str, Any], **options: Any) -> Lab:
        lab_options = {
            name: options.pop(name)
            for name in ("redact", "seed", "home", "database_url", "strategies")
            if name in options
        }
        lab_options.setdefault("home", tmp_path / "home")
        lab_options.setdefault("database_url", database.conninfo)
        config = {"models": list(models), "retries": QUICK_RETRIES, **options}
        lab = Lab(config=config, **lab_options)
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def rows(database: Any) -> Callable[..., list[dict[str, Any]]]:
    """Read a table of the fresh database, oldest first."""

    def read(table: str = "ai_requests", order: str = "id") -> list[dict[str, Any]]:
        with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
            return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()

    return read
