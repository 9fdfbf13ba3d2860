"""The notebook's view in a real browser, light and dark: readable, and inert.

Needs Playwright and a Chromium: `apt-get install chromium` and `pip install playwright`, or
`$NOVELLUS_CHROMIUM` for one elsewhere. `$NOVELLUS_SCREENSHOTS` names a directory to keep pictures in.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.display_samples import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = os.environ.get("NOVELLUS_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# How notebooks say which theme is on. Each only says it in its own way; the view must fit them all.
SURROUNDINGS = {
    "plain": ('<meta name="color-scheme" content="{scheme}">', "<body>", {}),
    "jupyterlab": (
        "",
        '<body data-jp-theme-light="{is_light}" style="background:{ground};color:{ink};'
        '--jp-content-font-color1:{ink}">',
        {"light": ("#fff", "rgba(0,0,0,.87)"), "dark": ("#111", "#fff")},
    ),
    "vscode": (
        "",
        '<body class="vscode-{scheme}" style="background:{ground};color:{ink};'
        '--vscode-editor-foreground:{ink}">',
        {"light": ("#fff", "#3b3b3b"), "dark": ("#1f1f1f", "#ccc")},
    ),
}

# WCAG contrast of every text against what is painted behind it.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
                      const d = canvas.getImageData(0, 0, 1, 1).data; return [...d.slice(0, 3), d[3] / 255]; };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const page = SCHEME === 'dark' ? [18, 18, 18] : [255, 255, 255];
  const ground = e => { const own = rgba(getComputedStyle(e).backgroundColor);
                        return over(own, e.parentElement ? ground(e.parentElement) : page); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest('style') || !e.closest('.nvl') || !e.checkVisibility()) continue;
    const back = ground(e), front = over(rgba(getComputedStyle(e).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), walk.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", SURROUNDINGS)
def test_the_view_is_readable_and_inert(
    browser: Any, where: str, scheme: str, tmp_path: Path
) -> None:
    head, body, colours = SURROUNDINGS[where]
    ground, ink = colours.get(scheme, ("", ""))
    words = {
        "scheme": scheme,
        "is_light": str(scheme == "light").lower(),
        "ground": ground,
        "ink": ink,
    }
    views = "".join(f"<section>{result._repr_html_()}</section>" for _, result in samples())
    html = f"<!doctype html><meta charset=utf-8><title>fine</title>{head.format(**words)}{body.format(**words)}{views}"
    (tmp_path / "page.html").write_text(html, encoding="utf-8")

    # The system's own scheme is the opposite of a notebook's: it must not shine through.
    system = scheme if where == "plain" else {"light": "dark", "dark": "light"}[scheme]
    page = browser.new_page(viewport={"width": 900, "height": 800}, color_scheme=system)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.goto((tmp_path / "page.html").as_uri())

    assert page.title() == "fine"
    assert alerts == []
    assert [url for url in requests if not url.startswith("file:")] == []
    assert page.locator(".nvl").count() == len(samples())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it overflows"
    contrasts = page.evaluate(CONTRAST.replace("SCHEME", f"'{scheme}'"))
    assert len(contrasts) > 100
    assert [text for ratio, text in contrasts if ratio < 4.5] == []
    if keep := os.environ.get("NOVELLUS_SCREENSHOTS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(keep) / f"{where}-{scheme}.png"), full_page=True)
    page.close()
