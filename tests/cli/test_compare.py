"""`gainrl compare`: correlations, overlap and movers of two real tables, and refusals by name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from gainrl.table import content_ids
from tests.score_tables import score_table


def write(path, scores, *, prompts=None, **metadata):
    prompts = prompts or [f"prompt {i}" for i in range(len(scores))]
    columns = {"question_tokens": range(2, len(scores) + 2), "prompt": prompts}
    score_table(content_ids(prompts), scores, columns, **{"dataset": "d.jsonl", **metadata}).write(path)
    return str(path)


@pytest.fixture
def two(tmp_path):
    random = np.random.default_rng(4)
    x = random.normal(size=40).astype(np.float32)
    y = (x + random.normal(size=40)).astype(np.float32)
    x[3], y[5] = np.nan, np.nan
    return write(tmp_path / "a.parquet", x), write(tmp_path / "b.parquet", y, model="other"), x, y


def test_correlations_are_those_of_scipy_over_rows_with_both_scores(two, run_cli):
    a, b, x, y = two
    status, out, _ = run_cli(["compare", a, b])
    assert status == 0
    both = np.isfinite(x) & np.isfinite(y)
    assert f"Spearman {spearmanr(x[both], y[both]).statistic:+.4f}" in out
    assert f"Kendall tau-b {kendalltau(x[both], y[both]).statistic:+.4f}" in out
    assert "38 with a score in both (1 only in A, 1 only in B)" in out
    assert "model: 'm' in A, 'other' in B" in out


def test_overlap_of_the_first_n(two, run_cli):
    a, b, x, y = two
    both = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    first = [set(both[np.argsort(-values[both])][:7].tolist()) for values in (x, y)]
    _, out, _ = run_cli(["compare", a, b, "--top", "7"])
    assert f"first 7: {len(first[0] & first[1])} in both" in out
    status, _, error = run_cli(["compare", a, b, "--top", "39"])
    assert (status, "--top 39" in error) == (2, True)


def test_movers_are_the_rows_whose_rank_changed_most_with_their_text(tmp_path, run_cli):
    a = write(tmp_path / "a.parquet", [5.0, 4.0, 3.0, 2.0, 1.0])
    b = write(tmp_path / "b.parquet", [5.0, 4.0, 3.0, 2.0, 9.0])
    _, out, _ = run_cli(["compare", a, b, "--movers", "1"])
    up = out[out.index("moved up") : out.index("moved down")]
    assert "4 -> 0" in up
    assert "row 4 (" in up
    assert up.rstrip().endswith("prompt 4")


def test_a_table_compared_with_itself_is_the_same(two, run_cli):
    _, out, _ = run_cli(["compare", two[0], two[0]])
    assert "same settings" in out
    assert "Spearman +1.0000, Kendall tau-b +1.0000" in out
    assert "moved" not in out


def test_tables_of_different_datasets_are_refused_by_name(two, tmp_path, run_cli):
    other = write(tmp_path / "c.parquet", [1.0, 2.0], prompts=["prompt 0", "another"], dataset="other.jsonl")
    status, out, error = run_cli(["compare", two[0], other])
    assert status == 2
    assert "'d.jsonl'" in error
    assert "'other.jsonl'" in error
    assert "1 prompts are in both" in error
    assert "Spearman" not in out


def test_a_missing_table_is_one_clear_message(two, run_cli):
    status, _, error = run_cli(["compare", two[0], "nowhere.parquet"])
    assert status == 2
    assert "no such file" in error
    assert "Traceback" not in error
