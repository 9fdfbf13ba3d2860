"""Workloads from files, frames and lists."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from novellus_lab.errors import InvalidRequestError
from novellus_lab.experiments.loading import workload_of

ROWS = [
    {"id": "a", "prompt": "What is 1 + 1?", "expected": "2", "group": "g", "level": "easy"},
    {"id": "b", "prompt": "What is 2 + 2?", "expected": "4", "group": "g", "level": "easy"},
]


def told(workload: Any) -> list[Any]:
    return [
        (i.id, i.question, str(i.expected), i.group, i.about.get("level")) for i in workload.items
    ]


def test_the_same_rows_are_the_same_workload_from_everywhere(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    (tmp_path / "w.jsonl").write_bytes(lines)
    (tmp_path / "w.jsonl.gz").write_bytes(gzip.compress(lines))
    pl.DataFrame(ROWS).write_csv(tmp_path / "w.csv")
    pl.DataFrame(ROWS).write_parquet(tmp_path / "w.parquet")
    given = [
        ROWS,
        tmp_path / "w.jsonl",
        str(tmp_path / "w.jsonl.gz"),
        tmp_path / "w.csv",
        tmp_path / "w.parquet",
        pl.DataFrame(ROWS),
        pd.DataFrame(ROWS),
        pa.Table.from_pylist(ROWS),
    ]
    found = [workload_of(one) for one in given]
    assert all(told(one) == told(found[0]) for one in found)
    assert len({one.content_hash for one in found}) == 1
    assert told(found[0])[0] == ("a", "What is 1 + 1?", "2", "g", "easy")


def test_prompts_messages_and_frames_of_the_log_will_do():
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
    found = workload_of(["Hello?", messages, {"messages": json.dumps(messages)}])
    assert [item.question for item in found] == ["Hello?", "Hi", "Hi"]
    assert len({item.id for item in found}) == 3
    assert found.items[1].messages[0]["role"] == "system"


def test_a_hash_is_of_what_is_asked_and_expected_not_of_a_name():
    one, two = workload_of(ROWS, name="one"), workload_of(ROWS, name="two")
    assert one.content_hash == two.content_hash
    other = workload_of([{**ROWS[0], "expected": "3"}, ROWS[1]])
    assert one.content_hash != other.content_hash


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "is empty"),
        (["fine", "  "], "item 1 of the workload 'list' has no prompt"),
        ([{"text": "?"}], "has no prompt"),
        ([3], "must be a prompt"),
        ([ROWS[0], ROWS[0]], "have the id 'a'"),
        ([{"prompt": "?", "arguments": "{"}], "arguments are no JSON"),
        ("gsm9k", "neither a dataset"),
        ("nowhere.jsonl", "there is no file"),
        ({"prompt": "?"}, "a workload is a list"),
        (7, "a workload is a list"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(given, says):
    with pytest.raises(InvalidRequestError, match=says):
        workload_of(given)


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "w.jsonl").write_text('{"prompt": "?"}\n{"prompt"\n')
    with pytest.raises(InvalidRequestError, match="line 2"):
        workload_of(tmp_path / "w.jsonl")


def test_a_sample_is_drawn_by_its_seed():
    load = workload_of([f"q{i}" for i in range(50)])
    assert load.sample(10, seed=1).items == load.sample(10, seed=1).items
    assert load.sample(10, seed=1).items != load.sample(10, seed=2).items
    assert load.sample(None) is load
