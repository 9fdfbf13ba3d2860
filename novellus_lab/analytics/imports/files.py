"""From files to rows: CSV, TSV, JSON, JSON lines and Parquet, plain or gzipped, never whole in memory."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from novellus_lab.analytics.imports.json_elements import (
    DECODER,
    BrokenJsonError,
    json_elements,
)
from novellus_lab.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
_LONGEST_CELL = 1 << 27
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row, or why it is none."""

    file: Path
    line: int
    values: dict[str, Any]
    beside: dict[str, Any]
    """What its file says about all rows of a list."""
    error: str | None = None
    ends_file: bool = False
    """Nothing more can be read after this."""


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant: those named, and those of known kinds in directories.

    Raises:
        InvalidRequestError: one is not there, or a directory holds none.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.is_file() and not p.name.startswith((".", "_")) and _suffix(p) in _KINDS
            )
            if not inside:
                raise InvalidRequestError(
                    f"{path} holds no file to import: CSV, TSV, JSON, JSONL or Parquet"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InvalidRequestError(f"there is no file {path}")
    return list(dict.fromkeys(found))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, in order.

    Raises:
        InvalidRequestError: it can't be opened.
        MissingDependencyError: it is Parquet, and Arrow is not installed.
    """
    try:
        with path.open("rb") as raw:
            kind = _kind(path, raw)
            if kind == "parquet":
                yield from _parquet_rows(path)
                return
            with _opened(raw) as file:
                yield from {"csv": _csv_rows, "jsonl": _line_rows, "json": _json_rows}[kind](
                    path, file
                )
    except (OSError, EOFError) as error:
        raise InvalidRequestError(f"{path} can't be read: {error}") from None


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _kind(path: Path, raw: IO[bytes]) -> str:
    if known := _KINDS.get(_suffix(path)):
        return known
    with _opened(raw, keep=True) as file:
        start = file.read(64).lstrip(" \t\r\n\ufeff")
    raw.seek(0)
    if start.startswith("PAR1"):
        return "parquet"
    return "json" if start[:1] in ("{", "[") else "csv"


@contextlib.contextmanager
def _opened(raw: IO[bytes], *, keep: bool = False) -> Iterator[IO[str]]:
    """Read bytes as text; what is no UTF-8 comes as halves of characters, which the log replaces."""
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    source: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
    text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield text
    finally:
        if keep:
            text.detach()


def _csv_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    first = file.readline()
    delimiter = max(",\t;", key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    [header] = csv.reader([first], delimiter=delimiter) if first.strip() else [[]]
    header = [name.strip() for name in header]
    reader = csv.reader(file, delimiter=delimiter)
    while True:
        line = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(path, line, {}, {}, f"no CSV: {error}", ends_file=True)
            return
        if not cells:
            continue
        if len(cells) != len(header):
            reason = f"{len(cells)} cells, where the header has {len(header)}"
            yield Row(path, line, {}, {}, reason)
        else:
            yield Row(path, line, dict(zip(header, cells, strict=True)), {})


def _line_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            yield Row(path, number, {}, {}, f"no JSON: {reason}")
            continue
        yield _row(path, number, value, {})


def _json_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    try:
        for line, value, beside in json_elements(file):
            yield _row(path, line, value, beside)
    except BrokenJsonError as error:
        yield Row(path, error.line, {}, {}, str(error), ends_file=True)


def _row(path: Path, line: int, value: Any, beside: dict[str, Any]) -> Row:
    if isinstance(value, dict):
        return Row(path, line, value, beside)
    return Row(path, line, {}, beside, f"expected an object, not {value!r:.40}")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            f"reading Parquet needs {error.name}: pip install 'novellus_lab[analytics]'"
        ) from None
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for values in batch.to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    yield Row(path, number, values, {})
    except pa.ArrowException as error:
        yield Row(path, number + 1, {}, {}, f"no Parquet: {error}", ends_file=True)
