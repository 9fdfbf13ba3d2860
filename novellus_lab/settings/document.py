"""A YAML file as plain data, with the line of every key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from novellus_lab.errors import ConfigurationError

try:
    from yaml import CSafeLoader as _Parser
except ImportError:  # a PyYAML that was built without libyaml: the same, slower
    from yaml import SafeLoader as _Parser  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

KeyPath = tuple[str | int, ...]
"""Where a value stands: ("models", 2, "temperature")."""

_MAX_NODES = 200_000
"""Aliases can make a short file endless."""


class WrittenFloat(float):
    """A float that remembers how it was written, for prices."""

    text: str


class _Loader(_Parser):
    """PyYAML's safe loader: prices keep their digits, and what can't be read is named by its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # PyYAML lets its converters' errors out (`!!int x`, `2026-02-30`)
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this can't be read as {kind}", node.start_mark
            ) from None
        if type(value) is float and isinstance(node, yaml.ScalarNode):
            written = WrittenFloat(value)
            written.text = node.value
            return written
        return value


# YAML 1.2 and every other program read 1e-6 as a number; PyYAML alone wants 1.0e-6.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return what a file holds, and the line of each key path.

    Raises:
        ConfigurationError: it can't be read, is no YAML, repeats a key, or holds no mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8 (byte {error.start})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return what a text holds, and the line of each key path; `source` names it in errors.

    Raises:
        ConfigurationError: as `read_yaml`.
    """
    lines: dict[KeyPath, int] = {}
    problems: list[str] = []
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _walk(node, (), lines, problems)
                data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{source}{where}: {error.problem or 'no valid YAML'}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(
            f"{source}, line {line}: a character that YAML does not allow ({error.reason})"
        ) from None
    except _TooLargeError:
        raise ConfigurationError(f"{source} is nested too deeply, or too large") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source} is no valid YAML ({type(error).__name__})") from None
    if problems:
        raise ConfigurationError("\n".join(f"{source}, {problem}" for problem in problems))
    if node is None or data is None:
        raise ConfigurationError(f"{source} is empty: it must hold at least a list of models")
    if not isinstance(data, dict):
        kind = {"list": "a list", "str": "a text"}.get(type(data).__name__, type(data).__name__)
        raise ConfigurationError(
            f"{source}, line {lines[()]}: must hold keys such as 'models:' at the top, not {kind}"
        )
    return data, lines


class _TooLargeError(Exception):
    pass


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], problems: list[str]) -> None:
    """Note where everything stands, and each key that stands twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > 40 or len(lines) > _MAX_NODES:
        raise _TooLargeError
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines, problems)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = key.value, key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":  # `<<: *defaults`: not a key of its own
                continue
            if name in seen:
                problems.append(f"line {line}: {name!r} is here again, first on line {seen[name]}")
            seen.setdefault(name, line)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, problems)
