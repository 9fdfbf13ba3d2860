"""Untrusted Markdown as safe HTML.

What a model wrote may have been written by whoever wrote its input. So there is no raw HTML, no
image (loading one would tell a stranger that, and where, the answer was read), and no link but to
the web and to mail. Formulas stay as they were written: Markdown would eat their backslashes, and
TeX that is typeset may bring links of its own.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it import MarkdownIt

MAX_SHOWN = 100_000
"""Characters that are rendered; the rest of a longer text is cut off, and a note says so."""

_NESTING = 32
"""Lists and quotes deeper than this are not shown."""
_HIGHLIGHTED = 8_000
"""Characters of a code block that are worth colouring; some lexers are slow on hostile input."""
_LEXERS = frozenset(
    [
        "python",
        "py",
        "python3",
        "pycon",
        "json",
        "sql",
        "postgresql",
        "bash",
        "sh",
        "shell",
        "console",
        "yaml",
        "yml",
        "toml",
        "ini",
        "javascript",
        "js",
        "typescript",
        "ts",
        "html",
        "xml",
        "css",
        "java",
        "c",
        "cpp",
        "c++",
        "csharp",
        "go",
        "rust",
        "r",
        "ruby",
        "php",
        "kotlin",
        "swift",
        "diff",
        "dockerfile",
    ]
)
_FORMULA_ENDS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
_FORMULA_LENGTH = 2_000
_FORMULA_LINES = 60
# As Pandoc tells formulas from money: no space inside the dollars, no digit after them.
_DOLLARS = re.compile(r"\$(?!\s)(?:(?!\*\*)[^$\n`]){1,500}(?<!\s)\$(?!\d)")
# `3*2` and `2*(a+b)`, where CommonMark sees emphasis and would show 32.
_TIMES = re.compile(r"(?<=[0-9)\]])\*(?=[0-9A-Za-z($\[])|(?<=[A-Za-z])\*(?=[0-9($\[])")
_SAFE_URL = re.compile(r"(?:https?://|mailto:)[^\x00-\x20\x7f]+", re.IGNORECASE)
_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")


def render(text: str) -> str:
    """Return Markdown as HTML that may be put into any page.

    CommonMark with tables and strikethrough. Tags come from a short list, links are http, https or
    mailto and open apart, images become links. At most `MAX_SHOWN` characters are rendered.
    """
    note = ""
    if len(text) > MAX_SHOWN:
        note = (
            f'<div class="nvl-note">Shown: the first {MAX_SHOWN:,} of {len(text):,} characters. '
            "<code>.content</code> holds them all.</div>"
        )
        text = text[:MAX_SHOWN]
    html: str = _renderer().render(printable(text))
    return html + note


def printable(text: str) -> str:
    """Replace what UTF-8 or HTML can't hold (NUL, lone surrogates) with the replacement character."""
    return _UNENCODABLE.sub("\ufffd", text)


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt(
        "commonmark",
        # A model that ends a line means it: sums stand one below the other.
        {"html": False, "breaks": True, "maxNesting": _NESTING, "highlight": _highlight},
    )
    markdown.enable(["table", "strikethrough"])
    markdown.disable(["html_block", "html_inline"])
    markdown.validateLink = _is_safe  # type: ignore[method-assign]
    markdown.inline.ruler.before("escape", "formula", _inline_formula)
    markdown.inline.ruler.before("emphasis", "times", _times)
    markdown.block.ruler.before(
        "fence", "formula_block", _block_formula, {"alt": ["paragraph", "blockquote", "list"]}
    )
    markdown.core.ruler.push("links", _guard_links)
    markdown.add_render_rule("image", _image_as_link)
    markdown.add_render_rule("formula", _formula_as_text)
    markdown.add_render_rule("formula_block", _formula_as_text)
    markdown.add_render_rule("table_open", lambda *_: '<div class="nvl-scroll"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown


def _is_safe(url: str) -> bool:
    return _SAFE_URL.fullmatch(url) is not None


def _guard_links(state: Any) -> None:
    """Open links apart and without a referrer; leave out those that stand, as images do, in one."""
    for block in state.tokens:
        depth = 0
        for token in block.children or ():
            if token.type == "link_open":
                depth += 1
                if depth > 1:  # an address in angle brackets, within a link's text
                    token.type = "text"
                token.attrs |= {"target": "_blank", "rel": "noopener noreferrer nofollow"}
            elif token.type == "link_close":
                if depth > 1:
                    token.type = "text"
                depth -= 1
            elif token.type == "image":
                token.meta["in_link"] = depth > 0


def _image_as_link(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    alt = self.renderInlineAsText(token.children or (), options, env)
    label = escape(f"image: {alt}" if alt else "image")
    if token.meta["in_link"]:
        return label
    return (
        f'<a class="nvl-image" href="{escape(str(token.attrs["src"]))}" target="_blank" '
        f'rel="noopener noreferrer nofollow">{label}</a>'
    )


def _inline_formula(state: Any, silent: bool) -> bool:
    src, start = state.src, state.pos
    if (closer := _FORMULA_ENDS.get(src[start : start + 2])) is not None:
        found = src.find(closer, start + 2, min(start + _FORMULA_LENGTH, state.posMax))
        end = found + 2
        if found < 0:
            return False
    elif src[start] == "$" and (match := _DOLLARS.match(src, start, state.posMax)):
        end = match.end()
    else:
        return False
    if not silent:
        state.push("formula", "span", 0).content = src[start:end]
    state.pos = end
    return True


def _times(state: Any, silent: bool) -> bool:
    if not _TIMES.match(state.src, state.pos, state.posMax):
        return False
    if not silent:
        state.pending += "*"
    state.pos += 1
    return True


def _block_formula(state: Any, start: int, end: int, silent: bool) -> bool:
    """Formulas over several lines, where a line may begin with what Markdown takes for a list."""
    if state.is_code_block(start):
        return False
    first = state.bMarks[start] + state.tShift[start]
    opener = state.src[first : first + 2]
    if opener not in ("\\[", "$$"):
        return False
    for line in range(start, min(end, start + _FORMULA_LINES)):
        if state.sCount[line] < state.blkIndent:
            return False
        begin = first + 2 if line == start else state.bMarks[line] + state.tShift[line]
        text = state.src[begin : state.eMarks[line]].rstrip()
        if _FORMULA_ENDS[opener] in text:
            if not text.endswith(_FORMULA_ENDS[opener]):
                return False
            break
    else:
        return False
    if not silent:
        token = state.push("formula_block", "div", 0)
        token.block = True
        token.content = state.getLines(start, line + 1, state.blkIndent, False)
        state.line = line + 1
    return True


def _formula_as_text(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    end = "\n" if token.block else ""
    return f'<{token.tag} class="nvl-formula">{escape(token.content.strip())}</{token.tag}>{end}'


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Colour a code block; an empty answer leaves it plain."""
    if language.lower() not in _LEXERS or len(code) > _HIGHLIGHTED:
        return ""
    from pygments import highlight
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(language.lower(), stripnl=False)
    coloured: str = highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="nvl-"))
    return coloured
