"""Each notebook in JupyterLab itself: run from top to bottom, without an error, and looked at.

`python -m pytest -n 0 -m long tests/test_notebooks_in_jupyterlab.py`; `$NOVELLUS_SCREENSHOTS` (an absolute
path) names a directory to keep pictures in.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.embedded_homes import remove_state
from tests.test_display_browser import FLAGS
from tests.test_notebooks import NOTEBOOKS
from tests.widgets.jupyterlab import JupyterLab

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytest.importorskip("jupyterlab")
CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

_IDLE = """() => {
    const w = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    const kernel = w && w.sessionContext && w.sessionContext.session
        && w.sessionContext.session.kernel;
    return kernel && kernel.status === 'idle';
}"""
_DONE = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
    const code = Array.from(cells).filter(c => c.type === 'code');
    const failed = code.some(c => Array.from({length: c.outputs.length}, (_, i) => c.outputs.get(i))
        .some(o => o.type === 'error'));
    return failed || code.every(c => c.executionCount !== null);
}"""
_ERRORS = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
    return Array.from(cells).filter(c => c.type === 'code').flatMap(c =>
        Array.from({length: c.outputs.length}, (_, i) => c.outputs.get(i).toJSON()))
        .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue);
}"""


@pytest.fixture(params=["light", "dark"])
def theme(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def jupyter(tmp_path: Path, theme: str) -> Iterator[JupyterLab]:
    server = JupyterLab(tmp_path, theme=theme)
    yield server
    server.stop()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyterlab(
    path: Path, jupyter: JupyterLab, theme: str, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("NOVELLUS_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, jupyter.root)
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 1600})
            page.goto(f"{jupyter.url}doc/tree/{path.name}?reset")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
            page.wait_for_function(_IDLE, timeout=60_000)
            page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            page.wait_for_function(_DONE, timeout=240_000)
            assert page.evaluate(_ERRORS) == []
            # JupyterLab shows the cells of the window alone: look at them one window after another.
            scroller = page.locator(".jp-WindowedPanel-outer").first
            for number in range(8):
                scroller.evaluate("(e, n) => e.scrollTo(0, n * 1400)", number)
                page.wait_for_timeout(700)
                page.screenshot(path=str(pictures / f"{path.stem}-{theme}-{number}.png"))
                if scroller.evaluate("e => e.scrollTop + e.clientHeight >= e.scrollHeight - 5"):
                    break
            browser.close()
    finally:
        remove_state(jupyter.root / ".novellus")
