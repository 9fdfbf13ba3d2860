"""A cost report says what the log says, in every format, whatever prompts and names hold."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import openpyxl
import psycopg
import pytest
from typer.testing import CliRunner

from novellus_lab import Lab
from novellus_lab.analytics.cost_change import total
from novellus_lab.cli import app
from novellus_lab.errors import ConfigurationError, InvalidRequestError, NovellusError
from novellus_lab.reports.period import report_period
from tests.conftest import _fresh_database
from tests.made_up_spending import EVIL, MODELS, History, Model, rows, write

HOSTILE = Model(f"=cmd|{EVIL}", Decimal("0.000001"), Decimal("0.000002"), 0.05, 500)


@pytest.fixture(scope="module")
def lab(server: Any, template: str, tmp_path_factory: Any) -> Any:
    budgets = [{"name": "all", "usd": 30, "per": "month"}]
    with (
        _fresh_database(server, template) as database,
        Lab(
            config={"models": [], "budgets": budgets},
            database_url=database.conninfo,
            home=tmp_path_factory.mktemp("report") / "h",
        ) as lab,
    ):
        history = History(
            days=20, a_day=110, evil=True, models=(*MODELS, HOSTILE), teams=("a", "+b", "@SUM(1)|x")
        )
        write(database.conninfo, rows(history), scored=0.3)
        yield lab


@pytest.fixture(scope="module")
def report(lab: Lab) -> Any:
    return lab.cost_report("10d")


def table(report: Any, name: str) -> Any:
    [found] = [one for one in report.document.tables if one.name == name]
    return found


def test_what_drove_the_change_adds_up_to_postgresqls_difference(lab: Lab, report: Any) -> None:
    found = re.search(r"(\S+ \S+) to (\S+ \S+) \(UTC\)", report.document.subtitle)
    assert found is not None
    with psycopg.connect(lab._database.conninfo) as connection:
        [[difference]] = connection.execute(
            "SELECT sum(CASE WHEN created_at >= now() - interval '10 days' THEN cost_usd ELSE -cost_usd END) "
            "FROM ai_requests WHERE created_at >= now() - interval '20 days'"
        ).fetchall()
    assert abs(report.change.difference_usd - difference) < Decimal("0.2")  # the clock went on
    assert total(report.change.parts.values()) == report.change.difference_usd
    drivers = table(report, "drivers")
    shown = [row[2] for row in drivers.rows]
    assert sum(shown[:-1]) == shown[-1]
    assert all(part.as_tuple().exponent >= -drivers.digits for part in shown)
    for row in table(report, "drivers_by_model").rows:
        assert row[1] + sum(row[3:8]) == row[2]
        assert row[2] - row[1] == row[8]
    assert report.change.parts["price"] < 0  # a price was cut by a fifth
    assert report.change.parts["volume"] > 0
    assert report.change.parts["cache"] < 0
    claude = next(m for m in report.change.models if m.model == "claude-3-5-sonnet")
    others = [m for m in report.change.models if m.model == "gpt-4o"]
    assert claude.parts["price"] < -abs(others[0].parts["price"]) * 10


def test_amounts_are_the_frames_and_unpriced_requests_are_counted(lab: Lab) -> None:
    now = datetime.now(UTC)
    report = lab.cost_report((now - timedelta(days=10), now))
    frame = lab.analytics.costs(now - timedelta(days=10), until=now, by="model")
    wanted = {
        row["model"]: (row["requests"], row["unpriced"], row["cost_usd"])
        for row in frame.to_dicts()
    }
    assert {row[0]: row[1:4] for row in table(report, "models").rows} == wanted
    days = table(report, "days")
    assert total(row[4] for row in days.rows if row[4] is not None) == total(
        cost for _, _, cost in wanted.values() if cost is not None
    )
    unpriced = sum(n for _, n, _ in wanted.values())
    share = unpriced / sum(n for n, _, _ in wanted.values())
    assert any(
        f"{unpriced:,} of them ({share:.1%}) have no price" in line for line in report.document.lead
    )
    [headline] = [one for one in report.document.headlines if one.label == "without a price"]
    assert headline.now == f"{share:.1%}"


def test_every_query_of_the_appendix_gives_its_table_again(lab: Lab) -> None:
    # A tag's key with a question mark, and a value with a quote, must come whole into the text.
    report = lab.cost_report("10d", tag={"team": ["a", "+b", "it's ?"]})
    asked = [one for one in report.document.tables if one.sql]
    assert len(asked) > 8
    for one in asked:
        found = lab.sql(one.sql).fetchall()
        if one.name in ("models", "days", "sessions", "repeats"):
            amount = max(n for n, column in enumerate(one.columns) if column.kind == "usd")
            assert [row[amount - len(one.columns)] for row in one.rows if one.name != "models"] == [
                row[-1] for row in found[: len(one.rows)] if one.name != "models"
            ]
    days = table(report, "days")
    assert [tuple(row) for row in lab.sql(days.sql).fetchall()] == list(days.rows)


def test_the_page_stands_alone_and_prompts_are_text(report: Any, tmp_path: Any) -> None:
    page = report.save(tmp_path / "made" / "report.html").read_text(encoding="utf-8")
    ours = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<script" not in ours
    assert "&lt;script&gt;alert(#)&lt;/script&gt;" in ours
    assert page.count("/*! For license information") + page.count("plotly.js v") >= 1
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "cdn" not in ours
    drawn = "".join(re.findall(r"Plotly\.newPlot\((.*?)\)\s*}", page, flags=re.S))
    assert "<script" not in drawn
    assert ours.count('class="plotly-graph-div"') == 4


def test_markdown_escapes_what_it_did_not_write(report: Any, tmp_path: Any) -> None:
    text = report.save(tmp_path / "r.md").read_text(encoding="utf-8")
    body = text.partition("## Appendix")[0]
    assert "<script" not in body
    assert r"\=cmd" in body or "=cmd\\|" in body
    assert "| gpt\\-4o |" in body
    for line in body.splitlines():
        if line.startswith("|") and "---" not in line:
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            assert cells in (3, 4, 5, 6, 7, 8, 9), line


def test_no_cell_of_the_workbook_is_a_formula(report: Any, tmp_path: Any) -> None:
    book = openpyxl.load_workbook(report.save(tmp_path / "r.xlsx"))
    assert book.sheetnames[0] == "Summary"
    assert {one.name for one in report.document.tables} == set(book.sheetnames[1:])
    texts = []
    for sheet in book:
        for row in sheet.iter_rows():
            for cell in row:
                assert cell.data_type != "f"
                if isinstance(cell.value, str) and cell.value.startswith(("=", "+", "@")):
                    assert cell.quotePrefix or sheet.title == "Summary", cell.value
                    texts.append(cell.value)
    assert any(text.startswith("=cmd") for text in texts)
    models = list(book["models"].iter_rows(values_only=True))
    assert models[0][3] == "spend"
    assert isinstance(models[1][3], float)


def test_csv_is_guarded_and_exact(report: Any, tmp_path: Any) -> None:
    target = report.save(tmp_path / "r.csv")
    with target.open(encoding="utf-8-sig", newline="") as file:
        header, *body = csv.reader(file)
    assert header == ["day", "model", "requests", "without a price", "spend", "saved by the cache"]
    names = {row[1] for row in body}
    assert f"'=cmd|{EVIL}" in names
    assert {row[4] for row in body if row[1] == "house-llm"} <= {"", "0.000000000000000"}
    assert sum(Decimal(row[4]) for row in body if row[4]) == total(
        row[4] for row in table(report, "days").rows if row[4] is not None
    )
    with (tmp_path / "r-tags.csv").open(encoding="utf-8-sig", newline="") as file:
        values = {row[1] for row in csv.reader(file)}
    assert {"'@SUM(1)|x", "'+b", "a"} <= values


def test_a_notebook_shows_the_essence(report: Any) -> None:
    shown = report._repr_html_()
    assert report.document.lead[0].split(" cost ")[0] in shown
    assert "<script" not in shown
    assert report.document.lead[0] in repr(report)


def test_templates_can_be_replaced(lab: Lab, tmp_path: Any) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "cost_report.html.j2").write_text(
        "<h1>{{ report.title }}</h1>{{ report.document }}"
        "{% for t in report.tables %}{% for row in t.shown %}{{ row | join(' ') }}{% endfor %}{% endfor %}"
    )
    report = lab.cost_report("10d", templates=own)
    with pytest.raises(ConfigurationError, match=r"cost_report\.html\.j2 can't be used.*document"):
        report.html()
    (own / "cost_report.html.j2").write_text(
        "<h1>{{ report.title }}</h1>{% for t in report.tables %}{% for row in t.shown %}"
        "{{ row | join(' ') }}{% endfor %}{% endfor %}"
    )
    page = report.html()
    assert page.startswith("<h1>Cost report: the last 10 days</h1>")
    assert "<script" not in page
    assert "# Cost report" in report.markdown()  # the package's own, where there is none of yours
    with pytest.raises(ConfigurationError, match="no directory"):
        lab.cost_report("10d", templates=tmp_path / "nowhere").html()


def test_a_log_without_requests_makes_a_report_that_says_so(make_lab: Any, tmp_path: Any) -> None:
    report = make_lab().cost_report("7d")
    assert report.document.lead[0] == "No requests in this period."
    for suffix in ("html", "md", "xlsx", "csv"):
        assert report.save(tmp_path / f"empty.{suffix}").stat().st_size
    assert not report.change.models


def test_wrong_arguments_are_refused_before_anything_is_asked(
    lab: Lab, report: Any, tmp_path: Any
) -> None:
    for period in ("soon", ("2026-02-01", "2026-01-01"), "0d", 7, ("x", "y"), "99999999d"):
        with pytest.raises(InvalidRequestError):
            lab.cost_report(period)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="there is no filter 'teem'"):
        lab.cost_report("7d", teem="a")  # type: ignore[call-arg]
    with pytest.raises(InvalidRequestError, match=r"saved as \.html"):
        report.save(tmp_path / "r.docx")
    (tmp_path / "file").write_text("")
    with pytest.raises(NovellusError, match="can't be written"):
        report.save(tmp_path / "file" / "r.html")


async def test_the_async_twin(lab: Lab) -> None:
    report = await lab.acost_report("last week", tz="Europe/Berlin")
    assert "the week from" in report.document.title


@pytest.mark.parametrize(
    ("period", "edges"),
    [
        ("7d", ("2026-03-17 11:00", "2026-03-24 11:00", "2026-03-31 12:00")),
        ("last month", ("2026-01-01 00:00", "2026-02-01 00:00", "2026-03-01 00:00")),
        ("last week", ("2026-03-16 00:00", "2026-03-23 00:00", "2026-03-30 00:00")),
        ("month", ("2026-01-29 13:00", "2026-03-01 00:00", "2026-03-31 12:00")),
        (
            ("2026-03-10", "2026-03-12"),
            ("2026-03-08 00:00", "2026-03-10 00:00", "2026-03-12 00:00"),
        ),
    ],
)
def test_periods_on_a_clock_that_changes(period: Any, edges: tuple[str, ...]) -> None:
    # Berlin's clocks go forward on 2026-03-29: lengths are of time that passed, not of the clock.
    now = datetime(2026, 3, 31, 10, 0, tzinfo=UTC)
    found = report_period(period, None, "Europe/Berlin", now)
    shown = [f"{edge:%Y-%m-%d %H:%M}" for edge in (found.before, found.start, found.end)]
    assert tuple(shown) == edges


def test_the_command_writes_a_report_and_says_the_essence(lab: Lab, tmp_path: Any) -> None:
    to = tmp_path / "out" / "cost.md"
    where = ["--database-url", lab._database.conninfo, "--home", str(tmp_path / "h")]
    done = CliRunner().invoke(
        app, ["report", str(to), "--period", "10d", "--tag", "team=a", *where]
    )
    assert done.exit_code == 0, done.output
    assert f"written to {to}" in done.output.replace("\n", "")
    assert "only tag" in to.read_text(encoding="utf-8")
    for wrong in (["x.docx"], [str(to), "--tag", "team"], [str(to), "--period", "soon"]):
        assert CliRunner().invoke(app, ["report", *wrong, *where]).exit_code != 0
