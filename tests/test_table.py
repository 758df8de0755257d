"""The score table's contract: ranks, provenance, and refusals by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainrl.errors import UserError
from gainrl.table import (
    DIRECTION_FIELD,
    METADATA_KEY,
    SCHEMA,
    ScoreTable,
    content_ids,
    rank_order,
    ranks,
)
from tests.score_tables import score_table


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(st.one_of(st.sampled_from([0.1, 0.5, float("nan")]), st.floats(-1, 2)), max_size=30).flatmap(
        lambda scores: st.tuples(st.just(scores), st.permutations(range(len(scores))))
    )
)
def test_ranks_are_highest_first_ties_by_id_undefined_last(case):
    scores, order = case
    ids = [f"{n:04d}-0" for n in order]
    expected = sorted(range(len(ids)), key=lambda i: (np.isnan(scores[i]), -np.nan_to_num(scores[i]), ids[i]))
    assert rank_order(ids, scores).tolist() == expected
    assert ranks(ids, scores)[rank_order(ids, scores)].tolist() == list(range(len(ids)))


def test_a_written_table_reads_back(tmp_path):
    table = score_table(["a-0", "b-0", "c-0"], [0.5, float("nan"), 0.7])
    table.write(tmp_path / "t.parquet")
    again = ScoreTable.read(tmp_path / "t.parquet")
    assert again.metadata == table.metadata
    assert again.ids == ["a-0", "b-0", "c-0"]
    np.testing.assert_array_equal(again.scores, table.scores)
    assert again.column("rank").tolist() == [1, 2, 0]
    assert again.status_counts() == {"ok": 2, "undefined": 1}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m | {"colour": "red"}, "colour"),
        (lambda m: {k: v for k, v in m.items() if k != "fingerprint"}, "fingerprint"),
        (lambda m: m | {"format_version": 99}, "format 99"),
    ],
)
def test_unknown_or_missing_metadata_is_refused_by_name(tmp_path, spoil, words):
    table = score_table(["a-0"], [0.5])
    fields = spoil(dataclasses.asdict(table.metadata))
    path = tmp_path / "t.parquet"
    pq.write_table(table.columns.replace_schema_metadata({METADATA_KEY: json.dumps(fields)}), path)
    with pytest.raises(UserError, match=words):
        ScoreTable.read(path)


def test_files_that_are_no_score_table_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ScoreTable.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(UserError, match="not a readable Parquet"):
        ScoreTable.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not written by gainrl"):
        ScoreTable.read(tmp_path / "other.parquet")
    table = score_table(["a-0"], [0.5])
    raw = table.columns.drop_columns(["rank"]).replace_schema_metadata({METADATA_KEY: table.metadata.to_json()})
    pq.write_table(raw, tmp_path / "short.parquet")
    with pytest.raises(UserError, match="rank"):
        ScoreTable.read(tmp_path / "short.parquet")


def test_a_table_for_another_dataset_is_refused_with_what_differs():
    table = score_table(["a-0", "b-0", "c-0"], [0.1, 0.2, 0.3])
    table.require_dataset(["a-0", "b-0", "c-0"], "mine")
    with pytest.raises(UserError, match=r"1 are not in the table .first 'z-0'"):
        table.require_dataset(["a-0", "b-0", "z-0"], "mine")
    with pytest.raises(UserError, match="another order"):
        table.require_dataset(["b-0", "a-0", "c-0"], "mine")
    with pytest.raises(UserError, match="1 are not in the dataset"):
        table.require_dataset(["a-0", "b-0"], "mine")
    with pytest.raises(UserError, match="repeated ids"):
        score_table(["a-0", "a-0"], [0.1, 0.2]).require_dataset(["a-0", "a-0"], "mine")


def test_a_table_written_by_the_first_version_still_loads():
    """Format 1, written before definitions with a weight, controls and likelihoods."""
    table = ScoreTable.read(Path(__file__).parent / "golden" / "score_table_v1.parquet")
    assert table.metadata.format_version == 1
    assert (table.metadata.definition, table.metadata.inter_weight, table.metadata.control) == (
        "intra+inter",
        1,
        "none",
    )
    assert table.column("rank").tolist() == [3, 0, 2, 5, 1, 4]
    assert table.scores[1] == pytest.approx(0.40703725814819336)
    assert table.status_counts() == {"ok": 5, "undefined": 1}
    assert [row["diagonal"] for row in table.length_correlations()] == [True, False]
    prompts = [f"2 + 2 = 4\nWhat is {n} + {n * n % 7}?" for n in range(6)]
    prompts[3], prompts[5] = "", prompts[0]
    table.require_dataset(content_ids(prompts), "the golden dataset")


def with_directions(table: ScoreTable, rows: list[list[float] | None]) -> ScoreTable:
    column = pa.array(rows, DIRECTION_FIELD.type)
    return ScoreTable(table.columns.append_column(DIRECTION_FIELD, column), table.metadata)


def test_directions_come_by_row_and_are_nan_where_there_are_none():
    plain = score_table([f"p{i}" for i in range(10)], [0.1 * i for i in range(10)])
    given: list[list[float] | None] = [[float(i), 1.0, 2.0] for i in range(10)]
    given[4] = None
    table = with_directions(plain, given)
    halves = ScoreTable(pa.concat_tables([table.columns[:7], table.columns[7:]]), table.metadata)
    for each in (table, halves):
        assert each.has_directions
        found = each.directions()
        assert found.dtype == np.float32
        assert found.shape == (10, 3)
        assert np.isnan(found[4]).all()
        assert found[:, 0][~np.isnan(found[:, 0])].tolist() == [i for i in range(10) if i != 4]
    unequal = with_directions(plain, [[1.0] * (2 + i % 2) for i in range(10)])
    with pytest.raises(UserError, match="of unequal length"):
        unequal.directions()
    with pytest.raises(UserError, match="no directions: score again with `gainrl score --directions`"):
        plain.directions()


def test_rows_that_were_skipped_or_failed_cannot_be_drawn():
    table = score_table([f"p{i}" for i in range(4)], [0.5, float("nan"), 0.25, 0.1])
    words = pa.array(["skipped", "undefined", "ok", "failed"])
    place = table.columns.column_names.index("status")
    changed = ScoreTable(table.columns.set_column(place, SCHEMA.field("status"), words), table.metadata)
    assert table.usable.tolist() == [0, 1, 2, 3]
    assert changed.usable.tolist() == [1, 2]
