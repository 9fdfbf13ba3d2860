"""Stops the embedded server when the last process that uses it has left, or crashed.

Every user holds a shared `flock` on the lease file. This small process waits for the exclusive one,
which the kernel grants when no user is left, however the last of them ended. Run by
`store.embedded` as `python -m novellus_lab.store.keeper`; nobody else needs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(lease: str, keeper: str, pg_ctl: str, data: str, uid: str) -> None:
    """Wait for the lease, stop the server, leave."""
    mine = os.open(keeper, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another keeper is at work
    held = os.open(lease, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    if Path(data, "postmaster.pid").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [pg_ctl, "stop", "-w", "-t", "30", "-m", "fast", "-D", data],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
                user=int(uid) if uid else None,
                cwd="/",
            )
    # In this order: whoever takes the lease next must not find a keeper that is about to leave.
    os.close(mine)
    os.close(held)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main(*sys.argv[1:])
