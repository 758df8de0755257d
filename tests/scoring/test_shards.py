"""Tables in parts: sorted by rank over all parts, whole or not at all, and the same table as one file when read."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring_runs import gainrl_score, run, stop_after

from gainrl import parts
from gainrl.errors import UserError
from gainrl.report.records import read_run
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.journal import Journal, journal_path
from gainrl.scoring.shards import RankShards
from gainrl.table import ScoreTable


@pytest.fixture
def scorer(make_model, tokenizer):
    return AngleScorer(make_model(), tokenizer, tokens_per_batch=24)


@pytest.fixture
def rows():
    return [ScoringPrompt(f"{n} apples and {n * n} pears, {'again ' * (n % 5)}how many?") for n in range(50)]


def test_a_table_in_parts_is_sorted_and_reads_as_the_file(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores"
    done = gainrl_score(model_directory, dataset, output, "--shards", "3")
    assert done.returncode == 0, done.stderr
    assert "200 rows in" in done.stdout
    files = parts.files(output)
    assert [pq.read_metadata(path).num_rows for path in files] == [66, 67, 67]
    ranks = np.concatenate([pq.read_table(path, columns=["rank"])["rank"].to_numpy() for path in files])
    assert ranks.tolist() == list(range(200))
    one, many = ScoreTable.read(whole), ScoreTable.read(output)
    assert many.columns.schema == one.columns.schema
    for name in one.columns.column_names:
        np.testing.assert_array_equal(many.column(name), one.column(name), err_msg=name)
    assert many.metadata == one.metadata
    np.testing.assert_array_equal(ScoreTable.read(output, ["score"]).scores, one.scores)
    assert read_run(output).table is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores"]


def test_an_output_without_a_suffix_is_a_folder_of_even_parts(scorer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.shards.ROWS_PER_PART", 16)
    run(scorer, rows, tmp_path / "scores", shards=0)
    assert [pq.read_metadata(path).num_rows for path in parts.files(tmp_path / "scores")] == [16, 16, 16, 2]


def test_parts_are_kept_resumed_replaced_and_held_by_one_writer(scorer, rows, tmp_path):
    output = tmp_path / "scores"
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, shards=2, progress=stop_after(20))
    assert not output.exists()
    with pytest.raises(UserError, match="use --resume"):
        run(scorer, rows, output, shards=2)
    second = Journal(journal_path(output), {}, window=1, fresh=True)
    with pytest.raises(UserError, match="another gainrl score is writing"):
        run(scorer, rows, output, shards=2, resume=True)
    second.close()
    run(scorer, rows, output, shards=2, overwrite=True)
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    assert run(scorer, rows, output, shards=2, resume=True).kept == 50
    with pytest.raises(UserError, match="exists and is kept"):
        run(scorer, rows, output, shards=2)
    run(scorer, rows[:40], output, shards=2, overwrite=True)
    assert len(ScoreTable.read(output)) == 40
    assert len(list(output.iterdir())) == 3, "the parts of the table before are gone"
    assert not first.keys() & {path.name for path in output.iterdir()} - {parts.MANIFEST}


def test_a_folder_with_other_files_and_a_file_in_the_way_are_refused(scorer, rows, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("")
    (tmp_path / "scores").write_text("")
    for output, said in (("mine", r"holds other files \('notes.txt'\)"), ("scores", "is a file")):
        with pytest.raises(UserError, match=said):
            run(scorer, rows, tmp_path / output, shards=2, overwrite=True)
    with pytest.raises(UserError, match="is a folder"):
        run(scorer, rows, tmp_path / "mine")
    with pytest.raises(UserError, match="--shards -1"):
        run(scorer, rows, tmp_path / "new", shards=-1)


def test_a_writing_that_fails_leaves_the_table_before(tmp_path):
    folder = tmp_path / "table"
    with parts.writing(folder) as new:
        path = new.next()
        path.write_bytes(b"old")
        new.wrote(path, 1)

    def cut_short():
        with parts.writing(folder) as new:
            new.next().write_bytes(b"new")
            new.wrote(folder / "no such part", 1)

    with pytest.raises(FileNotFoundError):
        cut_short()
    assert [path.read_bytes() for path in parts.files(folder)] == [b"old"]
    with pytest.raises(OSError, match="disk"), parts.writing(tmp_path / "other"):
        raise OSError("disk")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_not_whole_is_refused_by_name(tmp_path):
    folder = tmp_path / "table"
    with parts.writing(folder) as new:
        path = new.next()
        path.write_bytes(b"old")
        new.wrote(path, 1)
    path.write_bytes(b"longer")
    with pytest.raises(UserError, match=f"its part {path.name} is missing or was changed"):
        parts.files(folder)
    manifest = folder / parts.MANIFEST
    manifest.write_text(json.dumps({"format_version": 2, "parts": []}))
    with pytest.raises(UserError, match="has format 2"):
        parts.files(folder)
    manifest.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        parts.files(folder)
    manifest.unlink()
    with pytest.raises(UserError, match="never finished"):
        parts.files(folder)
    assert not parts.is_table(folder)


@pytest.mark.parametrize(
    ("rows", "count", "window"), [(1, 1, 5), (7, 3, 2), (100, 7, 13), (20, 20, 20), (5, 9, 2), (10, 7, 4)]
)
def test_shards_sort_whatever_the_order_of_arrival(tmp_path, rows, count, window):
    ranks = np.random.default_rng(rows).permutation(rows)
    schema = pa.schema([("rank", pa.int64()), ("text", pa.string())])
    shards = RankShards(tmp_path, rows, schema, count)
    for first in range(0, rows, window):
        some = ranks[first : first + window]
        shards.put(pa.table([some, [f"row {rank}" for rank in some]], schema=schema))
    sorted_parts = list(shards)
    assert len(sorted_parts) == min(count, rows)
    assert max(map(len, sorted_parts)) - min(map(len, sorted_parts)) <= 1
    together = pa.concat_tables(sorted_parts)
    assert together["rank"].to_pylist() == list(range(rows))
    assert together["text"].to_pylist() == [f"row {rank}" for rank in range(rows)]
    assert list(tmp_path.iterdir()) == []
    shards.close()
