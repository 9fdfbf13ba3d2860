"""The log's buffer on disk: records are safe here the moment a call returns.

A segment is an append-only file: a header line of JSON, then lines of COPY text. Its owner holds an
exclusive `flock` on it for as long as it lives; a segment whose lock can be taken is an orphan, and
whoever takes it brings it home. Written data survives the end of the process, by `kill -9` too,
because it is in the kernel's page cache; it is not forced to disk record by record, so a power cut
may lose the last seconds.

While the disk takes nothing, a segment can be held in memory, byte for byte what its file would be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson

from novellus_lab.store.copy_text import ATTEMPT_COLUMNS, REQUEST_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SUFFIX = ".spool"
FORMAT = 1
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """What the lines of a segment hold: an older package's segment may hold less."""

    requests: tuple[str, ...]
    attempts: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Segment:
    """A segment that this process owns: a file that it holds the lock of, or memory."""

    path: Path
    id: UUID
    start: int
    """Offset of the first record, behind the header."""
    columns: Columns
    size: int
    """Bytes up to the end of the last whole record; of an orphan, all bytes."""
    fd: int | None
    memory: bytearray = field(default_factory=bytearray)
    """The segment itself, while there is no file."""

    def append(self, data: bytes) -> None:
        """Write whole records. Raises OSError, having written none of them."""
        if self.fd is None:
            self.memory += data
            self.size = len(self.memory)
            return
        try:
            written = os.write(self.fd, data)
            while written < len(data):
                written += os.write(self.fd, data[written:])
            self.size += len(data)
        except BaseException:
            # A full disk takes a part; an interrupt may come between the writing and the counting.
            if os.fstat(self.fd).st_size == self.size + len(data):
                self.size += len(data)
            else:
                os.ftruncate(self.fd, self.size)
            raise

    def read(self, offset: int, most: int) -> bytes:
        """Return whole lines from `offset`, about `most` bytes, but at least one if there is one."""
        while True:
            most = min(most, self.size - offset)
            data = self._bytes(offset, most)
            end = data.rfind(b"\n")
            if end >= 0:
                return data[: end + 1]
            if offset + most >= self.size:
                return b""  # nothing, or a line that was torn
            most *= 4

    def was_removed(self) -> bool:
        """Whether somebody removed the file: what is in it would end with this process."""
        return self.fd is not None and os.fstat(self.fd).st_nlink == 0

    def save(self) -> None:
        """Give it a file at its place, with the same bytes. Raises OSError, having changed nothing."""
        pieces = (
            self._bytes(at, min(_PIECE_BYTES, self.size - at))
            for at in range(0, self.size, _PIECE_BYTES)
        )
        fd = _locked_file(self.path, pieces)
        self.close()
        self.fd, self.memory = fd, bytearray()

    def close(self) -> None:
        """Leave it to whoever takes its lock next."""
        fd, self.fd = self.fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def remove(self) -> None:
        if self.fd is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.close()

    def _bytes(self, offset: int, most: int) -> bytes:
        if self.fd is None:
            return bytes(self.memory[offset : offset + most])
        return os.pread(self.fd, most, offset)


def create_segment(directory: Path) -> Segment:
    """Make a segment of our own. Raises OSError."""
    segment = hold_segment(directory)
    segment.save()
    return segment


def hold_segment(directory: Path) -> Segment:
    """Make a segment in memory, which `save` can bring to its place in the directory."""
    segment_id = uuid4()
    header = orjson.dumps(
        {
            "segment": str(segment_id),
            "format": FORMAT,
            "requests": REQUEST_COLUMNS,
            "attempts": ATTEMPT_COLUMNS,
        }
    )
    start = len(header) + 1
    return Segment(
        directory / f"{segment_id}{SUFFIX}",
        segment_id,
        start,
        Columns(REQUEST_COLUMNS, ATTEMPT_COLUMNS),
        start,
        None,
        bytearray(header + b"\n"),
    )


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
            length,
            Columns(tuple(fields["requests"]), tuple(fields["attempts"])),
            status.st_size,
            fd,
        )


def _locked_file(path: Path, pieces: Iterable[bytes]) -> int:
    """Make a file that we hold the lock of. It gets its name only once it is locked and whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unnamed = path.with_name(f".new-{path.stem}")
    fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for piece in pieces:
            while piece:
                piece = piece[os.write(fd, piece) :]
        unnamed.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unnamed.unlink()
        os.close(fd)
        raise
    return fd


def _header(fd: int) -> tuple[int, dict[str, Any]] | None:
    line, sep, _ = os.pread(fd, 1 << 16, 0).partition(b"\n")
    try:
        fields = orjson.loads(line)
        known = sep and fields["format"] == FORMAT and UUID(fields["segment"])
        return (len(line) + 1, fields) if known else None
    except (ValueError, KeyError, TypeError):
        return None
