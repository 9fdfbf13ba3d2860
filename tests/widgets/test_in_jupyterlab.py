"""Each widget in JupyterLab itself, light and dark: clicked, run, filtered, and looked at.

`python -m pytest -n 0 -m long tests/widgets/test_in_jupyterlab.py`; `$NOVELLUS_SCREENSHOTS` names a
directory to keep pictures in. With `-k light` and `NOVELLUS_DOC_IMAGES=docs/images` it makes those of
the README and docs/widgets.md anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from novellus_lab.experiments.datasets import built_in
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
ROOT = Path(__file__).parents[2]
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
        tab = chromium.new_page(viewport={"width": 1240, "height": 2600}, color_scheme=theme)
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
    wide = output.evaluate(
        """e => [...e.querySelectorAll('.js-plotly-plot')].filter(x => x.checkVisibility())
               .map(x => x.querySelector('.main-svg').getBoundingClientRect().width
                         - x.parentElement.getBoundingClientRect().width)"""
    )
    assert all(-2 <= over <= 2 for over in wide), wide


def for_the_docs(page: Any, output: Any, name: str, before: Any, theme: str) -> None:
    """Keep a widget's upper part, down to what comes `before`, as a picture of the documentation."""
    directory = os.environ.get("NOVELLUS_DOC_IMAGES")
    if directory and theme == "light":
        box, end = output.bounding_box(), before.bounding_box()
        assert box is not None
        assert end is not None
        clip = {**box, "x": box["x"] - 8, "width": box["width"] + 16, "height": end["y"] - box["y"]}
        page.screenshot(path=str(ROOT / directory / name), clip=clip)


def test_a_comparison_is_clicked_together(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    url = jupyter.notebook("compare.ipynb", opening(database, tmp_path), "lab.widgets.compare()")
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    for name in ("weighted", STRONG, WEAK):
        output.locator(f".widget-checkbox:has(:text-is('{name}')) input").check()
    output.get_by_label("control").select_option(label=STRONG)
    output.get_by_label("scorer").select_option(index=1)
    output.get_by_label("at most $").fill("2")
    output.get_by_label("items").fill("150")
    output.get_by_label("items").press("Enter")
    output.get_by_role("button", name="Run").click()
    output.get_by_text("all items were asked").first.wait_for(timeout=120_000)
    output.locator(".js-plotly-plot .scatterlayer .js-line").first.wait_for()
    whole(page, output, keep / f"compare-{theme}.png")
    for_the_docs(page, output, "comparison.png", output.locator("h4").first, theme)


def test_models_answer_side_by_side(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    question = built_in("gsm8k").items[0].messages[0]["content"]
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
    for_the_docs(page, output, "explore.png", output.get_by_text("Where time went"), theme)
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


def test_hits_are_judged_by_hand(
    jupyter: JupyterLab, page: Any, database: Any, tmp_path: Path, keep: Path, theme: str
) -> None:
    pytest.importorskip("wordllama")
    asked = """
lab.complete("What is Python?", model_id="replay/gpt-4-1106-preview", use_semantic_cache=True)
for end in ("", "!"):
    lab.complete("Tell me about Python programming" + end, model_id="replay/gpt-4-1106-preview",
                 use_semantic_cache=True)
"""
    url = jupyter.notebook(
        "judge.ipynb", opening(database, tmp_path), asked, "lab.widgets.judge_hits()"
    )
    run_all(page, url, 1)
    output = page.locator(".jp-OutputArea-output:has(.widget-vbox)").last
    output.get_by_text("none judged yet").wait_for()
    output.get_by_role("button", name="It fits").click()
    output.get_by_text("at most").wait_for()
    whole(page, output, keep / f"judge-{theme}.png")
