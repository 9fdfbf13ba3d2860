"""The configuration as the database knows it, with its history."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.store.storable import storable_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

# Two processes that start together must not both close an old version and open a new one.
_LOCK = "SELECT pg_advisory_xact_lock(%s)"

_MODELS = "SELECT model_id, config_hash FROM ai_models WHERE valid_to IS NULL"
_CLOSE_MODEL = """
UPDATE ai_models SET valid_to = now()
WHERE model_id = %s AND valid_to IS NULL AND config_hash <> %s
"""
_OPEN_MODEL = """
INSERT INTO ai_models (model_id, provider, model_name, config, config_hash)
SELECT %s, %s, %s, %s::jsonb, %s
WHERE NOT EXISTS (SELECT FROM ai_models WHERE model_id = %s AND valid_to IS NULL)
"""
_RULES = "SELECT name, config_hash FROM load_balancing_rules WHERE valid_to IS NULL"
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

    Args:
        models: each with `model_id`, `provider`, `model_name`, and `config`: what to compare and to
            keep, which names the variable of a key and never holds one.
    """
    found = {model["model_id"]: (model, *_content(model["config"])) for model in models}
    with connection.transaction():
        known: dict[str, str] = dict(connection.execute(_MODELS).fetchall())
        changed = [name for name, (_, _, digest) in found.items() if known.get(name) != digest]
        if not changed:
            return  # nearly always: no lock, no writing
        connection.execute(_LOCK, [0x4D4F4445])
        for name in changed:
            model, config, digest = found[name]
            connection.execute(_CLOSE_MODEL, [name, digest])
            connection.execute(
                _OPEN_MODEL, [name, model["provider"], model["model_name"], config, digest, name]
            )


def sync_rules(connection: psycopg.Connection, rules: Sequence[Mapping[str, Any]]) -> None:
    """Record each routing rule where it differs from the last recorded one.

    Args:
        rules: in the order in which they are tried; each with `name` and `config`.
    """
    found = {
        rule["name"]: (position, *_content({**rule["config"], "position": position}))
        for position, rule in enumerate(rules)
    }
    with connection.transaction():
        known: dict[str, str] = dict(connection.execute(_RULES).fetchall())
        changed = [name for name, (_, _, digest) in found.items() if known.get(name) != digest]
        if not changed:
            return
        connection.execute(_LOCK, [0x52554C45])
        for name in changed:
            position, config, digest = found[name]
            connection.execute(_CLOSE_RULE, [name, digest])
            connection.execute(_OPEN_RULE, [name, position, config, digest, name])


def _content(config: Any) -> tuple[str, str]:
    text = orjson.dumps(storable_json(config), option=orjson.OPT_SORT_KEYS, default=str)
    return text.decode(), hashlib.blake2b(text, digest_size=16).hexdigest()
