"""The overview of the models in a real browser, light and dark: readable, inert, with its figures.

`$NOVELLUS_SCREENSHOTS` names a directory to keep the pictures in.
"""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from novellus_lab import Lab
from tests.monitoring.made_up_log import Injected, now, rows, write
from tests.test_display_browser import CONTRAST, FLAGS

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytest.importorskip("plotly")
CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
EVIL = "<img src=x onerror=alert(1)>"
HOUR = timedelta(hours=1)


@pytest.fixture
def page(database: Any, tmp_path: Path) -> Path:
    """The overview of a day in which one model was slow for a team and failed later."""
    end = now()

    def slow(row: Any, rng: Any) -> None:
        if row["model"] == "large" and row["team"] == "search":
            row["latency_ms"] *= 6

    def failing(row: Any, rng: Any) -> None:
        if row["model"] == EVIL and rng.random() < 0.4:
            row["status"] = "error"

    faults = [Injected(end - 9 * HOUR, end - 7.5 * HOUR, slow), Injected(end - HOUR, end, failing)]
    made = rows(
        end - 30 * HOUR, end, every=timedelta(minutes=5), mean=120,
        models=["large", "small", EVIL], faults=faults,
    )  # fmt: skip
    write(database.conninfo, made)
    with Lab(config={"models": []}, database_url=database.conninfo, home=tmp_path / "h") as lab:
        overview = lab.monitor.overview("24h")
        assert {one.kind for one in overview.anomalies} >= {"latency", "error_rate"}
        assert "anomalies" in repr(overview)
        return overview.save(tmp_path / "overview.html")


def test_the_overview_can_be_read_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    keep = Path(os.environ.get("NOVELLUS_SCREENSHOTS") or tmp_path)
    keep.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for scheme in ("light", "dark"):
            tab = chromium.new_page(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
            asked: list[str] = []
            alerts: list[str] = []
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.on("dialog", lambda box, alerts=alerts: (alerts.append(box.message), box.dismiss()))
            tab.goto(page.as_uri())
            tab.wait_for_selector(".js-plotly-plot .scatterlayer .js-line")
            assert alerts == []
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
            assert tab.locator("table").count() == 3
            assert 1 <= tab.locator(".js-plotly-plot").count() <= 3
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            contrasts = tab.evaluate(CONTRAST.replace("SCHEME", f"'{scheme}'"))
            assert len(contrasts) > 40
            assert [text for ratio, text in contrasts if ratio < 4.5] == []
            picture = keep / f"overview-{scheme}.png"
            tab.screenshot(path=str(picture), full_page=True)
            assert picture.stat().st_size > 20_000
            tab.close()
        chromium.close()
