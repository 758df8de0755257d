"""Score tables: what a prompt is called, what is read and refused, how a dataset finds its rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gainrl.errors import UserError
from gainrl.table import METADATA_KEY, ScoreTable, as_written, content_ids, fingerprint, positions
from tests.score_tables import score_table

CALLS = [
    [{"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}, {"role": "tool"}],
    [{"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"x": 1, "y": 2.5}}]}],
    [{"role": "user", "content": "how many"}],
    [{"role": "user", "content": "how many"}],
]
SCORES = [0.5, np.nan, 0.9, 0.5, np.nan, 0.1]


def test_a_chat_has_one_id_whichever_library_read_it(tmp_path):
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    table = pa.table({"prompt": CALLS})
    pq.write_table(table, tmp_path / "calls.parquet")
    made = datasets.Dataset.from_list([{"prompt": prompt} for prompt in CALLS])
    wanted = content_ids(CALLS)
    assert [name[-1] for name in wanted] == ["0", "0", "0", "1"]
    for source in (
        json.loads(json.dumps(CALLS)),
        [tuple(prompt) for prompt in CALLS],
        table["prompt"].to_pylist(),
        made["prompt"],
        made.with_format("numpy")["prompt"],
        pandas.read_parquet(tmp_path / "calls.parquet")["prompt"],
    ):
        assert content_ids(source) == wanted


def test_what_arrow_adds_goes_and_what_the_author_wrote_stays():
    read = pa.array(CALLS).to_pylist()
    assert read != CALLS
    assert as_written(read) == CALLS
    assert as_written([np.str_("b"), np.float32(1.5), [None, 0, False, ""]]) == ["b", 1.5, [None, 0, False, ""]]


def test_null_fields_never_change_an_id_and_other_fields_do():
    random = np.random.default_rng(0)
    values = ["", "text", 0, 3, 2.5, True, [], [None], {}, {"inner": {"deep": 1}}, ["a", {"b": "c"}]]
    for _ in range(200):
        prompt = [{key: values[random.integers(len(values))] for key in "abc"[: random.integers(1, 4)]}]
        padded = [{"a": None, "b": None, "c": None, "z": float("nan"), **prompt[0], "y": np.float32("nan")}]
        assert content_ids([padded]) == content_ids([prompt])
        other = [{**copy.deepcopy(prompt[0]), "a": "another value"}]
        assert content_ids([other]) != content_ids([prompt])


def test_ids_know_text_from_chats_order_and_occurrences():
    assert len(set(content_ids(["x", ["x"], '["x"]', "\ud83d", "x", None, 7, b"x"]))) == 8
    assert fingerprint(["a-0", "b-0"]) != fingerprint(["b-0", "a-0"])


def test_positions_go_by_score_then_row_and_nan_comes_last():
    assert positions(np.array(SCORES, dtype=np.float32)).tolist() == [1, 4, 0, 2, 5, 3]
    assert positions([]).tolist() == []


def test_a_table_reads_as_it_was_written(tmp_path):
    table = score_table(content_ids("abcdef"), SCORES, {"prompt": list("abcdef")}, split="train", dataset="\udcff.json")
    table.write(tmp_path / "t.parquet")
    again = ScoreTable.read(tmp_path / "t.parquet")
    assert str(again.columns.to_pydict()) == str(table.columns.to_pydict())
    assert again.metadata == table.metadata
    assert again.usable.tolist() == [0, 2, 3, 5]
    assert again.status_counts() == {"ok": 4, "undefined": 2}
    assert again.column("score").dtype == np.float32
    assert ScoreTable.read(tmp_path / "t.parquet", ["row", "score"]).columns.column_names == ["row", "score"]
    assert again.directions() is None
    with pytest.raises(UserError, match="no columns \\['rank'\\]"):
        ScoreTable.read(tmp_path / "t.parquet", ["rank"])


def test_a_path_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    score_table(content_ids("abcdef"), SCORES).write("~/t.parquet")
    assert len(ScoreTable.read("~/t.parquet")) == 6


@pytest.mark.parametrize("from_disk", [True, False])
def test_directions_come_in_blocks_without_the_rows_that_have_none(tmp_path, from_disk):
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    table = score_table(content_ids("abcdef"), SCORES, {"direction": [rows[0], None, *rows[1:]]})
    table.write(tmp_path / "t.parquet")
    if from_disk:
        table = ScoreTable.read(tmp_path / "t.parquet")
        assert "direction" not in table.columns.column_names
    blocks = table.directions(batch=4)
    assert blocks is not None
    found = list(blocks)
    assert [block.dtype for _, block in found] == [np.float32] * 2
    assert np.concatenate([at for at, _ in found]).tolist() == [0, 2, 3, 4, 5]
    assert np.array_equal(np.concatenate([block for _, block in found]), rows)


def test_a_dataset_finds_its_rows_in_any_order():
    table = score_table(content_ids("abcabd"), SCORES)
    assert table.join("abcabd").tolist() == [0, 1, 2, 3, 4, 5]
    assert table.join("dbacba").tolist() == [5, 1, 0, 2, 4, 3]
    assert table.join("ab", subset=True).tolist() == [0, 1]
    for other, said in (("ab", "of 2 prompts, 0 are not in the table; of 6 rows"), ("abcabdz", "first: row 6")):
        with pytest.raises(UserError, match=said):
            table.join(other)
    with pytest.raises(UserError, match="1 are not in the table"):
        table.join("aaa", subset=True)


def changed(path: Path, **columns) -> None:
    """Write other values in the place of some columns, under the same metadata."""
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), file.metadata.metadata[METADATA_KEY]
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata}), path)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"id": content_ids("abcdeZ")}, "'id'"),
        ({"row": [0, 1, 2, 3, 5, 4]}, "'row'"),
        ({"status": ["fine"] * 6}, "'status'"),
        ({"position": [0] * 6}, "'position'"),
        ({"score": [0.9, np.nan, 0.5, 0.5, np.nan, 0.1]}, "'position'"),
    ],
)
def test_a_table_that_was_changed_is_refused_by_the_column(tmp_path, columns, named):
    path = tmp_path / "t.parquet"
    score_table(content_ids("abcdef"), SCORES).write(path)
    changed(path, **columns)
    with pytest.raises(UserError, match=f"was changed after it was written.*{named}"):
        ScoreTable.read(path)


def test_a_file_that_is_no_table_is_refused_in_one_sentence(tmp_path):
    whole = tmp_path / "whole.parquet"
    score_table(content_ids("abcdef"), SCORES).write(whole)
    path = tmp_path / "t.parquet"
    columns = ScoreTable.read(whole).columns
    metadata = ScoreTable.read(whole).metadata.to_json()

    def stamped(text, table=columns):
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path)

    cases = [
        (lambda: path.write_bytes(whole.read_bytes()[:-40]), "cannot be read"),
        (lambda: path.write_bytes(b"no table"), "cannot be read"),
        (lambda: path.write_bytes(b""), "cannot be read"),
        (lambda: pq.write_table(columns, path), "no gainrl metadata"),
        (lambda: stamped("{"), "metadata is damaged"),
        (lambda: stamped("[1]"), "metadata is damaged"),
        (lambda: stamped(metadata.replace('"format_version": 4', '"format_version": 9')), "table format 9"),
        (lambda: stamped(metadata.replace('"rows"', '"lines"')), "'lines', 'rows'"),
        (lambda: stamped(metadata.replace('"rows": 6', '"rows": "6"')), "'rows'"),
        (lambda: stamped(metadata, columns.drop_columns(["score"])), "'score'"),
        (lambda: stamped(metadata, columns[:3]), "3 of 6 rows"),
    ]
    for damage, said in cases:
        damage()
        with pytest.raises(UserError, match=said):
            ScoreTable.read(path)
    with pytest.raises(UserError, match="no such file"):
        ScoreTable.read(tmp_path / "none.parquet")


def test_flipped_bytes_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "t.parquet"
    score_table(content_ids("abcdef"), SCORES, {"prompt": list("abcdef")}).write(path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[random.integers(4, len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            ScoreTable.read(path)
        except UserError:
            refused += 1
    assert refused > 50
