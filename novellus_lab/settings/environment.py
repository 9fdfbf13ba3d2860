"""What the environment and `.env` say: keys, addresses, databases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from novellus_lab.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OLLAMA_PORT = 11434

_LINE = re.compile(
    r"""^\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*
    (?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<plain>.*?))
    \s*(?:(?<=\s)\#.*|(?<=['"])\#.*)?$""",
    re.VERBOSE | re.ASCII,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_LOGIN = re.compile(r"(?<=//)[^/@\s]*@(?=[^@]*$)|(?<=//)[^/@\s]*@")
_PASSWORD_WORD = re.compile(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")


def without_password(text: str) -> str:
    """Return a URL or a libpq string with its login masked, fit for a message."""
    if "//" not in text and "@" in text:  # a URL whose scheme was forgotten
        return f"***@{text.rpartition('@')[2]}"
    return _PASSWORD_WORD.sub(r"\1***", _LOGIN.sub("***@", text))


def read_dotenv(path: Path | None) -> dict[str, str]:
    """Read `NAME=value` lines, if the file is there.

    `export`, single and double quotes, escapes within double ones, and comments are understood;
    variables are not expanded; other lines are passed over.

    Raises:
        ConfigurationError: the file is there and can't be read.
    """
    if path is None:
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None
    found = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        single, double, plain = match.group("single", "double", "plain")
        if single is not None:
            value = single
        elif double is not None:
            value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), double)
        else:
            value = "" if plain.startswith("#") else plain
        found[match["name"]] = value
    return found


def find_database_url(given: str | None, variables: Mapping[str, str]) -> str | None:
    """Return where PostgreSQL is, or None for the embedded server.

    In order: what was given, DATABASE_URL, POSTGRES_HOST or POSTGRES_DB with their siblings. A lone
    POSTGRES_USER or POSTGRES_PASSWORD, which many shells and containers set, names no server.

    Raises:
        ConfigurationError: it is no PostgreSQL URL; the message holds no password.
    """
    for name, value in (("database_url", given), ("DATABASE_URL", variables.get("DATABASE_URL"))):
        if value and value.strip():
            return _checked_database_url(name, value.strip())
    host, database = variables.get("POSTGRES_HOST"), variables.get("POSTGRES_DB")
    if not (host or database):
        return None
    user = quote(variables.get("POSTGRES_USER") or "postgres", safe="")
    password = variables.get("POSTGRES_PASSWORD")
    login = user if not password else f"{user}:{quote(password, safe='')}"
    host = host or "localhost"
    host = f"[{host}]" if host.count(":") > 1 else quote(host, safe="")
    port = variables.get("POSTGRES_PORT") or "5432"
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ConfigurationError(f"POSTGRES_PORT must be a number from 1 to 65535, not {port!r}")
    return f"postgresql://{login}@{host}:{port}/{quote(database or 'novellus', safe='')}"


def _checked_database_url(name: str, value: str) -> str:
    scheme, sep, rest = value.partition("://")
    if not sep and "=" in value:
        return value  # libpq's own form: host=… dbname=…
    scheme = scheme.partition("+")[0]  # SQLAlchemy's postgresql+psycopg
    if not sep or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"{name} must look like postgresql://user:password@host:5432/database, "
            f"not {without_password(value)!r}"
        )
    return f"postgresql://{rest}"


def find_redis_url(given: str | None, variables: Mapping[str, str]) -> str | None:
    """Return where Redis or Valkey is, if anywhere.

    Raises:
        ConfigurationError: it is no Redis URL; the message holds no password.
    """
    for name, value in (("redis_url", given), ("REDIS_URL", variables.get("REDIS_URL"))):
        if not (value and value.strip()):
            continue
        value = value.strip()
        scheme, sep, rest = value.partition("://")
        scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
        if not sep or scheme not in ("redis", "rediss", "unix"):
            raise ConfigurationError(
                f"{name} must look like redis://host:6379/0 (or rediss://, unix://), "
                f"not {without_password(value)!r}"
            )
        return f"{scheme}://{rest}"
    return None


def provider_address(provider: str, variables: Mapping[str, str]) -> str | None:
    """Return the address that the environment gives a provider, if it does.

    OLLAMA_HOST is read as Ollama reads it: scheme and port may be left out, and the address that a
    server listens on everywhere (0.0.0.0) is called on this machine.

    Raises:
        ConfigurationError: it is no address.
    """
    name = {"ollama": "OLLAMA_HOST", "azure": "AZURE_OPENAI_ENDPOINT"}.get(provider)
    value = variables.get(name, "").strip().strip("'\"") if name else ""
    if not value:
        return None
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or (parts.scheme or "http") not in ("http", "https"):
        raise ConfigurationError(
            f"{name} must be an address such as "
            f"{'127.0.0.1:11434' if provider == 'ollama' else 'https://name.openai.azure.com'}, "
            f"not {without_password(value)!r}"
        )
    if provider != "ollama":
        return value if parts.scheme else f"https://{value}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  called, not bound
    port = port or {"http": 80, "https": 443}.get(parts.scheme, OLLAMA_PORT)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme or 'http'}://{host}:{port}{parts.path.rstrip('/')}"
