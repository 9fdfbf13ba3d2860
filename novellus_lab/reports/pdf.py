"""A page as PDF, printed by Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from novellus_lab.errors import MissingDependencyError, NovellusError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_TIMEOUT_S = 120
_DRAWN_MS = 10_000


def save_pdf(html: str, path: Path) -> None:
    """Print a page that needs nothing but itself.

    Raises:
        MissingDependencyError: no Chromium was found; `$NOVELLUS_CHROMIUM` names one elsewhere.
        NovellusError: it did not print.
    """
    chromium = os.environ.get("NOVELLUS_CHROMIUM") or next(
        filter(None, map(shutil.which, _NAMES)), None
    )
    if chromium is None:
        raise MissingDependencyError(
            "PDF needs Chromium or Chrome: install one, name it in $NOVELLUS_CHROMIUM, or save as .html "
            "and print it from a browser"
        )
    with tempfile.TemporaryDirectory(prefix="novellus-pdf-") as directory:
        page, printed = Path(directory) / "report.html", Path(directory) / "report.pdf"
        page.write_text(html, encoding="utf-8")
        command = [
            chromium,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            f"--user-data-dir={directory}/profile",
            "--no-pdf-header-footer",
            f"--virtual-time-budget={_DRAWN_MS}",
            f"--print-to-pdf={printed}",
            page.as_uri(),
        ]
        if os.name == "posix" and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # root has no other way; the page is our own
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NovellusError(f"{chromium} did not print the report: {error}") from None
        if not printed.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NovellusError(f"{chromium} did not print the report: {' '.join(said)}")
        shutil.copyfile(printed, path)
