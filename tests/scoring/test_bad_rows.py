"""Rows that cannot be scored: named in table and summary, never in the way of the others."""

from __future__ import annotations

import pytest
from scoring_runs import run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt


def test_rows_that_are_no_prompt_at_all_have_a_row_in_the_table(make_model, tokenizer, tmp_path):
    odd = [None, 7, ["a"], b"bytes", [{"role": "user", "content": b"x"}], "lone \ud800 surrogate", {"a": 1}]
    rows = [ScoringPrompt("How many?"), *(ScoringPrompt(value) for value in odd)]
    table = run(AngleScorer(make_model(), tokenizer), rows, tmp_path / "s.parquet").table
    assert table.columns["status"].to_pylist() == ["ok", *["failed"] * len(odd)]
    assert len(set(table.ids)) == len(rows)


def test_a_truncated_prompt_is_counted_after_a_resume_too(make_model, tokenizer, tmp_path):
    from gainrl.scoring.summary import summary

    scorer = AngleScorer(make_model(), tokenizer, too_long="truncate", tokens_per_batch=300)
    rows = [ScoringPrompt(f"question {n}") for n in range(5)] + [ScoringPrompt("word " * 500)]
    output = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, progress=stop_after(6))
    assert "1 prompts were truncated" in summary(run(scorer, rows, output, resume=True), output)


def test_a_dataset_of_which_no_row_can_be_scored_stops_with_the_reason(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    rows = [ScoringPrompt([{"role": "system", "content": "x"}])] * 5
    for _ in range(2):  # a second run says the same: there is nothing to resume
        with pytest.raises(UserError, match="no user message"):
            run(scorer, rows, tmp_path / "s.parquet")


def test_an_empty_dataset_is_an_error(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match="empty"):
        run(AngleScorer(make_model(), tokenizer), [], tmp_path / "s.parquet")
