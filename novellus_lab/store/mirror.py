"""The configuration as the database knows it, with its history."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
from psycopg import sql

from novellus_lab.store.storable import storable_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger("novellus_lab")

_KNOWN = "SELECT {key}, config_hash FROM public.{table} WHERE valid_to IS NULL"
# Under the lock: one moment ends the old version and begins the new, later than all before it.
_MOMENT = "SELECT pg_advisory_xact_lock(%s), clock_timestamp()"
_CLOSE = """
UPDATE public.{table} SET valid_to = %(moment)s
WHERE {key} = %(key)s AND valid_to IS NULL AND config_hash <> %(config_hash)s
"""
# Where another process recorded the same meanwhile, its row stays.
_OPEN = "INSERT INTO public.{table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"


def sync_models(connection: psycopg.Connection, models: Sequence[Mapping[str, Any]]) -> None:
    """Record each model's configuration where it differs from the last recorded one.

    Models that this configuration lacks stay as they are: another process may use another YAML.

    Args:
        models: each with `model_id`, `provider`, `model_name`, and `config`: what to compare and to
            keep, which names the variable of a key and never holds one.
    """
    rows = [
        {
            "model_id": model["model_id"],
            "provider": model["provider"],
            "model_name": model["model_name"],
            **_content(model["config"]),
        }
        for model in models
    ]
    _sync(connection, "ai_models", "model_id", rows, lock=0x4D4F4445)


def sync_rules(connection: psycopg.Connection, rules: Sequence[Mapping[str, Any]]) -> None:
    """Record each routing rule where it differs from the last recorded one.

    Args:
        rules: in the order in which they are tried; each with `name` and `config`.
    """
    rows = [
        {
            "name": rule["name"],
            "position": position,
            **_content({**rule["config"], "position": position}),
        }
        for position, rule in enumerate(rules)
    ]
    _sync(connection, "load_balancing_rules", "name", rows, lock=0x52554C45)


def _sync(
    connection: psycopg.Connection,
    table: str,
    key: str,
    rows: Sequence[dict[str, Any]],
    *,
    lock: int,
) -> None:
    names = {"table": sql.Identifier(table), "key": sql.Identifier(key)}
    try:
        with connection.transaction():
            known: dict[str, str] = dict(
                connection.execute(sql.SQL(_KNOWN).format(**names)).fetchall()
            )
            changed = [row for row in rows if known.get(row[key]) != row["config_hash"]]
            if not changed:
                return  # nearly always: no lock, no writing
            found = connection.execute(_MOMENT, [lock]).fetchone()
            moment = found[1] if found else None
            for row in changed:
                columns = [*row, "valid_from"]
                version = {**row, "valid_from": moment, "moment": moment, "key": row[key]}
                connection.execute(sql.SQL(_CLOSE).format(**names), version)
                insert = sql.SQL(_OPEN).format(
                    columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                    values=sql.SQL(", ").join(map(sql.Placeholder, columns)),
                    **names,
                )
                connection.execute(insert, version)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        # An analyst may look at a database that he may not write.
        logger.warning(
            "the configuration is not recorded in %s: %s", table, str(error).splitlines()[0]
        )


def _content(config: Any) -> dict[str, str]:
    text = orjson.dumps(storable_json(config), option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    return {"config": text.decode(), "config_hash": digest}
