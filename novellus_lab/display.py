"""How things show themselves: in a notebook as HTML, elsewhere as a line of text.

The HTML stands alone: no script, no font, nothing that is loaded. Its colours are mixed from the
text colour of the page around it, so that it fits light and dark themes of JupyterLab, VS Code,
Colab or a plain page without knowing them. With its style sheet stripped (GitHub, untrusted
notebooks) it still reads well.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any

from novellus_lab import markdown
from novellus_lab.types import CacheOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from novellus_lab.types import Attempt, BatchFailure, Completion, Route, ToolCall, Usage

_SHOWN_JSON = 20_000
"""Characters of arguments or parsed data that are shown."""
_JSON_LINE = 64
_SHOWN_MESSAGE = 2_000
_SHOWN_NAME = 120


@dataclass(frozen=True, slots=True)
class LabFacts:
    """What a lab tells of itself."""

    about: tuple[str, ...]
    """Where it logs, in what state."""
    providers: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    """For each provider: the models that can be asked, and why others can't."""


# Doubled class names outweigh JupyterLab's own rules for tables, code and headings in outputs.
_STYLE = """
.nvl{--nvl-quiet:color-mix(in srgb,currentColor 75%,transparent);
--nvl-line:color-mix(in srgb,currentColor 15%,transparent);
--nvl-wash:color-mix(in srgb,currentColor 5%,transparent);
--nvl-blue:color-mix(in srgb,#3079f0 64%,currentColor);
--nvl-green:color-mix(in srgb,#268a49 54%,currentColor);
--nvl-amber:color-mix(in srgb,#b87514 66%,currentColor);
--nvl-red:color-mix(in srgb,#dc4a44 64%,currentColor);
--nvl-violet:color-mix(in srgb,#8f60ee 56%,currentColor);
--nvl-mono:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,SFMono-Regular,Menlo,Consolas,monospace));
font-family:var(--jp-content-font-family,var(--vscode-font-family,system-ui,-apple-system,"Segoe UI",sans-serif));
font-size:14px;line-height:1.6;max-width:50rem;padding:4px 0;overflow-wrap:anywhere}
.nvl.nvl :is(p,ul,ol,pre,blockquote){margin:.65em 0}.nvl :is(.nvl-scroll,.nvl-card,div.nvl-formula){margin:.65em 0}
.nvl.nvl :is(ul,ol){padding-left:1.6em}.nvl.nvl li{margin:.2em 0}.nvl.nvl li>:is(p,ul,ol){margin:.2em 0}
.nvl.nvl :is(h1,h2,h3,h4,h5,h6){font-size:1em;font-weight:650;line-height:1.35;margin:1.15em 0 .4em;color:inherit}
.nvl.nvl h1{font-size:1.25em}.nvl.nvl h2{font-size:1.14em}.nvl.nvl h3{font-size:1.06em}
.nvl.nvl strong{font-weight:650}
.nvl.nvl a{color:var(--nvl-blue);text-decoration:underline;text-decoration-thickness:1px;text-underline-offset:2px;
text-decoration-color:color-mix(in srgb,currentColor 40%,transparent)}
.nvl.nvl a:hover{text-decoration-color:currentColor}
.nvl.nvl a.nvl-image{color:var(--nvl-quiet);font-size:.92em}
.nvl.nvl :is(code,.nvl-formula){font-family:var(--nvl-mono);font-size:.9em;color:inherit}
.nvl.nvl.nvl code{background:var(--nvl-wash);border-radius:4px;padding:.12em .34em}
.nvl.nvl div.nvl-formula{white-space:pre-wrap;padding-left:1.6em}
.nvl.nvl pre{background:var(--nvl-wash);border:0;border-radius:8px;padding:.8em 1em;overflow-x:auto;direction:ltr;text-align:left;
line-height:1.5;white-space:pre;overflow-wrap:normal;color:inherit}
.nvl.nvl.nvl pre code{background:none;padding:0;font-size:.88em;white-space:inherit}
.nvl .nvl-scroll{overflow-x:auto}
.nvl.nvl table{border-collapse:collapse;border:0;font-size:.95em;margin:0;table-layout:auto;font-variant-numeric:tabular-nums;overflow-wrap:normal}
.nvl.nvl :is(th,td){border:0;border-bottom:1px solid var(--nvl-line);padding:.42em 1.4em .42em 0;text-align:left;vertical-align:top;
background:none;line-height:1.45;max-width:28rem;white-space:normal}
.nvl.nvl:has(.nvl-figures){max-width:76rem}.nvl.nvl .nvl-figures td:not(:last-child){white-space:nowrap;max-width:none}.nvl.nvl .nvl-figures td:last-child{min-width:6em}.nvl.nvl .nvl-figures :is(th,td){padding-right:1.1em}
.nvl.nvl thead{border:0}.nvl.nvl th{font-weight:600;color:var(--nvl-quiet);white-space:nowrap}
.nvl.nvl tbody tr:nth-child(n),.nvl.nvl tbody tr:hover{background:none}
.nvl.nvl blockquote{border:0;border-left:3px solid var(--nvl-line);color:var(--nvl-quiet);padding:0 0 0 1em;margin-left:0;margin-right:0}
.nvl.nvl.nvl hr{border:0;border-top:1px solid var(--nvl-line);height:0;margin:1.2em 0}
.nvl.nvl details{color:var(--nvl-quiet);margin:0 0 .8em}
.nvl.nvl summary{cursor:pointer;font-size:.9em;width:fit-content}
.nvl .nvl-thought{border-left:2px solid var(--nvl-line);padding-left:1em;margin:.4em 0;font-size:.95em}
.nvl.nvl :is(.nvl-answer,.nvl-thought)>:first-child{margin-top:0}.nvl.nvl :is(.nvl-answer,.nvl-thought)>:last-child{margin-bottom:0}
.nvl .nvl-card{border:1px solid var(--nvl-line);border-radius:8px;overflow:hidden}
.nvl .nvl-card>div{padding:.4em 1em;font-size:.9em;display:flex;gap:.7em;align-items:baseline}
.nvl .nvl-card i{font-style:normal;color:var(--nvl-quiet);font-size:.92em}
.nvl .nvl-card b{font-family:var(--nvl-mono);font-weight:600}
.nvl .nvl-card .nvl-id{margin-left:auto;font-family:var(--nvl-mono);font-size:.85em;opacity:.8;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.nvl.nvl .nvl-card pre{border-top:1px solid var(--nvl-line);border-radius:0;margin:0}
.nvl .nvl-note{color:var(--nvl-amber);font-size:.92em;margin:.5em 0;padding-left:1.15em;position:relative}
.nvl .nvl-note::before{content:"";position:absolute;left:.1em;top:.55em;width:.45em;height:.45em;border-radius:50%;background:currentColor}
.nvl.nvl-wide{max-width:none}.nvl.nvl-caption{line-height:1.35}.nvl.nvl-caption b{font-weight:650}.nvl.nvl-caption .nvl-meta{margin-top:.2em;line-height:1.45}
.nvl .nvl-tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:8px;width:100%}
.nvl .nvl-tiles>div{border:1px solid var(--nvl-line);border-radius:8px;padding:.55em .9em;display:flex;flex-direction:column;line-height:1.45}
.nvl .nvl-tiles b{font-size:1.4em;font-weight:650;font-variant-numeric:tabular-nums;white-space:nowrap}
.nvl .nvl-tiles i{font-style:normal;font-size:12px;color:var(--nvl-quiet)}
.nvl .nvl-empty{color:var(--nvl-quiet);font-style:italic}
.nvl .nvl-error{border-left:3px solid var(--nvl-red);padding-left:1em;white-space:pre-line}
.nvl .nvl-error b{font-weight:650;color:var(--nvl-red)}
.nvl .nvl-meta{color:var(--nvl-quiet);font-size:12px;line-height:1.75;margin-top:.9em;font-variant-numeric:tabular-nums}
.nvl .nvl-answer+.nvl-meta{border-top:1px solid var(--nvl-line);padding-top:.45em}
.nvl .nvl-meta span{white-space:nowrap}
.nvl .nvl-meta b{font-weight:600}.nvl .nvl-hit{color:var(--nvl-green)}
.nvl .nvl-badge{color:var(--nvl-violet);font-weight:650;font-size:.88em;letter-spacing:.06em;border:1px solid color-mix(in srgb,currentColor 45%,transparent);
border-radius:4px;padding:.08em .42em}
.nvl :is(.nvl-k,.nvl-kn,.nvl-kd,.nvl-kr,.nvl-kc,.nvl-kt,.nvl-ow,.nvl-nt){color:var(--nvl-violet)}
.nvl :is(.nvl-s,.nvl-s1,.nvl-s2,.nvl-sd,.nvl-sa,.nvl-sb,.nvl-se,.nvl-si){color:var(--nvl-green)}
.nvl :is(.nvl-c,.nvl-c1,.nvl-cm,.nvl-ch,.nvl-gu){color:var(--nvl-quiet);font-style:italic}
.nvl :is(.nvl-nf,.nvl-nc,.nvl-nd,.nvl-fm,.nvl-na){color:var(--nvl-blue)}
.nvl :is(.nvl-m,.nvl-mi,.nvl-mf,.nvl-mh,.nvl-il){color:var(--nvl-amber)}
.nvl .nvl-gi{color:var(--nvl-green)}.nvl .nvl-gd{color:var(--nvl-red)}
""".strip()


def completion_repr(c: Completion) -> str:
    """One line for terminals and logs, however long the answer is."""
    if c.content:
        shown = repr(_one_line(c.content, 80))
    elif c.tool_calls:
        names = ", ".join(call.name for call in c.tool_calls[:3])
        shown = f"calls {_one_line(names, 80)!r}"
    else:
        shown = "''"
    parts = [
        shown,
        *(["REPLAY"] if c.is_replay else []),
        _one_line(c.model, _SHOWN_NAME),
        money(c.cost),
        duration(c.latency_ms),
        f"cache {c.cache.value}",
        *([c.finish_reason] if c.finish_reason in ("length", "content_filter") else []),
    ]
    return f"Completion({', '.join(parts)})"


def completion_html(c: Completion) -> str:
    """The notebook's view: the answer, and one quiet line below it.

    Whatever the model wrote is escaped, or rendered by `novellus_lab.markdown`.
    """
    body = []
    if c.reasoning:
        body.append(
            "<details><summary>Reasoning</summary>"
            f'<div class="nvl-thought">{markdown.render(c.reasoning)}</div></details>'
        )
    if c.parsed is not None:
        body.append(_parsed(c.parsed))
    elif c.content.strip():
        body.append(markdown.render(c.content))
    body += [_tool_card(call) for call in c.tool_calls]
    if not (c.content.strip() or c.parsed is not None or c.tool_calls):
        body.append('<p class="nvl-empty">No text in this answer.</p>')
    body += [f'<div class="nvl-note">{_text(note, _SHOWN_MESSAGE)}</div>' for note in _notes(c)]
    return _page(f'<div class="nvl-answer" dir="auto">{"".join(body)}</div>{_meta(c)}')


def failure_html(failure: BatchFailure) -> str:
    """A batch item that failed: what went wrong, with which model, and what had come by then."""
    error = failure.error
    about = [f"item {failure.index}"]
    for name, label in (("model", "{}"), ("provider", "{}"), ("status_code", "HTTP {}")):
        if (value := getattr(error, name, None)) is not None:
            about.append(label.format(_text(str(value))))
    if (wait := getattr(error, "retry_after_s", None)) is not None:
        about.append(f"retry after {duration(wait * 1000)}")
    partial = getattr(error, "partial_content", None)
    came = (
        f"<details><summary>What had come by then</summary>{markdown.render(partial)}</details>"
        if partial
        else ""
    )
    return _page(
        f'<div class="nvl-error"><b>{_text(type(error).__name__)}</b>\n'
        f"{_text(str(error), _SHOWN_MESSAGE)}</div>{came}{_meta_line(about)}"
    )


def route_html(route: Route) -> str:
    """Who could have answered, and with which probability; who could not, and why."""
    rows = []
    for candidate in route.candidates:
        name = _text(candidate.model_id)
        if candidate.dropped is not None:
            told = f'<td colspan="2">{_text(candidate.dropped, _SHOWN_MESSAGE)}</td>'
        else:
            score = "" if candidate.score is None else f"{candidate.score:.4g}"
            told = f"<td>{candidate.probability:.3g}</td><td>{score}</td>"
        chosen = f"<b>{name}</b>" if candidate.model_id == route.picked else name
        rows.append(f"<tr><td>{chosen}</td>{told}</tr>")
    about = [f"<b>{_text(route.picked)}</b>", f"picked by {_text(route.strategy)}"]
    if route.rule is not None:
        about.append(f"rule {_text(route.rule)}")
    about.append(f"with probability {route.propensity:.3g}")
    if route.reason is not None:
        about.append(_text(route.reason, _SHOWN_MESSAGE))
    return _page(
        '<div class="nvl-answer"><div class="nvl-scroll"><table><thead><tr><th>candidate</th>'
        f"<th>probability</th><th>score</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"</div></div>{_meta_line(about)}"
    )


def lab_html(facts: LabFacts) -> str:
    """A lab at a glance: where it logs, who can answer, and why others can't."""
    rows = [
        (provider, ", ".join(map(_shortened, models)) or "–", "; ".join(why))
        for provider, models, why in facts.providers
    ]
    return table_html(("provider", "can be asked", "why not the others"), rows, facts.about)


def error_html(error: BaseException) -> str:
    """What went wrong, in the error's own words."""
    return _page(
        f'<div class="nvl-error"><b>{_text(type(error).__name__)}</b>\n'
        f"{_text(str(error), _SHOWN_MESSAGE)}</div>"
    )


def markdown_html(text: str, about: Sequence[str] = ()) -> str:
    """What a model, or a person, wrote: shown as Markdown, and inert."""
    body = markdown.render(text) if text.strip() else '<p class="nvl-empty">No text.</p>'
    return _page(f'<div class="nvl-answer" dir="auto">{body}</div>{_about(about)}')


def tiles_html(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Headline numbers side by side: a label, the number, and a quiet line below it."""
    shown = "".join(
        f"<div><i>{_text(label)}</i><b>{_text(value)}</b><i>{_text(detail)}</i></div>"
        for label, value, detail in tiles
    )
    return _page(f'<div class="nvl-tiles">{shown}</div>', "nvl nvl-wide")


def caption_html(title: str, sentence: str = "") -> str:
    """A title and what is to be said of it, such as above a figure."""
    said = f'<div class="nvl-meta">{_text(sentence, _SHOWN_MESSAGE)}</div>' if sentence else ""
    return _page(f"<b>{_text(title)}</b>{said}", "nvl nvl-wide nvl-caption")


def table_html(
    header: Sequence[str], rows: Iterable[Sequence[object]], about: Sequence[str] = ()
) -> str:
    """A small table of plain values, and a quiet line below."""
    return _page(f'<div class="nvl-answer">{_table(header, rows)}</div>{_about(about)}')


def findings_html(
    lead: Sequence[str],
    tables: Iterable[tuple[str, Sequence[str], Iterable[Sequence[object]]]],
    about: Sequence[str] = (),
) -> str:
    """What was found in sentences, then tables under titles, then quiet lines. All plain values."""
    told = "".join(f"<p>{_text(line, _SHOWN_MESSAGE)}</p>" for line in lead)
    shown = "".join(
        (f"<h4>{_text(title)}</h4>" if title else "")
        + f'<div class="nvl-figures">{_table(header, rows)}</div>'
        for title, header, rows in tables
    )
    quiet = "".join(f"<div>{_text(line, _SHOWN_MESSAGE)}</div>" for line in about)
    below = f'<div class="nvl-meta">{quiet}</div>' if quiet else ""
    return _page(f'<div class="nvl-answer">{told}{shown}</div>{below}')


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{_text(str(value), _SHOWN_MESSAGE)}</td>' for value in row)}</tr>"
        for row in rows
    )
    return (
        f'<div class="nvl-scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _about(lines: Sequence[str]) -> str:
    return _meta_line([_text(line, _SHOWN_MESSAGE) for line in lines]) if lines else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_NAME else f"{text[: _SHOWN_NAME - 1]}…"


def money(cost: Decimal | None) -> str:
    """US dollars: three significant digits below a dollar, cents above; "cost unknown" for None."""
    if cost is None or not cost.is_finite():
        return "cost unknown"
    if cost == 0:
        return "$0"
    if cost < Decimal("1e-12"):
        return "under $0.000000000001"
    if cost >= Decimal("0.9995"):
        return f"${cost:,.2f}"
    digits = 2 - Decimal(f"{cost:.2e}").adjusted()
    whole, _, cents = f"{cost:.{digits}f}".partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def duration(ms: float) -> str:
    """Milliseconds, in the unit that reads best."""
    if ms < 0.9995:
        return f"{ms * 1000:.0f} µs"
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"


@contextlib.contextmanager
def batch_progress(
    total: int, show: bool | None
) -> Iterator[Callable[[Completion | BatchFailure], None]]:
    """Show how far a batch has come, and what it has cost.

    Args:
        total: number of calls.
        show: None shows it in a notebook or terminal, for more than one call.
    """
    spent, failed = Decimal(0), 0
    with progress_bar(total, show, "$0") as advance:

        def on_result(result: Completion | BatchFailure) -> None:
            nonlocal spent, failed
            if hasattr(result, "error"):
                failed += 1
            else:
                spent += result.cost or Decimal(0)
            advance(money(spent) + (f", {failed} failed" if failed else ""))

        yield on_result


@contextlib.contextmanager
def steps(total: int, show: bool | None, label: str) -> Iterator[Callable[[], None]]:
    """Show how far some work has come; what is yielded is called after each step."""
    with progress_bar(total, show, label) as advance:
        yield lambda: advance(label)


@contextlib.contextmanager
def progress_bar(total: int, show: bool | None, label: str) -> Iterator[Callable[[str], None]]:
    """Show how far some work has come; what is yielded is called after each step with a new label."""
    interactive = "ipykernel" in sys.modules or sys.stderr.isatty()
    if not (show if show is not None else interactive and total > 1):
        yield lambda _label: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        Remaining(),
    )
    console = Console(stderr=not Console().is_jupyter)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        yield lambda text: progress.update(task, advance=1, description=text)


def _page(inner: str, kind: str = "nvl") -> str:
    # The last two classes keep MathJax from reading dollars as formulas.
    return f'<div class="{kind} mathjax_ignore tex2jax_ignore"><style>{_STYLE}</style>{inner}</div>'


def _parsed(value: Any) -> str:
    name = "" if isinstance(value, (dict, list, str, int, float)) else type(value).__name__
    head = f"<div><i>parsed as</i><b>{_text(name)}</b></div>" if name else ""
    return f'<div class="nvl-card">{head}<pre><code>{_json_text(value)}</code></pre></div>'


def _tool_card(call: ToolCall) -> str:
    try:
        arguments = _json_text(json.loads(call.arguments)) if call.arguments.strip() else ""
    except (ValueError, RecursionError):
        arguments = _text(call.arguments, _SHOWN_JSON)
    code = f"<pre><code>{arguments}</code></pre>" if arguments else ""
    return (
        f'<div class="nvl-card"><div><i>calls</i> <b>{_text(call.name)}</b> '
        f'<i class="nvl-id">{_text(call.id)}</i></div>{code}</div>'
    )


def _notes(c: Completion) -> list[str]:
    notes = []
    if c.finish_reason == "length":
        notes.append("Cut off at its token limit.")
    elif c.finish_reason == "content_filter":
        notes.append("The provider's content filter withheld the answer, or a part of it.")
    if c.dropped_params:
        notes.append(f"Sent without {', '.join(c.dropped_params)}: this model can't honour it.")
    return [*notes, *c.warnings]


def _meta(c: Completion) -> str:
    named = f"<b>{_text(c.model)}</b>"
    parts = [f'<span title="{_text(_origin(c), _SHOWN_MESSAGE)}">{named}</span>']
    if c.is_replay:
        parts.append('<span class="nvl-badge">REPLAY</span> recorded answer')
    elif not c.model.startswith(f"{c.provider}/"):
        parts.append(_text(c.provider))
    parts += [_cost(c), _latency(c)]
    if c.cache is not CacheOutcome.OFF:
        parts.append(_cache(c))
    parts.append(_tokens(c.usage))
    if len(c.attempts) > 1:
        story = "\n".join(_attempt(attempt) for attempt in c.attempts)
        parts.append(f'<span title="{_text(story, _SHOWN_MESSAGE)}">{_attempts(c)}</span>')
    return _meta_line(parts)


def _meta_line(parts: list[str]) -> str:
    # Spaces and dots are text, so that the line reads without its style too.
    line = " · ".join(part if part.startswith("<") else f"<span>{part}</span>" for part in parts)
    return f'<div class="nvl-meta">{line}</div>'


def _origin(c: Completion) -> str:
    """What a pointer that rests on the model's name is told."""
    lines = [f"request {c.request_id}"]
    if c.response_model and c.response_model != c.model:
        lines.append(f"answered as {c.response_model}")
    if c.route is not None:
        lines.append(
            f"picked by {c.route.strategy} with probability {c.route.propensity:.3g} "
            f"among {len(c.route.candidates)}"
        )
    return "\n".join(lines)


def _cost(c: Completion) -> str:
    saved = c.cache.hit and c.cost_saved is not None and c.cost_saved > 0
    shown = money(c.cost) + (f" (saved {money(c.cost_saved)})" if saved else "")
    if c.usage.estimated and c.cost:
        shown = f"≈ {shown}"
    bill = []
    for attempt in c.attempts:
        bill += [
            f"{line.quantity:,} {line.kind}: {money(line.cost_usd)}" for line in attempt.price.lines
        ]
        if attempt.price.reason:
            bill.append(attempt.price.reason)
        elif attempt.price.version:
            bill.append(f"price: {attempt.price.version}")
    if not bill:
        return shown
    return f'<span title="{_text(chr(10).join(bill), _SHOWN_MESSAGE)}">{shown}</span>'


def _latency(c: Completion) -> str:
    if c.ttft_ms is None:
        return duration(c.latency_ms)
    return f"{duration(c.latency_ms)} (first token {duration(c.ttft_ms)})"


def _cache(c: Completion) -> str:
    if not c.cache.hit:
        return "cache miss"
    if c.cache is CacheOutcome.COALESCED:
        label, facts = "shared with an identical call", []
    elif c.cache is CacheOutcome.SEMANTIC:
        similarity = c.cache_similarity
        label = "semantic cache hit"
        facts = [f"{similarity:.3f} similar"] if similarity is not None else []
    else:
        label, facts = "cache hit", [c.cache.value]
    if c.original_latency_ms is not None:
        facts.append(f"originally {duration(c.original_latency_ms)}")
    detail = f" ({', '.join(facts)})" if facts else ""
    hit = f'<span class="nvl-hit">{label}{detail}</span>'
    if c.cache_source_prompt:  # so that a person sees at once whether it was the same question
        asked = _text(" ".join(c.cache_source_prompt.split()))
        hit += f' <span title="{_text(c.cache_source_prompt, _SHOWN_MESSAGE)}">as “{asked}”</span>'
    return hit


def _tokens(u: Usage) -> str:
    extra = []
    if u.cached_input_tokens:
        extra.append(f"{u.cached_input_tokens:,} cached")
    if u.reasoning_tokens:
        extra.append(f"{u.reasoning_tokens:,} reasoning")
    if u.estimated:
        extra.append("estimated")
    text = f"{u.input_tokens:,} → {u.output_tokens:,} tokens"
    return f"{text} ({', '.join(extra)})" if extra else text


def _attempts(c: Completion) -> str:
    text = f"{len(c.attempts)} attempts"
    left = dict.fromkeys(a.model_id for a in c.attempts if a.model_id != c.model)
    return f"{text}, failed over from {_text(', '.join(left))}" if left else text


def _attempt(attempt: Attempt) -> str:
    end = attempt.error_class or attempt.status.value
    return f"{attempt.number}. {attempt.model_id} ({attempt.role}): {end}, {duration(attempt.latency_ms)}"


def _json_text(value: Any) -> str:
    try:
        if hasattr(value, "model_dump"):
            value = value.model_dump(mode="json")
        shown = _pretty(value)
    except (TypeError, ValueError, RecursionError):
        shown = repr(value)
    return _text(shown, _SHOWN_JSON)


def _pretty(value: Any, indent: str = "") -> str:
    """JSON that keeps on one line what fits there."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) <= _JSON_LINE or len(flat) > _SHOWN_JSON or not isinstance(value, (dict, list)):
        return flat
    inner = f"{indent}  "
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(str(key), ensure_ascii=False)}: {_pretty(item, inner)}"
            for key, item in value.items()
        ]
        start, end = "{", "}"
    else:
        rows, start, end = [_pretty(item, inner) for item in value], "[", "]"
    return f"{start}\n{inner}" + f",\n{inner}".join(rows) + f"\n{indent}{end}"


def _text(text: str, limit: int = _SHOWN_NAME) -> str:
    """Escape a text for HTML, its attributes included, and cut it to a length."""
    shown = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return escape(markdown.printable(shown))


def _one_line(text: str, length: int) -> str:
    line = " ".join(text[: 20 * length].split())
    return line if len(line) <= length and len(text) <= 20 * length else f"{line[: length - 1]}…"
