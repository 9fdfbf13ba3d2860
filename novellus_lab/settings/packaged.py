"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path


def packaged_file(name: str, folder: str) -> Path | None:
    """Return where a file is that came with this installation, or None.

    A wheel keeps it in `novellus_lab/_data/`; a checkout in a folder at its top.
    """
    package = Path(__file__).parent.parent
    for path in (package / "_data" / name, package.parent / folder / name):
        if path.is_file():
            return path
    return None
