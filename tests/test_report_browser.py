"""The cost report in a real browser: wide and narrow, light and dark, offline, and as PDF.

`$NOVELLUS_SCREENSHOTS` names a directory to keep the pictures in. The README's picture is

    NOVELLUS_SCREENSHOTS=$PWD/docs/images pytest -n 0 -m browser tests/test_report_browser.py -k picture
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from novellus_lab import Lab
from tests.conftest import _fresh_database
from tests.figure_texts import CUT_OFF, ON_EACH_OTHER
from tests.made_up_spending import History, rows, write
from tests.test_display_browser import CONTRAST, FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
END = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def report(server: Any, template: str, tmp_path_factory: Any) -> Iterator[Any]:
    """October against September, of a history that was made up."""
    with (
        _fresh_database(server, template) as database,
        Lab(
            config={"models": []},
            database_url=database.conninfo,
            home=tmp_path_factory.mktemp("browser") / "h",
        ) as lab,
    ):
        write(database.conninfo, rows(History(end=END, days=61, a_day=60, evil=True)), scored=0.2)
        yield lab.cost_report(("2026-10-01", "2026-11-01"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def drawn(chromium: Any, page: Path, width: int, scheme: str) -> Any:
    tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.asked, tab.alerts, tab.wrong = [], [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("dialog", lambda box: (tab.alerts.append(box.message), box.dismiss()))
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.goto(page.as_uri())
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 6")
    return tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_can_be_read(
    chromium: Any, report: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    tab = drawn(chromium, report.save(tmp_path / "report.html"), width, scheme)
    assert (tab.alerts, tab.wrong) == ([], [])
    assert [url for url in tab.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    found = CONTRAST.replace("SCHEME", f"'{scheme}'").replace(
        "!e.closest('.nvl')", "!e.closest('main') || e.closest('script, svg, .js-plotly-plot')"
    )
    contrasts = tab.evaluate(found)
    assert len(contrasts) > 100
    assert [text for ratio, text in contrasts if ratio < 4.5] == []
    assert tab.evaluate(CUT_OFF) == []
    assert tab.evaluate(ON_EACH_OTHER) == []
    if keep := os.environ.get("NOVELLUS_SCREENSHOTS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=str(Path(keep) / f"report-{width}-{scheme}.png"), full_page=True)
    tab.close()


def test_the_picture_of_the_readme(chromium: Any, report: Any, tmp_path: Path) -> None:
    tab = drawn(chromium, report.save(tmp_path / "report.html"), 1100, "light")
    keep = Path(os.environ.get("NOVELLUS_SCREENSHOTS") or tmp_path)
    picture = keep / "cost_report.png"
    tab.screenshot(
        path=str(picture), clip={"x": 0, "y": 0, "width": 1100, "height": 1120}, full_page=True
    )
    assert picture.stat().st_size > 20_000
    tab.close()


def test_the_report_is_printed_as_pdf(report: Any, tmp_path: Path) -> None:
    printed = report.save(tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 50_000
