"""Each widget in JupyterLab itself, light and dark: clicked, run, filtered, and looked at.

`$NOVELLUS_SCREENSHOTS` names a directory to keep the pictures in.
`python -m pytest -n 0 -m long tests/widgets/test_in_jupyterlab.py` runs it; docs/images/comparison.png and
docs/images/explore.png are its pictures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_display_browser import FLAGS
from tests.widgets.jupyterlab import JupyterLab, run_all

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
for needed in ("jupyterlab", "anywidget", "ipywidgets", "scipy"):
    pytest.importorskip(needed)
CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
STRONG, WEAK = "replay/gpt-4-1106-preview", "replay/mixtral-8x7b-instruct"


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    directory = Path(os.environ.get("NOVELLUS_SCREENSHOTS") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(params=["light", "dark"])
def theme(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def jupyter(tmp_path: Path, theme: str) -> Iterator[JupyterLab]:
    server = JupyterLab(tmp_path, theme=theme)
    yield server
    server.stop()


@pytest.fixture
def page(theme: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = chromium.new_page(viewport={"width": 1240, "height": 1500}, color_scheme=theme)
        tab.set_default_timeout(30_000)
        yield tab
        chromium.close()


def opening(database: Any, tmp_path: Path) -> str:
    models = [
        {"provider": "replay", "model_name": name.removeprefix("replay/"),
         "params": {"time_scale": 0}} for name in (STRONG, WEAK)
    ]  # fmt: skip
    return f"""
from novellus_lab import Lab
lab = Lab(home={str(tmp_path / "home")!r}, database_url={database.conninfo!r},
          config={{"models": {models!r}}}, seed=1)
"""


def whole(page: Any, output: Any, path: Path) -> None:
    """Keep a picture of a widget: nothing of it may be cut off at its side."""
    output.scroll_into_view_if_needed()
    page.wait_for_timeout(700)  # figures move to where they belong
    output.screenshot(path=str(path))
    cut = output.evaluate(
        """e => [...e.querySelectorAll('.widget-label, .jupyter-button, .widget-checkbox, .nvl')]
               .filter(x => x.checkVisibility() && x.scrollWidth > x.clientWidth + 1
                            && getComputedStyle(x).overflowX !== 'auto')
               .map(x => x.textContent.slice(0, 60))"""
    )
    assert cut == []


def test_a_comparison_is_clicked_together(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    url = jupyter.notebook("compare.ipynb", opening(database, tmp_path), "lab.widgets.compare()")
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    for name in ("cost_optimized", STRONG, WEAK):
        output.locator(f".widget-checkbox:has-text('{name}') input").check()
    output.get_by_label("control").select_option(label=STRONG)
    output.get_by_label("scorer").select_option(index=1)
    output.get_by_label("items").fill("150")
    output.get_by_label("items").press("Enter")
    output.get_by_role("button", name="Run").click()
    output.get_by_text("all items were asked").first.wait_for(timeout=120_000)
    output.locator(".js-plotly-plot .scatterlayer .js-line").first.wait_for()
    whole(page, output, keep / f"compare-{theme}.png")


def test_models_answer_side_by_side(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    question = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did Natalia sell altogether in April and May?"
    url = jupyter.notebook(
        "playground.ipynb", opening(database, tmp_path), "lab.widgets.playground()"
    )
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    output.locator("textarea").fill(question)
    output.locator("textarea").blur()
    output.get_by_role("button", name="Ask").click()
    output.get_by_text("done", exact=True).wait_for()
    output.get_by_text("first token", exact=True).wait_for()
    whole(page, output, keep / f"playground-{theme}.png")


FILLING = """
from novellus_lab.experiments.datasets import built_in
for n, item in enumerate(built_in("gsm8k").items[:40]):
    lab.complete(item.messages[0]["content"], tags={"team": ("search", "ads")[n % 2]},
                 model_selection_strategy=("weighted", "cost_optimized")[n % 3 == 0])
    if n % 4 == 0:
        lab.complete(item.messages[0]["content"], tags={"team": "search"})
lab.complete("<img src=x onerror=alert(1)> **bold**", model_id="replay/gpt-4-1106-preview")
"""


def test_the_log_is_looked_through(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda box: (alerts.append(box.message), box.dismiss()))
    url = jupyter.notebook(
        "explore.ipynb", opening(database, tmp_path), FILLING, "lab.widgets.explore()"
    )
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    output.locator(".nvl-rows tbody tr").nth(20).wait_for()
    many = output.locator(".nvl-rows tbody tr").count()
    output.get_by_text("<img src=x").first.wait_for()
    output.get_by_label("tag").fill("team=ads")
    output.get_by_label("tag").press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.nvl-rows tbody tr').length < {many}")
    assert output.locator(".nvl-rows tbody tr").count() == 20
    output.locator(".nvl-rows tbody tr").nth(3).click()
    output.get_by_text("Where time went").wait_for()
    output.get_by_role("button", name="Replay").click()
    output.get_by_text("now", exact=True).wait_for()
    whole(page, output, keep / f"explore-{theme}.png")
    assert alerts == []


def test_the_dashboard_follows_the_log(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    url = jupyter.notebook(
        "dashboard.ipynb",
        opening(database, tmp_path), FILLING, "lab.widgets.dashboard('1h', every=5)",
        "more = lab.complete('One more', model_id='replay/gpt-4-1106-preview')",
    )  # fmt: skip
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    output.get_by_text("as of").wait_for(timeout=60_000)
    output.locator(".nvl-tiles b", has_text="52").wait_for(timeout=60_000)
    output.get_by_role("button", name="Pause").click()
    output.get_by_text("paused, as of").wait_for()
    whole(page, output, keep / f"dashboard-{theme}.png")
