"""Stops the embedded server when the last process that uses it has left, or crashed.

Every user holds a shared `flock` on the lease file. This small process waits for the exclusive one,
which the kernel grants when no user is left, however the last of them ended. `store.embedded` runs
this file as a script of its own: it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(keeper: str, lease: str, pg_ctl: str, data: str, user: str = "") -> None:
    """Become the keeper, unless there is one; return in the one who called, not in the keeper.

    Args:
        keeper: the file whose lock says that a keeper is at work.
        lease: the file that users hold.
        pg_ctl: the program that stops servers.
        data: the server's directory.
        user: `uid:gid` of whoever runs the server, if it is not us.
    """
    mine = os.open(keeper, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    # The lock belongs to the open file, so it stays with the child. The caller waits for this
    # process: when it goes on, the keeper is at its post, and it has no child to bury.
    if os.fork():
        return
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    held = os.open(lease, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    _stop(pg_ctl, data, user)
    # In this order: whoever takes the lease next must not find a keeper that is about to leave.
    os.close(mine)
    os.close(held)


def _stop(pg_ctl: str, data: str, user: str) -> None:
    pid_file = Path(data, "postmaster.pid")
    if not pid_file.exists():
        # The last user may have been killed while it was starting the server.
        time.sleep(1)
    uid, _, gid = user.partition(":")
    for mode in ("fast", "immediate"):
        if not pid_file.exists():
            return
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [pg_ctl, "stop", "-w", "-t", "30", "-m", mode],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PGDATA": data},
                cwd=data,
                user=int(uid) if uid else None,
                group=int(gid) if gid else None,
                extra_groups=[] if uid else None,
                timeout=60,
                check=False,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
