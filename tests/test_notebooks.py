"""The notebooks and the example run from top to bottom, as a newcomer would run them: no key, no Ollama."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest
from nbclient import NotebookClient
from psycopg.rows import dict_row

from novellus_lab.store.database import open_database, resolve_home
from tests.embedded_homes import remove_state

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run(path: Path, directory: Path) -> Any:
    notebook = read(path)
    where = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, timeout=100, kernel_name="python3", resources=where).execute()
    return notebook


def rows(home: Path, query: str) -> list[dict[str, Any]]:
    database = open_database(resolve_home(home), None)
    try:
        with psycopg.connect(database.conninfo, row_factory=dict_row) as connection:
            return connection.execute(query.encode()).fetchall()
    finally:
        database.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_valid_and_carry_no_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_quickstart_shows_answers_a_hit_and_a_failover_and_their_rows(tmp_path: Path) -> None:
    try:
        notebook = run(ROOT / "notebooks" / "01_quickstart.ipynb", tmp_path)
        run(ROOT / "notebooks" / "01_quickstart.ipynb", tmp_path)  # and once more, on what is there
        shown = "\n".join(
            "".join(output.get("data", {}).get("text/html", "")) for cell in notebook.cells
            for output in cell.get("outputs", ())
        )  # fmt: skip
        assert "REPLAY" in shown
        assert "cache hit" in shown
        assert "failed over from replay/gpt-4-1106-preview" in shown

        log = rows(tmp_path / ".novellus", "SELECT * FROM ai_requests")
        assert {"ok", "refused"} == {row["status"] for row in log}
        assert {"miss", "memory", "postgres", "off"} <= {row["cache"] for row in log}
        assert {row["provider"] for row in log if row["status"] == "ok"} == {"replay"}
        saved = [row for row in log if row["attempts"] > 1]
        assert saved
        for row in saved:
            assert row["picked_model"] == "replay/gpt-4-1106-preview"
            assert row["model"] == "replay/mixtral-8x7b-instruct"
        tried = rows(tmp_path / ".novellus", "SELECT role FROM ai_request_attempts")
        assert {"primary", "retry", "failover"} <= {row["role"] for row in tried}
    finally:
        remove_state(tmp_path / ".novellus")


def test_the_caching_notebook_shows_hits_calibration_and_their_rows(tmp_path: Path) -> None:
    try:
        notebook = run(ROOT / "notebooks" / "02_caching.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = "\n".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
        assert "semantic cache hit" in shown
        assert "bound holds in 95% of calibrations" in shown
        assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs)
        log = rows(tmp_path / ".novellus", "SELECT * FROM ai_requests")
        assert {"miss", "memory", "semantic"} <= {row["cache"] for row in log}
    finally:
        remove_state(tmp_path / ".novellus")


def test_the_routing_notebook_fails_over_downgrades_and_draws_the_curve(tmp_path: Path) -> None:
    try:
        notebook = run(ROOT / "notebooks" / "03_routing.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        told = "\n".join(
            "".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", ""))
            for o in outputs
        )
        assert "BudgetExceededError" in told
        assert "budget 'demo'" in told
        assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs)
        log = rows(tmp_path / ".novellus", "SELECT * FROM ai_requests")
        assert {"priority", "cost_optimized", "explicit"} <= {row["strategy"] for row in log}
        assert any(row["attempts"] > 1 for row in log)
    finally:
        remove_state(tmp_path / ".novellus")


def test_the_anomalies_notebook_walks_from_an_alarm_to_its_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it keeps its made-up log
    try:
        notebook = run(ROOT / "notebooks" / "04_anomalies.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = "\n".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
        told = "\n".join("".join(o.get("data", {}).get("text/plain", "")) for o in outputs)
        assert "of it by tag team search" in shown
        assert "output length drop" in shown
        assert "high error_rate of replay/mixtral-8x7b-instruct" in told
        # Two of anomalies, and one for each that the overview shows: chance may add one to the faults.
        assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs) >= 3
        (home,) = tmp_path.glob("novellus-made-up-*")
        found = rows(home, "SELECT kind, model_id, note FROM ai_anomalies")
        assert {"latency", "error_rate", "output_length_drop"} <= {row["kind"] for row in found}
        notes = [row["note"] for row in found if row["kind"] == "latency"]
        assert "the search team's index was rebuilt" in notes
    finally:
        for home in tmp_path.glob("novellus-made-up-*"):
            remove_state(home)


def test_the_cost_report_finds_what_changed_and_tests_the_cheaper_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it keeps its made-up log
    try:
        notebook = run(ROOT / "notebooks" / "07_cost_report.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        told = "\n".join(
            "".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", ""))
            for o in outputs
        )
        signs = dict(re.findall(r"^ *(volume|mix|cache|length|price) +([+-])", told, re.M))
        assert signs == {"volume": "+", "mix": "+", "cache": "-", "length": "+", "price": "-"}
        assert "not advised  ask replay/mixtral-8x7b-instruct" in told
        assert "on 100 prompts that numeric scored for both" in told
        assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs) == 1
    finally:
        for home in tmp_path.glob("novellus-made-up-*"):
            remove_state(home)


def test_the_example_runs_every_call_of_the_production_systems_documentation(
    tmp_path: Path,
) -> None:
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "ai_system_usage.py")],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for told in ("Model used: replay/", "Cost: $0.0", "memory:", "cost_optimized:",
                     "text-embedding-3-small can't be used", "Job(", "Success rate: 100.0%",
                     "Avg latency: ", "Total cost: $0.0", "/100"):  # fmt: skip
            assert told in done.stdout
        similar = [line for line in done.stdout.splitlines() if " semantic  as " in line]
        assert len(similar) == 1
        assert similar[0].startswith("Tell me about Python programming")
        (row,) = rows(tmp_path / ".novellus", "SELECT count(*) AS n FROM ai_requests")
        assert row["n"] == 13
    finally:
        remove_state(tmp_path / ".novellus")


def test_the_comparison_notebook_tells_a_true_story(tmp_path: Path) -> None:
    try:
        notebook = run(ROOT / "notebooks" / "05_ab_comparison.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = "\n".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
        assert "weak is worse than strong by" in shown
        assert "short to weak is worse than strong by" in shown
        assert "decided before all items were asked" in shown
        assert "can&#x27;t be said" in shown
        assert "confirm it live" in shown
        assert "new is cheaper than now by" in shown
        assert "REPLAY" in shown
        assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs) == 2
        kinds = rows(tmp_path / ".novellus", "SELECT DISTINCT kind FROM ai_experiments")
        assert {row["kind"] for row in kinds} == {"comparison", "live", "benchmark"}
    finally:
        remove_state(tmp_path / ".novellus")


def test_the_benchmark_notebook_goes_on_comes_again_and_finds_the_regression(
    tmp_path: Path,
) -> None:
    try:
        notebook = run(ROOT / "notebooks" / "06_benchmark_rerun.ipynb", tmp_path)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = "\n".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
        told = "\n".join("".join(o.get("text", "")) for o in outputs)
        assert "the money was spent" in shown
        assert "the same standings: True" in told
        assert "regressed: ('assistant',)" in told
        assert "answers from the log" in shown
        once = "SELECT max(n) FROM (SELECT count(*) AS n FROM ai_requests WHERE status = 'ok' GROUP BY experiment, arm, tags ->> 'item') AS t"
        assert rows(tmp_path / ".novellus", once)[0]["max"] == 1
    finally:
        remove_state(tmp_path / ".novellus")
