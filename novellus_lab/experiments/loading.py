"""Workloads from wherever items stand: datasets, files, frames, lists."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from novellus_lab.errors import InvalidRequestError, MissingDependencyError
from novellus_lab.experiments.datasets import DATASETS, built_in
from novellus_lab.experiments.workload import Item, Workload
from novellus_lab.store.storable import storable_text
from novellus_lab.types import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from novellus_lab.types import Message

_PROMPTS = ("prompt", "question", "input")
_ANSWERS = ("expected", "answer", "reference", "target")
_GROUPS = ("group", "session_id", "cluster")
_READERS = (".jsonl", ".jsonl.gz", ".ndjson", ".csv", ".csv.gz", ".parquet")


def workload_of(given: Any, *, name: str | None = None) -> Workload:
    """Return the workload that is meant.

    Args:
        given: a `Workload`; the name of a dataset of this package (`"gsm8k"`); a path to JSONL, CSV
            (both also gzipped) or Parquet; a Polars, pandas or Arrow table; or an iterable of
            prompts, message lists, dicts and `Item`s. Columns, or keys: `prompt` or `messages`;
            `expected`, `id` and `group` if they are known; `arguments` of the call; the rest is kept
            beside the item and never sent.

    Raises:
        InvalidRequestError: naming the item and what is wrong with it.
        MissingDependencyError: Parquet without Polars.
    """
    if isinstance(given, Workload):
        return given if name is None else Workload(name, given.items, given.source, given.licence)
    if isinstance(given, str) and given in DATASETS:
        return workload_of(built_in(given), name=name)
    if isinstance(given, (str, Path)):
        path = Path(given)
        rows = _read(path)
        return _workload(name or path.name.split(".")[0], rows, str(path))
    if hasattr(given, "to_dicts"):  # Polars
        return _workload(name or "frame", given.to_dicts(), "a frame")
    if hasattr(given, "to_pylist"):  # Arrow
        return _workload(name or "frame", given.to_pylist(), "a frame")
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas
        return _workload(name or "frame", given.to_dict("records"), "a frame")
    if isinstance(given, (bytes, Mapping)) or not isinstance(given, Iterable):
        raise InvalidRequestError(
            f"a workload is a list of prompts, message lists or dicts, a frame, a path, or one of "
            f"{', '.join(DATASETS)}; not a {type(given).__name__}"
        )
    return _workload(name or "list", given, "a list")


def _workload(name: str, rows: Iterable[Any], source: str) -> Workload:
    items = tuple(_item(row, number, name) for number, row in enumerate(rows))
    if not items:
        raise InvalidRequestError(f"the workload {name!r} is empty: there is nothing to ask")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InvalidRequestError(
                f"two items of the workload {name!r} have the id {item.id!r}: ids must differ, since "
                f"answers are paired by them"
            )
        seen.add(item.id)
    return Workload(name, items, source)


def _item(row: Any, number: int, name: str) -> Item:
    where = f"item {number} of the workload {name!r}"
    if isinstance(row, Item):
        return row
    if isinstance(row, str):
        row = {"prompt": row}
    elif isinstance(row, Sequence) and not isinstance(row, bytes):
        row = {"messages": row}
    elif not isinstance(row, Mapping):
        raise InvalidRequestError(
            f"{where} must be a prompt, a list of messages or a dict, not a {type(row).__name__}"
        )
    about = {str(key): value for key, value in row.items()}
    messages = _messages(about, where)
    expected = _first(about, _ANSWERS)
    group = _first(about, _GROUPS)
    arguments = about.pop("arguments", None) or EMPTY
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"{where}: arguments are no JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise InvalidRequestError(f"{where}: arguments must be a dict of lab.complete's arguments")
    id = about.pop("id", None)
    if id is None:  # the same item has the same id wherever it stands
        id = blake2b(orjson.dumps(messages, default=str), digest_size=8).hexdigest()
        id = f"{number}-{id}"
    return Item(
        storable_text(str(id)),
        messages,
        expected,
        None if group is None else str(group),
        arguments,
        about,
    )


def _messages(about: dict[str, Any], where: str) -> tuple[Message, ...]:
    given = about.pop("messages", None)
    if isinstance(given, str):
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"{where}: messages are no JSON: {error}") from None
    if given is not None:
        if not isinstance(given, Sequence) or not all(isinstance(m, Mapping) for m in given):
            raise InvalidRequestError(f"{where}: messages must be a list of dicts")
        return tuple(dict(message) for message in given)
    prompt = _first(about, _PROMPTS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidRequestError(
            f"{where} has no prompt: it needs one of {', '.join(_PROMPTS)}, or messages"
        )
    return ({"role": "user", "content": prompt},)


def _first(about: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if (value := about.get(name)) is not None:
            del about[name]
            return value
    return None


def _read(path: Path) -> Iterable[Any]:
    ending = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    if ending not in _READERS:
        raise InvalidRequestError(
            f"{str(path)!r} is neither a dataset ({', '.join(DATASETS)}) nor a file that can be read "
            f"({', '.join(_READERS)})"
        )
    if not path.is_file():
        raise InvalidRequestError(f"there is no file {path}")
    if ending == ".parquet":
        try:
            import polars as pl
        except ImportError:
            raise MissingDependencyError(
                "reading Parquet needs polars: pip install 'novellus_lab[analytics]'"
            ) from None
        return pl.read_parquet(path).to_dicts()
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if ".csv" in ending:
        return list(csv.DictReader(TextIOWrapper(BytesIO(raw), encoding="utf-8-sig", newline="")))
    return list(_json_lines(raw.splitlines(), path))


def _json_lines(lines: Iterable[bytes], path: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"{path}, line {number}: no JSON: {error}") from None
