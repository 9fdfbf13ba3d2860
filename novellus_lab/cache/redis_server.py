"""Where Redis or Valkey is, and connections to it.

One server (or a proxy that looks like one), over TCP, TLS or a Unix socket, Redis 6.2 or newer or
any Valkey. Cluster and Sentinel addresses are not understood.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from novellus_lab.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

_OF_POOLS = ("max_connections", "timeout")
"""Options that a URL may hold and that a single connection does not know."""
_PIPELINE_BYTES = 1 << 20


class RedisServer:
    """A server's address, checked. `redis` is imported here; nothing is sent before `connect`.

    Args:
        url: redis://, rediss:// or unix://, with the options that `redis` knows.
        connect_timeout_s: as it says; an option `socket_connect_timeout` in the URL goes before.

    Raises:
        MissingDependencyError: `redis` is not installed.
        ConfigurationError: the URL can't be read. No message holds it: it may hold a password.
    """

    def __init__(self, url: str, *, connect_timeout_s: float = 2.0) -> None:
        try:
            from redis.asyncio.connection import Connection, parse_url
        except ImportError:
            raise MissingDependencyError(
                "redis_url is set but the Redis client is not installed: "
                "pip install 'novellus_lab[redis]'"
            ) from None
        try:
            options: dict[str, Any] = dict(parse_url(url))
            self._class: type[Any] = options.pop("connection_class", Connection)
            for name in _OF_POOLS:
                options.pop(name, None)
            options.setdefault("socket_connect_timeout", connect_timeout_s)
            # RESP2: it needs no handshake, so that proxies and older servers do as well.
            self._options = options | {
                "protocol": 2,
                "decode_responses": False,
                "socket_timeout": None,  # who waits says how long
            }
            self._class(**self._options)
        except (ValueError, TypeError, AttributeError) as error:
            option = "unexpected keyword argument" in str(error)
            reason = f"it has an option that is not known ({str(error).split()[-1]})"
            raise ConfigurationError(
                "redis_url can't be read: "
                + (reason if option else "it must look like redis://user:password@host:6379/0")
                + ". Signs such as / @ : ? in user or password must be written percent-encoded"
            ) from None
        except Exception as error:
            raise ConfigurationError(f"redis_url can't be used: {type(error).__name__}") from None
        self._secrets = _secrets(url, options)
        self.database = int(options.get("db", 0))
        self.where = str(
            options.get("path")
            or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{self.database}"
        )
        """For people: `host:port/database`, or a socket's path."""

    def __repr__(self) -> str:
        return f"RedisServer({self.where!r})"

    async def connect(self) -> RedisConnection:
        """Open a connection.

        Raises:
            redis.RedisError, OSError, TimeoutError
        """
        connection = self._class(**self._options)
        try:
            await connection.connect()
        except BaseException:
            await _end(connection)
            raise
        return RedisConnection(connection)

    def describe(self, error: BaseException) -> str:
        """Return what an error says, without any password."""
        text = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            text = "no answer in time"
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


class RedisConnection:
    """One connection; one caller at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def ask(self, *command: Any) -> Any:
        """Send a command and return its answer.

        Raises:
            redis.RedisError: the server said no, or the connection is lost.
            OSError
        """
        await self._connection.send_command(*command, check_health=False)
        return await self._connection.read_response()

    async def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands at once and return their answers, a refusal as a `redis.ResponseError`.

        Raises:
            redis.RedisError: the connection is lost; which of them were done is not known.
            OSError
        """
        from redis.exceptions import ConnectionError as ConnectionLostError
        from redis.exceptions import ResponseError

        answers: list[Any] = []
        start = 0
        while start < len(commands):
            # Neither side may wait to write while the other does: not too much before it is read.
            size, end = 0, start
            while end < len(commands) and (end == start or size < _PIPELINE_BYTES):
                size += sum(len(part) for part in commands[end] if isinstance(part, bytes)) + 64
                end += 1
            packed = self._connection.pack_commands(commands[start:end])
            await self._connection.send_packed_command(packed, check_health=False)
            for _ in range(end - start):
                try:
                    answers.append(await self._connection.read_response(disconnect_on_error=False))
                except ConnectionLostError:
                    raise
                except ResponseError as error:
                    answers.append(error)
            start = end
        return answers

    async def hear(self, timeout_s: float) -> Any:
        """Return the next thing that the server says by itself; None if it says nothing in time.

        Raises:
            redis.RedisError, OSError: the connection is lost.
        """
        return await self._connection.read_response(timeout=timeout_s)

    async def send(self, *command: Any) -> None:
        """Send a command whose answer `hear` will return."""
        await self._connection.send_command(*command, check_health=False)

    async def close(self) -> None:
        """Close it, without waiting for the server. Idempotent."""
        await _end(self._connection)


class RedisSession:
    """A connection that is opened when it is needed, and anew when it was lost while idle.

    A command may then be sent twice: it must be one that may. One caller at a time. After an error
    or a cancellation the connection is closed, as answers may still be under way.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._connection: RedisConnection | None = None

    async def open(self) -> None:
        """Connect, if it is not. Raises as `RedisServer.connect`."""
        if self._connection is None:
            self._connection = await self._server.connect()

    async def ask(self, *command: Any) -> Any:
        """As `RedisConnection.ask`."""
        return await self._do(lambda connection: connection.ask(*command))

    async def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """As `RedisConnection.ask_all`."""
        return await self._do(lambda connection: connection.ask_all(commands))

    async def close(self) -> None:
        """Close the connection if there is one. Idempotent; `ask` opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _do(self, work: Callable[[RedisConnection], Awaitable[T]]) -> T:
        from redis.exceptions import ConnectionError as ConnectionLostError

        try:
            if self._connection is not None:
                try:
                    return await work(self._connection)
                except (ConnectionLostError, OSError):
                    await self.close()  # a restart, or something between that tires of silence
            await self.open()
            assert self._connection is not None  # noqa: S101
            return await work(self._connection)
        except BaseException:
            await self.close()
            raise


async def _end(connection: Any) -> None:
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)


def _secrets(url: str, options: dict[str, Any]) -> tuple[str, ...]:
    given = {options.get("password"), urlsplit(url).password, options.get("ssl_password")}
    spelled = {form for text in given if text for form in (str(text), unquote(str(text)))}
    return tuple(sorted(spelled, key=len, reverse=True))
