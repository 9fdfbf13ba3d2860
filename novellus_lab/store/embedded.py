"""A private PostgreSQL with pgvector, shared by the processes of this machine that use one home.

The programs come in a wheel; the supervision is ours. A server belongs to a home directory. It
listens on a Unix socket in a directory of mode 700 and nowhere else. Each process that uses it
holds a shared `flock` on the lease file; `store.keeper` waits for the exclusive one, and stops the
server when it gets it.

Why `flock` is right here: the kernel drops it however a process ends. It belongs to the open file,
not to the process: two labs in one process hold two; a forked child holds its parent's with it, so
that the server stays until both are gone, and closing a copy takes nothing from the other. The file
descriptor closes on exec: what a user starts keeps no server alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

from novellus_lab.errors import HomeNotWritableError, StoreUnavailableError
from novellus_lab.store import keeper
from novellus_lab.store.programs import ROOT_STATE, Programs, bare_environment, find_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("novellus_lab")

DATABASE = "novellus"
_START_TIMEOUT_S = 60
_ORPHANS_TIMEOUT_S = 15
_SETTLE_TIMEOUT_S = 90
_MAX_LOG_BYTES = 10 << 20
# 108 bytes on Linux and 104 on macOS, with the socket's own name. The server splits the path at
# commas and a shell reads it, so an unusual one is avoided, too.
_PLAIN_SOCKETS = re.compile(r"[\w./+@-]{1,85}", re.ASCII)

# Durability stays at PostgreSQL's defaults (fsync and synchronous_commit on): rows leave the spool
# once they are committed, and this is a log of money. The writer commits in batches, so that an
# fsync costs a batch, not a call. Nothing replicates from here: wal_level minimal. The statements
# of failed COPYs hold prompts, and content logging may be off: no statement in the server's log.
_CONFIGURATION = """\
# Written by novellus_lab at each start; postgresql.conf, after its `include` of this file, wins.
listen_addresses = ''
max_connections = 100
shared_buffers = 128MB
wal_level = minimal
max_wal_senders = 0
max_wal_size = 2GB
checkpoint_timeout = 15min
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_min_error_statement = panic
log_error_verbosity = terse
"""


@dataclass(slots=True, eq=False)
class EmbeddedServer:
    """A running server, and our lease on it."""

    conninfo: str
    data: Path
    sockets: Path
    programs: Programs = field(repr=False)
    lease: int | None = field(repr=False)
    """File descriptor that holds the shared lock; None once we have left."""

    @property
    def state(self) -> Path:
        """Where the data, the lease and the locks lie: the home, or root's place for it."""
        return self.data.parent

    def leave(self) -> None:
        """Give the lease back; the last to do so stops the server. Idempotent.

        Closing is enough. After fork it is also right: an explicit unlock would take the lease from
        the other process.
        """
        lease, self.lease = self.lease, None
        if lease is not None:
            with contextlib.suppress(OSError):
                os.close(lease)

    def revive(self) -> bool:
        """Start the server again if it does not answer; return whether it had to.

        Raises:
            StoreUnavailableError: it does not start.
        """
        if self.lease is None:
            return False
        with _explained(self.state), _locked(self.state / "pg.start"):
            return _bring_up(self, self.lease)


def start_embedded(home: Path) -> EmbeddedServer:
    """Start the home's server, or join it if it runs.

    Raises:
        HomeNotWritableError: the home can't be written.
        StoreUnavailableError: the server does not start; the message ends with its log.
    """
    with _explained(home):
        home = home.resolve()
        programs = find_programs(home)
        state = _state_directory(home, programs)
        with _locked(state / "pg.start"):
            sockets = _socket_directory(state, programs)
            conninfo = make_conninfo(
                host=str(sockets),
                port=5432,  # else $PGPORT would lead elsewhere
                user="postgres",
                dbname=DATABASE,
                application_name="novellus_lab",
            )
            lease = _open(state / "pg.lease")
            try:
                _take(lease, fcntl.LOCK_SH, state)
                server = EmbeddedServer(conninfo, state / "pg", sockets, programs, lease)
                _bring_up(server, lease)
            except BaseException:
                os.close(lease)
                raise
    return server


@contextlib.contextmanager
def _explained(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeNotWritableError(
            f"the embedded PostgreSQL can't use {error.filename or home} "
            f"({error.strerror or error}): give Lab(home=…) or $NOVELLUS_HOME a directory on a local "
            f"disk that can be written and has some 100 MB left"
        ) from None
    except psycopg.Error as error:
        raise StoreUnavailableError(
            f"the embedded PostgreSQL in {home} can't be set up: {str(error).strip()}"
        ) from None


# --- files of the home -------------------------------------------------------------------------


def _open(path: Path) -> int:
    """Open a lock file. One that root makes belongs to the home's owner, or it would shut him out."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _take(fd: int, how: int, state: Path) -> None:
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise HomeNotWritableError(
            f"the file system of {state} knows no file locks ({error.strerror}): give Lab(home=…) or "
            f"$NOVELLUS_HOME a directory on a local disk"
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = _open(path)
    try:
        _take(fd, fcntl.LOCK_EX, path.parent)
        try:
            yield
        finally:
            # Explicitly: another thread may have forked meanwhile, and the child has a copy.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _state_directory(home: Path, programs: Programs) -> Path:
    """Return where the data goes: the home, unless the server's user can't get there.

    That is so when root uses a directory that is root's alone. Modes of directories stay as they
    are; the data goes to `/var/lib`, and a note in the home says where. The locks go with it, so
    that a copied home shares the server, and never starts a second one on the same data.
    """
    note = home / "pg.location"
    if programs.user is None:
        return home
    with _locked(home / "pg.choose"):
        if note.exists():
            place = Path(note.read_text(encoding="utf-8").strip())
            if place.is_dir():
                return place
            logger.warning("%s, where the data of %s was, is gone: starting anew", place, home)
        elif programs.user.reaches(home / "pg"):
            return home
        elif (home / "pg").exists():
            raise StoreUnavailableError(
                f"the server's user ({programs.user.uid}) can't get to its data in {home / 'pg'} any "
                f"more: let others enter the directories above it (chmod o+x), or move it away"
            )
        ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{home.name.strip('.')}-", dir=ROOT_STATE))
        place.chmod(0o755)
        (place / "home").write_text(f"{home}\n", encoding="utf-8")
        fresh = note.with_suffix(".new")
        fresh.write_text(f"{place}\n", encoding="utf-8")
        fresh.replace(note)
        return place


def _socket_directory(state: Path, programs: Programs) -> Path:
    """Return a private directory whose path every process finds alike, whatever its TMPDIR."""
    sockets = state / "pg.socket"
    if not _PLAIN_SOCKETS.fullmatch(str(sockets)):
        owner = state.stat().st_uid
        shared = Path("/tmp") / f"novellus-{owner}"  # noqa: S108  (its owner is checked)
        with contextlib.suppress(FileExistsError):
            # 711: a server that runs as another user must get through.
            shared.mkdir(mode=0o700 if programs.user is None else 0o711)
            if os.geteuid() == 0:
                os.chown(shared, owner, -1)
        found = shared.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
            raise StoreUnavailableError(
                f"{shared} is not ours alone: remove it, or use a home with a shorter path"
            )
        sockets = shared / hashlib.blake2b(str(state).encode(), digest_size=6).hexdigest()
    sockets.mkdir(mode=0o700, exist_ok=True)
    sockets.chmod(0o700)
    if programs.user is not None:
        os.chown(sockets, programs.user.uid, programs.user.gid)
    return sockets


# --- the server --------------------------------------------------------------------------------


def _bring_up(server: EmbeddedServer, lease: int) -> bool:
    """Have the server answer, and a keeper watch; return whether it had to be started.

    The caller holds the start lock and a lease.
    """
    if _knock(server.conninfo) is None:
        _ensure_keeper(server)
        return False
    _refuse_other_machine(server, lease)
    # Before the start: whatever happens to us from here on, the server will be stopped.
    _ensure_keeper(server)
    if not (server.data / "PG_VERSION").exists():
        _initialise(server)
    admin = make_conninfo(server.conninfo, dbname="postgres")
    if not (_postmaster(server.data) and _settles(admin)):
        _start(server, admin)
    with psycopg.connect(admin, autocommit=True) as connection:
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
    return True


def _knock(conninfo: str) -> str | None:
    """Return None if the server takes us in, else what it said, or what libpq says."""
    try:
        psycopg.connect(conninfo, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        said = str(error)
        if "too many clients" in said or "connection slots" in said:
            raise StoreUnavailableError(
                "the embedded PostgreSQL has all its 100 connections in use: close some labs"
            ) from None
        return said
    return None


def _settles(admin: str) -> bool:
    """Wait while the server starts up, recovers or shuts down; return whether it takes us in."""
    until = time.monotonic() + _SETTLE_TIMEOUT_S
    while (said := _knock(admin)) is not None:
        busy = any(word in said for word in ("starting up", "shutting down", "not yet accept"))
        if not busy or time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _refuse_other_machine(server: EmbeddedServer, lease: int) -> None:
    """Start no second server on a home that a network file system shares with another machine.

    File locks reach across such a file system; sockets and process ids don't, so that PostgreSQL's
    own check would not see the other server, and both would write the same files.
    """
    here = socket.gethostname().encode()
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        alone = False
    else:
        alone = True
        os.ftruncate(lease, 0)
        os.pwrite(lease, here, 0)
    fcntl.flock(lease, fcntl.LOCK_SH)
    there = os.pread(lease, 256, 0)
    if not alone and there != here:
        raise StoreUnavailableError(
            f"{server.data} is in use by a server on the machine {there.decode(errors='replace')}: "
            f"give each machine a home of its own, or share a server by Lab(database_url=…)"
        )


def _initialise(server: EmbeddedServer) -> None:
    """Make the data directory beside its place and move it there whole: a crash leaves no half."""
    for left_over in server.state.glob(".pg-init-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=".pg-init-", dir=server.state))
    user = server.programs.user
    try:
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
        done = server.programs.run(
            "initdb",
            "--auth=trust",  # whoever can open the socket's directory
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            data=fresh,
            timeout_s=300,
        )
        if done.returncode != 0:
            raise StoreUnavailableError(
                f"the embedded PostgreSQL can't be set up in {server.state}:\n"
                f"{_last_lines(done.stdout)}"
            )
        settings = fresh / "postgresql.conf"
        ours = "include_if_exists = 'novellus_lab.conf'\n\n"
        settings.write_text(ours + settings.read_text(encoding="utf-8"), encoding="utf-8")
        fresh.rename(server.data)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _start(server: EmbeddedServer, admin: str) -> None:
    log = server.data / "server.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    configuration = server.data / "novellus_lab.conf"
    configuration.write_text(_CONFIGURATION, encoding="utf-8")
    configuration.chmod(0o644)  # the data directory around it is the server's user's alone
    if _postmaster(server.data):
        # It runs and does not answer: its socket was removed. Who is connected comes again.
        server.programs.run(
            "pg_ctl", "stop", "-w", "-m", "fast", data=server.data, timeout_s=_SETTLE_TIMEOUT_S
        )
    until = time.monotonic() + _ORPHANS_TIMEOUT_S
    while True:
        before = log.stat().st_size if log.exists() else 0
        done = server.programs.run(
            "pg_ctl",
            "start",
            "-w",
            f"-t{_START_TIMEOUT_S}",
            "-lserver.log",
            f"-o-k '{server.sockets}'",
            data=server.data,
            timeout_s=_START_TIMEOUT_S + 30,
        )
        if done.returncode == 0 or _settles(admin):
            return
        said = done.stdout
        if log.exists():
            with log.open(errors="replace") as lines:
                lines.seek(before)
                said = lines.read()
        # Processes of a killed server finish the statement they are at before they leave.
        if "shared memory block" not in said or time.monotonic() > until:
            break
        time.sleep(0.2)
    raise StoreUnavailableError(
        f"the embedded PostgreSQL in {server.data} does not start; its log ends:\n"
        f"{_last_lines(said)}"
    )


def _last_lines(text: str, most: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-most:])


def _postmaster(data: Path) -> int | None:
    """Return the server's process id if it lives.

    Otherwise remove its lock files: after a reboot, or in a new container, their number may be
    another process of ours, and where nobody buries the dead, a killed server still has its own.
    PostgreSQL would take either for a server.
    """
    path = data / "postmaster.pid"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        pid, sockets = int(lines[0]), lines[4]
    except (OSError, ValueError, IndexError):
        return None  # none, or one that has only begun to start
    if "postgres" in (command := _command_line(pid)) and sockets in command:
        return pid
    path.unlink(missing_ok=True)
    (Path(sockets) / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    return None


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            return ""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout


def _ensure_keeper(server: EmbeddedServer) -> None:
    """Have a keeper at its post. Asking the lock first spares a process in the usual case."""
    path = server.state / "pg.keeper"
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    user = server.programs.user
    # By its path and isolated (-I), so that nothing of the caller's directory or PYTHONPATH gets in.
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            keeper.__file__,
            path,
            server.state / "pg.lease",
            server.programs.directory / "pg_ctl",
            server.data,
            "" if user is None else f"{user.uid}:{user.gid}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env=bare_environment(),
        check=False,
    )
    if done.returncode != 0:
        logger.warning(
            "the embedded PostgreSQL in %s has no keeper (%s exited with %d): it will not stop by "
            "itself",
            server.state,
            sys.executable,
            done.returncode,
        )
