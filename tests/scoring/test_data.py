"""Datasets: local files of each kind, and clear errors for what cannot be read."""

from __future__ import annotations

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gainrl.cli.score import prompts_of
from gainrl.errors import UserError
from gainrl.scoring.data import open_rows, scoring_prompts

ROWS = [
    {"prompt": [{"role": "user", "content": "a?"}], "answer": "1"},
    {"prompt": [{"role": "user", "content": "b?"}], "answer": "2"},
    {"prompt": [{"role": "user", "content": "c?"}], "answer": "3"},
]


@pytest.fixture(params=["jsonl", "json", "parquet"])
def file(request, tmp_path):
    path = tmp_path / f"data.{request.param}"
    if request.param == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    elif request.param == "json":
        path.write_text(json.dumps(ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def test_local_files_of_every_kind_give_the_same_rows(file):
    rows = open_rows(str(file))
    assert (rows.size, rows.split) == (3, None)
    assert [dict(row) for row in rows] == ROWS
    assert [dict(row) for row in rows] == ROWS, "rows can be iterated again"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_a_json_list_in_any_encoding_of_unicode(tmp_path, encoding):
    path = tmp_path / "data.json"
    path.write_text('[{"prompt": "weiß, \\ud800"}]', encoding=encoding)
    assert [dict(row) for row in open_rows(str(path))] == [{"prompt": "weiß, \ud800"}]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("task", [None, "gsm8k"])
def test_rows_are_read_as_they_are_needed(tmp_path, kind, task):
    """Peak memory of 2,000 rows more is the same; whole, they would take 4 MB more."""
    peaks = []
    for count in (800, 2800):
        rows = [{"prompt": "p" * 1000, "question": f"{n} + 1?" + "q" * 1000, "answer": "1"} for n in range(count)]
        path = tmp_path / f"{count}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=400)
        else:
            lines = [json.dumps(row) for row in rows]
            path.write_text("[" + ",\n".join(lines) + "]" if kind == "json" else "\n".join(lines))
        del rows
        tracemalloc.start()
        prompts, source = prompts_of(str(path), task, "train" if task else None, None)
        assert source.size == sum(1 for _ in prompts) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1.5e6


def test_limit_takes_the_first_rows(file):
    rows = open_rows(str(file), limit=2)
    assert rows.size == 2
    assert [row["answer"] for row in rows] == ["1", "2"]


def test_several_files_are_one_dataset_in_their_order(file, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "d", "answer": "4"}\n{"prompt": "a?", "answer": "5"}\n')
    rows = open_rows([str(file), str(more)])
    assert (rows.size, rows.limit, rows.name) == (5, None, f"{file} + {more}")
    assert [row["answer"] for row in rows] == [row["answer"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["answer"] for row in open_rows([str(more), str(file)], limit=3)] == ["4", "5", "1"]
    assert open_rows([str(more), str(file)], limit=3).size == 3
    assert (open_rows([str(file)], limit=2).size, open_rows([str(file)]).name) == (2, str(file))


def test_one_of_several_files_without_prompts_is_named(file, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text('{"problem": "d"}\n')
    with pytest.raises(UserError, match=r"more\.jsonl': row 0 has no column 'prompt', only \['problem'\]"):
        list(open_rows([str(file), str(more)]))
    with pytest.raises(UserError, match="no such file"):
        open_rows([str(file), "missing.jsonl"])
    with pytest.raises(UserError, match="no dataset is named"):
        open_rows([])
    with pytest.raises(UserError, match="--task arithmetic maps one dataset to prompts: give --dataset once, not 2"):
        prompts_of(["a", "b"], "arithmetic", None, None)


def test_questions_of_plain_text_come_along():
    [prompt] = scoring_prompts([{"prompt": "Q: a A:", "question": "a"}])
    assert (prompt.prompt, prompt.question) == ("Q: a A:", "a")


def test_a_dataset_without_prompts_names_its_columns_and_the_task_option():
    with pytest.raises(UserError, match=r"row 0 .*'problem'.*--task"):
        list(scoring_prompts([{"problem": "y"}, {"prompt": "x"}]))


def test_a_later_row_without_a_prompt_is_a_row_with_a_problem():
    first, second = scoring_prompts([{"prompt": "x"}, {"problem": "y"}])
    assert first.problem is None
    assert "no column 'prompt', only ['problem']" in second.problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "{]\n", "line 1: not valid JSON"),
        ("a.jsonl", '{"prompt": "x"}\n[1]\n', "line 2: expected an object"),
        ("a.jsonl", "\n\n", "empty"),
        ("a.jsonl", b'{"prompt": "\xff\xfe"}\n', "line 1: not valid JSON"),
        ("a.json", '{"prompt": 1}', "list of objects"),
        ("a.json", "[]", "empty"),
        ("a.json", '[{"prompt": "x"},\n {"prompt": }]', "line 2, character 30"),
        ("a.json", '[{"prompt": "x"}, 3]', "entry 1: expected an object"),
        ("a.json", b'[{"prompt": "\xff"}]', "not valid JSON"),
        ("a.parquet", "text", "not a readable Parquet"),
        ("a.csv", "x", "unknown kind"),
    ],
)
def test_unreadable_files_say_where_and_why(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        list(open_rows(str(path)))


def test_splits_and_folders_are_refused_for_local_files(file):
    with pytest.raises(UserError, match="no splits"):
        open_rows(str(file), split="train")
    with pytest.raises(UserError, match="is a directory"):
        open_rows(str(file.parent))
    with pytest.raises(UserError, match="no such file"):
        open_rows("./missing")


def test_hub_datasets_go_through_datasets_and_splits_must_be_chosen(monkeypatch, tmp_path):
    """The hub's own loader, on a local repository folder: the code path of a hub id without a network."""
    datasets = pytest.importorskip("datasets")
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"prompt": f"from {split}"}) + "\n")
    real = datasets.load_dataset
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config: real("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    )
    rows = open_rows("someone/data", split="test")
    assert [dict(row) for row in rows] == [{"prompt": "from test"}]
    with pytest.raises(UserError, match=r"splits \['test', 'train'\]"):
        open_rows("someone/data")
    with pytest.raises(UserError, match="no split 'dev'"):
        open_rows("someone/data", split="dev")
