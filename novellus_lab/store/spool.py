"""The log's buffer on disk: records are safe here the moment a call returns.

A segment is an append-only file: a header line of JSON, then lines of COPY text. Its owner holds an
exclusive `flock` on it for as long as it lives; a segment whose lock can be taken is an orphan, and
whoever takes it brings it home. Written data survives the end of the process, by `kill -9` too,
because it is in the kernel's page cache; it is not forced to disk record by record, so a power cut
may lose the last seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson

from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX = ".spool"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Columns:
    """What the lines of a segment hold: an older package's segment may hold less."""

    requests: tuple[str, ...]
    attempts: tuple[str, ...]


@dataclass(slots=True)
class Segment:
    """An open segment that this process holds the lock of."""

    path: Path
    id: UUID
    fd: int
    start: int
    """Offset of the first record, behind the header."""
    columns: Columns
    size: int
    """Bytes written, as far as this process knows."""

    def append(self, data: bytes) -> None:
        """Write whole records; raises OSError, having written all or some."""
        written = os.write(self.fd, data)
        self.size += written
        while written < len(data):
            data = data[written:]
            written = os.write(self.fd, data)
            self.size += written

    def read(self, offset: int, most: int) -> bytes:
        """Return whole lines from `offset`, about `most` bytes, but at least one if there is one."""
        while True:
            data = os.pread(self.fd, most, offset)
            end = data.rfind(b"\n")
            if end >= 0:
                return data[: end + 1]
            if len(data) < most:
                return b""  # nothing, or a line that was torn
            most *= 4

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.close()


def create_segment(directory: Path) -> Segment:
    """Make a segment of our own. It gets its name only once it is locked and has its header."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    segment_id = uuid4()
    header = orjson.dumps(
        {
            "segment": str(segment_id),
            "format": FORMAT,
            "requests": REQUEST_COLUMNS,
            "attempts": ATTEMPT_COLUMNS,
        }
    )
    unnamed = directory / f".new-{segment_id}"
    fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, header + b"\n")
        path = directory / f"{segment_id}{SUFFIX}"
        unnamed.rename(path)
    except BaseException:
        os.close(fd)
        raise
    size = len(header) + 1
    return Segment(path, segment_id, fd, size, Columns(REQUEST_COLUMNS, ATTEMPT_COLUMNS), size)


def orphans(directory: Path) -> Iterator[Segment]:
    """Yield the segments whose owner is gone, locked by us now; the caller removes or closes them.

    A file that is no segment of a known format is passed over and stays.
    """
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            header = _header(fd) if status.st_nlink else None
        except OSError:
            header = None
        if header is None:
            os.close(fd)
            continue
        length, fields = header
        yield Segment(
            path,
            UUID(fields["segment"]),
            fd,
            length,
            Columns(tuple(fields["requests"]), tuple(fields["attempts"])),
            status.st_size,
        )


def _header(fd: int) -> tuple[int, dict[str, Any]] | None:
    line, sep, _ = os.pread(fd, 1 << 16, 0).partition(b"\n")
    try:
        fields = orjson.loads(line)
        known = sep and fields["format"] == FORMAT and UUID(fields["segment"])
        return (len(line) + 1, fields) if known else None
    except (ValueError, KeyError, TypeError):
        return None
