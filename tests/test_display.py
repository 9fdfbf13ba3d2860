"""How answers show themselves, and that what a model writes can't harm the page."""

from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from novellus_lab.display import (
    LabFacts,
    completion_html,
    completion_repr,
    duration,
    failure_html,
    lab_html,
    money,
)
from novellus_lab.errors import ProviderUnavailableError
from novellus_lab.markdown import MAX_SHOWN, render
from novellus_lab.types import (
    BatchFailure,
    CacheOutcome,
    Candidate,
    Completion,
    Route,
    ToolCall,
    Usage,
)
from tests.display_samples import HOSTILE, LONG, Invoice, attempt, completion, samples

SAMPLES = dict(samples())

ALLOWED = {
    "a", "b", "blockquote", "br", "code", "details", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol",
    "p", "pre", "s", "span", "strong", "style", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {
    ("a", "class"), ("a", "href"), ("a", "rel"), ("a", "target"), ("a", "title"),
    ("code", "class"), ("div", "class"), ("div", "dir"), ("i", "class"), ("ol", "start"),
    ("p", "class"), ("span", "class"), ("span", "title"), ("td", "colspan"), ("td", "style"), ("th", "style"),
}  # fmt: skip
VOID = {"br", "hr"}


class Page(HTMLParser):
    """Reads HTML, refuses what no view may hold, and keeps the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.styles = 0
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}>"
        for name, value in attrs:
            assert (tag, name) in ATTRIBUTES, f"<{tag} {name}={value!r}>"
            if name == "href":
                assert value is not None
                assert re.match(r"(https?://|mailto:)", value, re.IGNORECASE), value
                self.links.append(value)
            if name == "style":
                assert value in ("text-align:left", "text-align:right", "text-align:center")
            if name == "class" and tag == "div":
                assert str(value).startswith("nvl")
        if tag == "a":
            assert dict(attrs)["rel"] == "noopener noreferrer nofollow"
            assert dict(attrs)["target"] == "_blank"
            assert "a" not in self.open, "a link inside a link"
        self.styles += tag == "style"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl}")

    handle_pi = unknown_decl = handle_decl

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(result: Completion | BatchFailure) -> Page:
    return Page(result._repr_html_())


# Text that is likely to hit the seams: pieces of Markdown and HTML, put together at random.
pieces = st.sampled_from(
    [
        "<script>",
        "</script>",
        "<img/src=x/onerror=alert(1)>",
        "<svg/onload=x>",
        "](javascript:x)",
        "](data:text/html,x)",
        '](https://a.b/c"onx=y)',
        "![",
        "[",
        "](",
        ")",
        "](http://a.b)",
        "<http://x.y>",
        "<javascript:x>",
        "[a]:javascript:x",
        "[a]",
        "```",
        "~~~",
        "`",
        "**",
        "_",
        "~~",
        "|",
        "|-|",
        "|:-:|",
        ">",
        "-",
        "1.",
        "#",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\\",
        '"',
        "'",
        "'",
        "onclick=",
        "&lt;script&gt;",
        "&#x6a;avascript:",
        "<!--",
        "-->",
        "<![CDATA[",
        "<?php",
        "]]>",
        "</style>",
        "</div>",
        "python",
        "html",
        "diff",
        "<a@b.c>",
        "](mailto:a@b)",
        "](vbscript:x)",
        "](//evil)",
        "](<java",
        "script:x>)",
    ]
)
seams = st.lists(
    st.one_of(pieces, st.sampled_from([" ", "\n", "\n\n", "    ", "\t", "\x00", "\ud800", "\u202e"]), st.text(max_size=4)),
    max_size=40,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(seams)
@example("<![CDATA[<a@b.c>](http://a.b)")
def test_no_text_brings_in_markup_or_addresses_of_its_own(text: str) -> None:
    html = render(text)
    page = Page(html)
    assert page.styles == 0
    html.encode()  # what can't be encoded would break the notebook's message
    assert "\x00" not in html


@settings(max_examples=150, deadline=None)
@given(seams, seams)
def test_no_field_of_an_answer_brings_in_markup(text: str, other: str) -> None:
    page = read(
        completion(
            text,
            model=other,
            provider=text,
            reasoning=other,
            tool_calls=(ToolCall(text, other, text), ToolCall(other, text, f'{{"a": "{other}"}}')),
            warnings=(other,),
            dropped_params=(text,),
            response_model=other,
            attempts=(attempt(1, other, error_class=text), attempt(2, text)),
            parsed=None if len(text) % 2 else {text: other},
        )
    )
    assert page.styles == 1
    failed = ProviderUnavailableError(text, model=other)
    failed.partial_content = other
    assert Page(failure_html(BatchFailure(failed, 0))).styles == 1


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=400), st.text(max_size=200))
def test_the_repr_is_one_short_line(text: str, model: str) -> None:
    shown = completion_repr(completion(text, model=model.replace("\n", " ")))
    assert len(shown) < 1000
    assert shown.startswith("Completion(")
    assert len(repr(completion(text))) < 500


def test_hostile_content_stays_text() -> None:
    page = read(SAMPLES["Hostile"])
    assert "<script>document.title = 'owned'</script>" in page.text
    assert page.links == ["https://evil.example/pixel.png?secret=1"]
    assert HOSTILE.count("<script>") >= 4


def test_an_image_becomes_a_link_and_one_inside_a_link_its_text() -> None:
    html = render("![a *cat*](https://e.x/c.png) [![badge](https://e.x/b.png)](https://e.x)")
    assert Page(html).text == "image: a cat image: badge"
    assert Page(html).links == ["https://e.x/c.png", "https://e.x"]


def test_markdown_shows_as_it_is_meant() -> None:
    html = render(LONG)
    Page(html)
    for tag in ("h1", "table", "ol", "ul", "s", "blockquote", "hr /", "em", "strong"):
        assert f"<{tag}>" in html
    assert '<td style="text-align:right">450</td>' in html
    assert 'class="language-python"' in html
    assert '<span class="nvl-k">def</span>' in html


@pytest.mark.parametrize(
    "formula",
    [r"\(a_1*b*c\)", r"\[ x * y * z \]", r"$a*b*c$", r"$$ a*b*c $$", "\\[\n+ x\n- y\n\\]"],
)
def test_formulas_stay_as_they_were_written(formula: str) -> None:
    html = render(f"before\n\n{formula}\n\nafter")
    assert "<em>" not in html
    assert "<li>" not in html
    assert Page(html).text == f"before {' '.join(formula.split())} after"


def test_money_in_prose_is_no_formula() -> None:
    assert "nvl-formula" not in render("It costs $5 and $10, or $5-$10, **not** US$ 3.")
    assert "<strong>not</strong>" in render("It costs $5, **not** $6.")


def test_mathjax_leaves_the_view_alone() -> None:
    assert 'class="nvl mathjax_ignore tex2jax_ignore"' in completion_html(completion())


def test_ten_megabytes_show_their_beginning_and_say_so() -> None:
    huge = "A *long* line.\n\n" * 700_000
    html = completion_html(completion(huge, reasoning=huge, parsed=None))
    assert len(html) < 12 * MAX_SHOWN
    assert f"the first {MAX_SHOWN:,} of {len(huge):,} characters" in Page(html).text
    assert len(repr(completion(huge))) < 200
    call = ToolCall("1", "f", '{"a": "' + "x" * 10_000_000 + '"}')
    assert len(completion_html(completion("", tool_calls=(call,), parsed={"a": huge}))) < MAX_SHOWN


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "![",
        "*a ",
        "`",
        "> ",
        "|",
        "- ",
        "[a](",
        "$",
        "\\(",
        "\\[\n",
        "~~",
        "<",
        "&",
        "**a*b_c_",
    ],
)
def test_no_repetition_hangs_the_renderer(piece: str) -> None:
    Page(render(piece * (MAX_SHOWN // len(piece))))


LINES = {
    "A short answer": "gpt-4o-mini · openai · $0.000123 · 812 ms · cache miss · 24 → 187 tokens",
    "A long answer": "claude-sonnet-4-5 · anthropic · $0.0123 · 6.4 s (first token 388 ms) · cache miss · "
    "1,024 → 2,210 tokens (896 cached, 512 reasoning)",
    "A cache hit": "gpt-4o-mini · openai · $0 (saved $0.00118) · 48 µs · "
    "cache hit (memory, originally 1.8 s) · 24 → 187 tokens",
    "A semantic hit": "semantic cache hit (0.973 similar, originally 1.8 s)",
    "Unknown cost": "my-own-llama · ollama · cost unknown · 812 ms · 24 → 187 tokens",
    "Replay": "replay/gpt-4-1106-preview · REPLAY recorded answer · $0.00214",
    "Failover, cut off, estimated": "≈ $0.000123 · 812 ms · cache miss · 24 → 4 tokens (estimated) · "
    "2 attempts, failed over from gpt-4o",
    "A failure": "item 3 · gpt-4o · openai · HTTP 429 · retry after 20.0 s",
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_the_quiet_line_says_where_the_answer_came_from(name: str) -> None:
    assert LINES[name] in read(SAMPLES[name]).text


def test_the_bill_and_the_attempts_are_told_to_the_pointer() -> None:
    html = SAMPLES["Failover, cut off, estimated"]._repr_html_()
    assert "24 input: $0.0000036\n199 output: $0.000119\nprice: genai-prices 0.2.3" in html
    assert "1. gpt-4o (primary): RateLimitError, 420 ms\n2. gpt-4o-mini (failover): ok" in html
    assert (
        "picked by weighted with probability 0.7 among 2" in SAMPLES["A short answer"]._repr_html_()
    )


def test_tool_calls_show_their_arguments() -> None:
    text = read(SAMPLES["Tool calls"]).text
    assert 'calls get_weather call_9fK2{"city": "Zürich", "days": 3, "units": ["C", "mm"]}' in text
    assert "{broken <json>" in text


def test_arguments_keep_their_numbers() -> None:
    call = ToolCall(
        "1", "f", '{"big": 12345678901234567890123, "deep": ' + "[" * 2000 + "]" * 2000 + "}"
    )
    assert "12345678901234567890123" in read(completion("", tool_calls=(call,))).text


def test_parsed_data_replaces_its_text() -> None:
    assert "parsed as" in read(SAMPLES["Structured"]).text
    assert '"number": "R-17"' in read(SAMPLES["Structured"]).text
    assert read(completion("[1]", parsed=[1])).text.startswith("[1]")
    assert (
        "Invoice("
        not in read(completion("x", parsed=Invoice(number="1", total=Decimal(1), items=[]))).text
    )
    assert "object at" in read(completion("x", parsed={1: object()})).text


def test_what_is_wrong_with_an_answer_is_flagged() -> None:
    text = read(SAMPLES["Failover, cut off, estimated"]).text
    assert "Cut off at its token limit." in text
    assert "Sent without seed" in text
    assert "content filter" in read(completion("", finish_reason="content_filter")).text
    assert "No text in this answer." in read(SAMPLES["Nothing"]).text


def test_a_replayed_answer_is_labelled_everywhere() -> None:
    assert "REPLAY" in repr(SAMPLES["Replay"])
    assert "REPLAY" in read(SAMPLES["Replay"]).text


def test_the_repr_names_what_matters() -> None:
    assert repr(completion()) == "Completion('Blue.', gpt-4o-mini, $0.000123, 812 ms, cache miss)"
    assert repr(SAMPLES["Tool calls"]).startswith("Completion(calls 'get_weather, get_time', ")
    assert "cost unknown" in repr(SAMPLES["Unknown cost"])
    assert "length" in repr(completion(finish_reason="length"))


def test_a_shared_call_says_so() -> None:
    assert (
        "shared with an identical call"
        in read(completion(cache=CacheOutcome.COALESCED, cost=Decimal(0))).text
    )


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, "cost unknown"),
        ("0", "$0"),
        ("0.000123", "$0.000123"),
        ("0.00000012345", "$0.000000123"),
        ("0.5", "$0.50"),
        ("0.09999", "$0.10"),
        ("0.9994", "$0.999"),
        ("0.9999", "$1.00"),
        ("12.345", "$12.34"),
        ("12345.6", "$12,345.60"),
        ("1e-15", "under $0.000000000001"),
        ("NaN", "cost unknown"),
    ],
)
def test_money_is_never_rounded_to_nothing(cost: str | None, shown: str) -> None:
    assert money(None if cost is None else Decimal(cost)) == shown


@given(st.decimals("1e-12", "1e6", allow_nan=False, allow_infinity=False))
def test_shown_money_is_within_half_a_percent(cost: Decimal) -> None:
    shown = Decimal(money(cost).removeprefix("$").replace(",", ""))
    assert abs(shown - cost) <= cost * Decimal("0.0051")


@pytest.mark.parametrize(
    ("ms", "shown"),
    [(0.048, "48 µs"), (0.9999, "1.0 ms"), (9.96, "10 ms"), (999.6, "1.0 s"), (59_960, "1 min 0 s"), (119_700, "2 min 0 s")],
)  # fmt: skip
def test_durations_carry_over_at_their_limits(ms: float, shown: str) -> None:
    assert duration(ms) == shown


def test_the_view_loads_nothing_and_runs_nothing() -> None:
    for result in SAMPLES.values():
        style = re.findall(r"<style>(.*?)</style>", result._repr_html_(), re.DOTALL)
        assert len(style) == 1
        assert not re.search(r"url\(|@import|@font-face|expression", style[0])
        for rule in re.sub(r"\s+", " ", style[0]).split("}"):
            assert rule.strip() == "" or rule.strip().startswith(".nvl"), rule


def test_usage_without_tokens_is_shown_as_it_is() -> None:
    assert "0 → 0 tokens" in read(completion(usage=Usage())).text


def test_a_route_shows_who_could_have_answered_and_escapes_them() -> None:
    route = Route(
        "weighted",
        (
            Candidate("a<b>", 0.25, score=1.0),
            Candidate("c", 0.75, score=3.0),
            Candidate("d", dropped="no <i>vision</i>"),
        ),
        picked="c",
        propensity=0.75,
        rule="night & day",
    )
    words = " ".join(Page(route._repr_html_()).words)
    for told in ("a<b>", "0.25", "no <i>vision</i>", "picked by weighted", "rule night & day"):
        assert told in words


def test_a_lab_shows_who_can_be_asked_and_why_others_can_not() -> None:
    facts = LabFacts(
        ("Lab", "logs to <somewhere>"),
        (("openai", ("gpt-4o",), ()), ("google", (), ("GOOGLE_API_KEY is not set",))),
    )
    words = " ".join(Page(lab_html(facts)).words)
    for told in ("logs to <somewhere>", "gpt-4o", "GOOGLE_API_KEY is not set"):
        assert told in words


@pytest.mark.parametrize(
    "product", ["3*2=6 and 2*1=2", "2*(3+4)*5", "x*2 + y*3", "(a)*(b)*(c)", "$<<3*2=6>>6. 2*$1"]
)
def test_a_product_is_shown_as_it_was_written(product: str) -> None:
    assert product in "".join(Page(f"<div>{render(product)}</div>").words)


def test_emphasis_is_still_emphasis() -> None:
    assert "<em>two bagels</em>" in render("cost of *two bagels* here")
    assert "<strong>42</strong>" in render("it is **42**.")
    assert "<strong>粗体</strong>" in render("中文**粗体**中文")
    assert "<em>5</em>" in render("(*5*)")


def test_usage_names_only_the_kinds_that_are_there() -> None:
    assert repr(Usage(3, 0)) == "Usage(input_tokens=3, output_tokens=0)"
    assert "cached_input_tokens=2" in repr(Usage(3, 1, cached_input_tokens=2))


def test_lines_stay_lines() -> None:
    assert re.search(r"a = 1<br\s*/?>\s*b = 2", render("a = 1\nb = 2"))
