"""How things show themselves: in a notebook as HTML, elsewhere as a line of text.

Answers are untrusted. They are rendered as Markdown without raw HTML, without images (loading one
would tell a stranger that, and where, the answer was read), with links to the web and mail only.
"""

from __future__ import annotations

import contextlib
import html
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from novellus_lab.types import BatchFailure, Completion, Usage

MAX_SHOWN = 100_000
"""Characters of an answer that are rendered; the rest is in `.content`."""

_STYLE = """
.nvl{--nvl-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#1f2328));
--nvl-quiet:var(--jp-content-font-color2,var(--vscode-descriptionForeground,#656d76));
--nvl-line:var(--jp-border-color2,var(--vscode-panel-border,#d8dee4));
--nvl-wash:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#f6f8fa));
--nvl-warn:#9a6700;--nvl-bad:#cf222e;--nvl-accent:#0969da;--nvl-replay:#8250df;
color:var(--nvl-ink);font-family:var(--jp-content-font-family,system-ui,-apple-system,"Segoe UI",sans-serif);
font-size:14px;line-height:1.55;max-width:52rem;padding:2px 0}
@media (prefers-color-scheme:dark){.nvl{
--nvl-ink:var(--jp-content-font-color1,var(--vscode-editor-foreground,#e6edf3));
--nvl-quiet:var(--jp-content-font-color2,var(--vscode-descriptionForeground,#8d96a0));
--nvl-line:var(--jp-border-color2,var(--vscode-panel-border,#30363d));
--nvl-wash:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#161b22));
--nvl-warn:#d29922;--nvl-bad:#f85149;--nvl-accent:#4493f8;--nvl-replay:#ab7df8}}
[data-jp-theme-light="false"] .nvl,body.vscode-dark .nvl{--nvl-warn:#d29922;--nvl-bad:#f85149;
--nvl-accent:#4493f8;--nvl-replay:#ab7df8}
[data-jp-theme-light="true"] .nvl,body.vscode-light .nvl{--nvl-warn:#9a6700;--nvl-bad:#cf222e;
--nvl-accent:#0969da;--nvl-replay:#8250df}
.nvl .nvl-answer>:first-child{margin-top:0}.nvl .nvl-answer>:last-child{margin-bottom:0}
.nvl p,.nvl ul,.nvl ol,.nvl table,.nvl pre,.nvl blockquote{margin:.55em 0}
.nvl h1,.nvl h2,.nvl h3,.nvl h4,.nvl h5,.nvl h6{font-size:1.05em;font-weight:650;margin:.9em 0 .35em;line-height:1.3}
.nvl h1{font-size:1.25em}.nvl h2{font-size:1.15em}
.nvl a{color:var(--nvl-accent);text-decoration:none;border-bottom:1px solid currentColor}
.nvl code{font-family:var(--jp-code-font-family,ui-monospace,SFMono-Regular,Menlo,monospace);font-size:.9em;
background:var(--nvl-wash);border-radius:4px;padding:.1em .3em}
.nvl pre{background:var(--nvl-wash);border:1px solid var(--nvl-line);border-radius:6px;padding:.7em .9em;overflow-x:auto}
.nvl pre code{background:none;padding:0;font-size:.88em;line-height:1.45}
.nvl table{border-collapse:collapse;font-size:.95em}
.nvl th,.nvl td{border:0;border-bottom:1px solid var(--nvl-line);padding:.3em .8em .3em 0;text-align:left;background:none}
.nvl th{font-weight:650}
.nvl blockquote{border-left:3px solid var(--nvl-line);color:var(--nvl-quiet);padding-left:.9em;margin-left:0}
.nvl hr{border:0;border-top:1px solid var(--nvl-line);margin:.9em 0}
.nvl details{color:var(--nvl-quiet);margin:.4em 0}.nvl summary{cursor:pointer;font-size:.9em}
.nvl .nvl-tool{border:1px solid var(--nvl-line);border-radius:6px;margin:.5em 0;overflow:hidden}
.nvl .nvl-tool b{display:block;font-weight:600;font-size:.9em;padding:.35em .9em;border-bottom:1px solid var(--nvl-line)}
.nvl .nvl-tool pre{border:0;border-radius:0;margin:0}
.nvl .nvl-note{color:var(--nvl-warn);font-size:.9em;margin:.5em 0}
.nvl .nvl-error{border-left:3px solid var(--nvl-bad);padding-left:.9em}
.nvl .nvl-meta{color:var(--nvl-quiet);font-size:12px;line-height:1.7;margin-top:.75em;padding-top:.35em;
border-top:1px solid var(--nvl-line);font-variant-numeric:tabular-nums}
.nvl .nvl-meta span+span::before{content:"·";margin:0 .55em;opacity:.6}
.nvl .nvl-meta b{font-weight:600;color:var(--nvl-ink)}
.nvl .nvl-badge{color:var(--nvl-replay);font-weight:650;letter-spacing:.04em}
"""


def completion_repr(c: Completion) -> str:
    """One line for terminals and logs."""
    text = " ".join(c.content.split())
    shown = text if len(text) <= 80 else text[:79] + "…"
    parts = [c.model, money(c.cost), duration(c.latency_ms), f"cache {c.cache.value}"]
    return f"Completion({shown!r}, {', '.join(parts)}{', replay' if c.is_replay else ''})"


def completion_html(c: Completion) -> str:
    """The notebook's view: the answer, and one quiet line below it."""
    body = []
    if c.reasoning:
        body.append(
            f"<details><summary>Reasoning</summary>{render_markdown(c.reasoning)}</details>"
        )
    if c.parsed is not None:
        body.append(f"<pre><code>{html.escape(_pretty(c.parsed))}</code></pre>")
    elif c.content:
        body.append(render_markdown(c.content))
    for call in c.tool_calls:
        body.append(
            f'<div class="nvl-tool"><b>{html.escape(call.name)}</b>'
            f"<pre><code>{html.escape(_pretty_json(call.arguments))}</code></pre></div>"
        )
    notes = list(c.warnings)
    if c.finish_reason == "length":
        notes.append("The answer was cut off at its token limit.")
    elif c.finish_reason == "content_filter":
        notes.append("The provider withheld the answer, or a part of it.")
    if c.dropped_params:
        notes.append(f"Sent without {', '.join(c.dropped_params)}, which this model can't honour.")
    body += [f'<div class="nvl-note">{html.escape(note)}</div>' for note in notes]
    return _page(f'<div class="nvl-answer">{"".join(body)}</div>{_meta(c)}')


def failure_html(failure: BatchFailure) -> str:
    """A batch item that failed."""
    error = failure.error
    return _page(
        f'<div class="nvl-error"><b>{html.escape(type(error).__name__)}</b> at item '
        f"{failure.index}<br>{html.escape(str(error))}</div>"
    )


def render_markdown(text: str) -> str:
    """Return untrusted Markdown as safe HTML."""
    note = ""
    if len(text) > MAX_SHOWN:
        note = (
            f'<div class="nvl-note">Shown: the first {MAX_SHOWN:,} of {len(text):,} characters; '
            f"<code>.content</code> holds them all.</div>"
        )
        text = text[:MAX_SHOWN]
    rendered: str = _markdown().render(text)
    return rendered + note


def money(cost: Decimal | None) -> str:
    """A cost with as many digits as it needs to be told from zero."""
    if cost is None:
        return "cost unknown"
    if cost == 0:
        return "$0"
    if cost >= 1:
        return f"${cost:,.2f}"
    digits = max(2, 2 - cost.adjusted())
    return f"${cost:.{min(digits, 12)}f}".rstrip("0").ljust(4, "0")


def duration(ms: float) -> str:
    """Milliseconds, in the unit that reads best."""
    if ms < 1:
        return f"{ms * 1000:.0f} µs"
    if ms < 1000:
        return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    return f"{int(ms // 60_000)} min {ms % 60_000 / 1000:.0f} s"


@contextlib.contextmanager
def batch_progress(
    total: int, show: bool | None
) -> Iterator[Callable[[Completion | BatchFailure], None]]:
    """Show how far a batch has come, and what it has cost.

    Args:
        total: number of calls.
        show: None shows it in a notebook or terminal, for more than one call.
    """
    interactive = "ipykernel" in sys.modules or sys.stderr.isatty()
    if not (show if show is not None else interactive and total > 1):
        yield lambda _result: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    spent, failed = Decimal(0), 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        Remaining(),
    )
    console = Console(stderr=not Console().is_jupyter)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("$0", total=total)

        def on_result(result: Completion | BatchFailure) -> None:
            nonlocal spent, failed
            if hasattr(result, "error"):
                failed += 1
            else:
                spent += result.cost or Decimal(0)
            label = money(spent) + (f", {failed} failed" if failed else "")
            progress.update(task, advance=1, description=label)

        yield on_result


def _page(inner: str) -> str:
    return f'<div class="nvl"><style>{_STYLE}</style>{inner}</div>'


def _meta(c: Completion) -> str:
    parts = [f"<b>{html.escape(c.model)}</b>"]
    if c.is_replay:
        parts.append('<i class="nvl-badge" style="font-style:normal">REPLAY</i> recorded answer')
    elif c.provider not in c.model:
        parts.append(html.escape(c.provider))
    if c.cache.hit and c.cost_saved:
        parts.append(f"$0, saved {money(c.cost_saved)}")
    else:
        parts.append(money(c.cost))
    latency = duration(c.latency_ms)
    if c.ttft_ms is not None:
        latency += f" (first token {duration(c.ttft_ms)})"
    parts.append(latency)
    parts.append(_tokens(c.usage))
    if c.cache.hit:
        hit = f"cache hit: {c.cache.value}"
        if c.cache_similarity is not None:
            hit += f" {c.cache_similarity:.2f}"
        if c.original_latency_ms is not None:
            hit += f", originally {duration(c.original_latency_ms)}"
        parts.append(hit)
    elif c.cache.value != "off":
        parts.append(f"cache {c.cache.value}")
    if len(c.attempts) > 1:
        others = [a for a in c.attempts[:-1] if a.model_id != c.model]
        came = f"after {others[0].model_id} failed" if others else "after retries"
        parts.append(html.escape(f"{len(c.attempts)} attempts, {came}"))
    return f'<div class="nvl-meta">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def _tokens(u: Usage) -> str:
    text = f"{u.input_tokens:,} → {u.output_tokens:,} tokens"
    extra = []
    if u.cached_input_tokens:
        extra.append(f"{u.cached_input_tokens:,} cached")
    if u.reasoning_tokens:
        extra.append(f"{u.reasoning_tokens:,} reasoning")
    if u.estimated:
        extra.append("estimated")
    return f"{text} ({', '.join(extra)})" if extra else text


def _pretty_json(text: str) -> str:
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return text


def _pretty(value: Any) -> str:
    if hasattr(value, "model_dump_json"):
        shown = f"{type(value).__name__} {value.model_dump_json(indent=2)}"
    else:
        try:
            shown = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        except TypeError:
            shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "\n…"


_renderer: Any = None


def _markdown() -> Any:
    """Build the renderer once: CommonMark with tables, no HTML, no images, web and mail links."""
    global _renderer
    if _renderer is None:
        from markdown_it import MarkdownIt

        markdown = MarkdownIt("commonmark", {"html": False, "linkify": False})
        markdown.enable(["table", "strikethrough"])
        # No renderer calls it an image: it becomes its text, and the address stays unloaded.
        markdown.disable("image")

        def safe(url: str) -> bool:
            return url.strip().lower().startswith(("http://", "https://", "mailto:"))

        markdown.validateLink = safe  # type: ignore[method-assign]

        def open_link(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
            token = tokens[index]
            token.attrSet("target", "_blank")
            token.attrSet("rel", "noopener noreferrer nofollow")
            return str(self.renderToken(tokens, index, options, env))

        markdown.add_render_rule("link_open", open_link)
        _renderer = markdown
    return _renderer
