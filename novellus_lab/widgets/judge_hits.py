"""A person judges semantic cache hits, one after the other: does the answer fit the question?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import ipywidgets

from novellus_lab.analytics.requests import moment
from novellus_lab.display import caption_html, findings_html, markdown_html, table_html
from novellus_lab.errors import InvalidRequestError
from novellus_lab.pipeline.judging import keep_judgement, sample_hits, served
from novellus_lab.widgets.panel import Panel, row

if TYPE_CHECKING:
    from datetime import datetime

    from novellus_lab.pipeline.judging import Served, ServedHit
    from novellus_lab.widgets.source import WidgetLab


class JudgeHitsWidget(Panel):
    """A queue of served hits. Each verdict is kept at once, and counts as a judge's of `lab.cache.judge`."""

    def __init__(
        self, lab: WidgetLab, *, sample: int = 50, since: str = "7d", by: str = "person"
    ) -> None:
        super().__init__(lab)
        if isinstance(sample, bool) or not isinstance(sample, int) or not 1 <= sample <= 10_000:
            raise InvalidRequestError(f"sample must be a whole number from 1, not {sample!r:.80}")
        if not isinstance(by, str) or not 1 <= len(by) <= 100:
            raise InvalidRequestError("by must be a name of 1 to 100 characters")
        start = moment("since", since)
        if start is None:
            raise InvalidRequestError("since must be a duration such as '7d', or a time")
        self._since: datetime = start
        self._by = by
        self._conninfo = lab._live().conninfo
        self.queue: list[ServedHit] = []
        """What is left to judge; the first is shown."""
        self.judged = 0
        """Verdicts given here."""
        self.place = ipywidgets.Label("looking for hits …")
        self.shown = ipywidgets.HTML()
        self.fits = ipywidgets.Button(description="It fits", icon="check", button_style="success")
        self.fails = ipywidgets.Button(
            description="It doesn't fit", icon="times", button_style="danger"
        )
        self.skip = ipywidgets.Button(description="Skip", icon="forward")
        self.report = ipywidgets.HTML()
        self.fits.on_click(self.handler(lambda: self._say(fits=True)))
        self.fails.on_click(self.handler(lambda: self._say(fits=False)))
        self.skip.on_click(self.handler(self._next))
        self.arrange(self.place, self.shown, row(self.fits, self.fails, self.skip), self.report)
        self._buttons(ready=False)
        self.start(lambda: self._fetch(sample))

    async def _fetch(self, sample: int) -> None:
        await asyncio.to_thread(self._lab._ready)
        self.queue = await sample_hits(self._conninfo, self._since, sample)
        await self._count()
        await asyncio.to_thread(self._show)

    async def _count(self) -> None:
        self.report.value = _report(await served(self._conninfo, self._since))

    def _say(self, *, fits: bool) -> None:
        if not self.queue or self.fits.disabled:
            return
        hit = self.queue[0]
        self._buttons(ready=False)
        self.start(lambda: self._kept(hit, fits))

    async def _kept(self, hit: ServedHit, fits: bool) -> None:
        try:
            await keep_judgement(self._conninfo, hit, self._by, fits=fits, why=None)
        except Exception:
            self._buttons(ready=True)  # it is still to be judged
            raise
        self.judged += 1
        await self._count()
        await asyncio.to_thread(self._next)

    def _next(self) -> None:
        with self.lock:
            del self.queue[:1]
            self._show()

    def _show(self) -> None:
        with self.lock:
            if self.closed:
                return
            self._buttons(ready=bool(self.queue))
            if not self.queue:
                self.place.value = "No hit is left to judge." if self.judged else "No hit to judge."
                self.shown.value = ""
                return
            hit = self.queue[0]
            near = "" if hit.similarity is None else f", {hit.similarity:.3f} similar"
            self.place.value = f"{len(self.queue):,} to judge{near}"
            self.shown.value = (
                caption_html("It was asked")
                + markdown_html(hit.question)
                + caption_html("It got the answer to")
                + markdown_html(hit.source)
                + caption_html("which is")
                + markdown_html(hit.answer)
            )

    def _buttons(self, *, ready: bool) -> None:
        for button in (self.fits, self.fails, self.skip):
            button.disabled = not ready


def _report(found: Served) -> str:
    judged = found.judged
    if not judged.judged:
        return findings_html((f"{found.hits:,} semantic hits, none judged yet.",), ())
    return table_html(
        ("semantic hits", "judged", "wrong", "error rate"),
        [(f"{found.hits:,}", f"{judged.judged:,}", f"{judged.wrong:,}",
          f"at most {judged.upper_bound():.1%}")],
        ("95% bound, valid at any time: stop when you like",),
    )  # fmt: skip
