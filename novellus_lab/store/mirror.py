"""The configuration as the database knows it, with its history."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

# Two processes that start together must not both close an old version and open a new one.
_LOCK = "SELECT pg_advisory_xact_lock(%s)"

_CLOSE_MODEL = """
UPDATE ai_models SET valid_to = now()
WHERE model_id = %s AND valid_to IS NULL AND config_hash <> %s
"""
_OPEN_MODEL = """
INSERT INTO ai_models (model_id, provider, model_name, config, config_hash)
SELECT %s, %s, %s, %s::jsonb, %s
WHERE NOT EXISTS (SELECT FROM ai_models WHERE model_id = %s AND valid_to IS NULL)
"""
_CLOSE_RULE = """
UPDATE load_balancing_rules SET valid_to = now()
WHERE name = %s AND valid_to IS NULL AND config_hash <> %s
"""
_OPEN_RULE = """
INSERT INTO load_balancing_rules (name, position, config, config_hash)
SELECT %s, %s, %s::jsonb, %s
WHERE NOT EXISTS (SELECT FROM load_balancing_rules WHERE name = %s AND valid_to IS NULL)
"""


def sync_models(connection: psycopg.Connection, models: Sequence[Mapping[str, Any]]) -> None:
    """Record each model's configuration where it differs from the last recorded one.

    Models that this configuration lacks stay as they are: another process may use another YAML.
    """
    with connection.transaction():
        connection.execute(_LOCK, [0x4D4F4445])
        for model in models:
            config, digest = _content(model["config"])
            model_id = model["model_id"]
            connection.execute(_CLOSE_MODEL, [model_id, digest])
            connection.execute(
                _OPEN_MODEL,
                [model_id, model["provider"], model["model_name"], config, digest, model_id],
            )


def sync_rules(connection: psycopg.Connection, rules: Sequence[Mapping[str, Any]]) -> None:
    """Record each routing rule where it differs from the last recorded one."""
    with connection.transaction():
        connection.execute(_LOCK, [0x52554C45])
        for position, rule in enumerate(rules):
            config, digest = _content({**rule["config"], "position": position})
            name = rule["name"]
            connection.execute(_CLOSE_RULE, [name, digest])
            connection.execute(_OPEN_RULE, [name, position, config, digest, name])


def _content(config: Any) -> tuple[str, str]:
    text = orjson.dumps(config, option=orjson.OPT_SORT_KEYS, default=str)
    return text.decode().replace("\\u0000", ""), hashlib.blake2b(text, digest_size=16).hexdigest()
