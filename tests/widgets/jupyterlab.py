"""A JupyterLab of its own, with its own settings and kernels, in headless Chromium."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from pathlib import Path

_START_S = 120


class JupyterLab:
    """A server on a free port over a directory; `stop` ends it and its kernels."""

    def __init__(self, directory: Path, *, theme: str = "light") -> None:
        self.directory = directory
        state, self.root = directory / "jupyter", directory / "notebooks"
        self.root.mkdir(parents=True)
        settings = state / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        name = f"JupyterLab {theme.title()}"
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"fetchNews": "false", "checkForUpdates": False})
        )
        env = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(state / "config"),
            "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(state / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
        }
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
            "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=",
            "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
            f"--ServerApp.root_dir={self.root}",
        ]  # fmt: skip
        self._log = (directory / "jupyterlab.log").open("wb")
        self.process = subprocess.Popen(
            command, env=env, cwd=directory, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        self.url = self._address(state / "runtime")

    def _address(self, runtime: Path) -> str:
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.process.poll() is None:
            for file in runtime.glob("jpserver-*.json"):
                told = file.read_text()
                if told.strip():
                    return str(json.loads(told)["url"])
            time.sleep(0.1)
        self.stop()
        raise AssertionError((self.directory / "jupyterlab.log").read_text()[-2000:])

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook and return where it is opened, alone on the page."""
        book = nbformat.v4.new_notebook()
        book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        book.metadata["kernelspec"] = {
            "name": "python3", "display_name": "Python 3", "language": "python",
        }  # fmt: skip
        nbformat.write(book, self.root / name)
        return f"{self.url}doc/tree/{name}?reset"

    def stop(self) -> None:
        """End the server, which ends its kernels."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self._log.close()


def run_all(page: Any, url: str, outputs: int) -> list[Any]:
    """Open a notebook, run its cells, and return the places of their outputs, all there."""
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_function("window.jupyterapp !== undefined")
    # A kernel must be there before cells are run, or JupyterLab asks for one.
    page.wait_for_function(
        """() => { const w = window.jupyterapp.shell.currentWidget;
                   return w && w.sessionContext && w.sessionContext.session
                          && w.sessionContext.session.kernel
                          && w.sessionContext.session.kernel.status === 'idle'; }""",
        timeout=60_000,
    )
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"""() => document.querySelectorAll('.jp-OutputArea-output .widget-vbox').length >= {outputs}
                 || document.querySelector('.jp-RenderedText[data-mime-type*="stderr"]')""",
        timeout=90_000,
    )
    return page.locator(".jp-OutputArea-child").all()
