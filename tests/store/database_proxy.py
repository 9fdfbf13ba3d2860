"""A way to the database that can be cut: what stands between a lab and a server by URL."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from novellus_lab.store.database import Database


class DatabaseProxy:
    """Hands bytes to and fro between its own Unix socket and the server's."""

    def __init__(self, database: Database) -> None:
        parts = conninfo_to_dict(database.conninfo)
        self._server = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        # A path of a Unix socket has at most 108 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="pg-")
        self._path = Path(self._directory.name) / ".s.PGSQL.5432"
        self.conninfo = make_conninfo(database.conninfo, host=self._directory.name, port=5432)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._at_commit: Literal["forward", "lose answer", "lose commit", "hold"] = "forward"
        self.committing = threading.Event()
        """Set when a COMMIT came that was not simply handed on."""
        self.connections = 0

    def __enter__(self) -> DatabaseProxy:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._directory.cleanup()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            ending, self._sockets = self._sockets, []
        if listener is not None:
            self._path.unlink()
            _end(listener)
        for one in ending:
            _end(one)

    def mend(self) -> None:
        """Let new connections through."""
        self._at_commit = "forward"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def at_next_commit(self, what: Literal["lose answer", "lose commit", "hold"]) -> None:
        """Lose a COMMIT's answer, or the COMMIT itself, with the connection; or never answer."""
        self.committing.clear()
        self._at_commit = what

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._sockets += [client, server]
            silent = threading.Event()
            for work in (self._to_server, self._to_client):
                threading.Thread(target=work, args=(client, server, silent), daemon=True).start()

    def _to_server(
        self, client: socket.socket, server: socket.socket, silent: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if b"COMMIT" in data and self._at_commit != "forward":
                    what, self._at_commit = self._at_commit, "forward"
                    silent.set()
                    if what != "lose commit":
                        server.sendall(data)
                    if what == "lose answer":
                        server.shutdown(socket.SHUT_WR)  # the server answers, and ends
                        _drained(server)
                    self.committing.set()
                    if what != "hold":
                        break
                    continue
                server.sendall(data)
        _end(client)
        _end(server)

    def _to_client(
        self, client: socket.socket, server: socket.socket, silent: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if not silent.is_set():
                    client.sendall(data)
        if not silent.is_set():
            _end(client)


def _drained(server: socket.socket) -> None:
    """Return when the server has done what it was sent, and closed."""
    with contextlib.suppress(OSError):
        while server.recv(1 << 16):
            pass


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
