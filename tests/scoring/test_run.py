"""Score tables on disk: rows, ids, ranks, optional columns, memory, mistakes on the command line."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pytest
from scoring_runs import command, run

from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
from gainrl.table import ScoreTable, content_ids, fingerprint


def test_a_table_has_a_row_for_every_dataset_row_in_order(whole, dataset):
    table = ScoreTable.read(whole)
    prompts = [json.loads(line)["prompt"] for line in dataset.read_text().splitlines()]
    assert table.ids == content_ids(prompts)
    assert table.column("row").tolist() == list(range(200))
    assert table.metadata.fingerprint == fingerprint(table.ids)
    assert table.status_counts() == {"ok": 198, "undefined": 1, "failed": 1}
    assert table.metadata.model_hash.startswith("weights:")
    table.require_dataset(content_ids(prompts), "the dataset")


def test_ranks_are_a_permutation_highest_score_first_undefined_last(whole):
    table = ScoreTable.read(whole)
    by_rank = np.argsort(table.column("rank"))
    assert sorted(table.column("rank").tolist()) == list(range(200))
    ranked = table.scores[by_rank]
    assert np.isnan(ranked[-2:]).all()
    assert (np.diff(ranked[:-2]) <= 0).all()
    ids = np.array(table.ids)[by_rank]
    ties = np.flatnonzero(np.diff(ranked[:-2]) == 0)
    assert all(ids[i] < ids[i + 1] for i in ties)


def test_repeated_prompts_get_ids_and_equal_scores_of_their_own(whole):
    table = ScoreTable.read(whole)
    repeats = [i for i, name in enumerate(table.ids) if name.split("-")[0] == table.ids[0].split("-")[0]]
    assert len(repeats) == 20
    assert [table.ids[i].split("-")[1] for i in repeats] == [str(n) for n in range(20)]
    np.testing.assert_allclose(table.scores[repeats], table.scores[0], atol=5e-6, rtol=0)


def test_memory_of_a_long_dataset_is_bounded_by_windows(make_model, tokenizer, tmp_path, monkeypatch):
    """Rows are pulled one window at a time, also in --resume's replanning."""
    monkeypatch.setattr("gainrl.scoring.run.WINDOW", 16)
    ahead = []

    def rows():
        for n in range(100):
            ahead.append(n)
            yield ScoringPrompt(f"question {n}")

    finished = []
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=32)
    source = Source("memory")
    score_dataset(
        scorer,
        rows(),
        tmp_path / "s.parquet",
        source,
        model_name="t",
        model_hash="0",
        progress=lambda count, _: finished.append((count, len(ahead))),
    )
    done = 0
    for n, pulled in finished:
        done += n
        assert pulled <= (done - 1) // 16 * 16 + 16
    assert ScoreTable.read(tmp_path / "s.parquet").ids == content_ids([f"question {n}" for n in range(100)])


def test_the_optional_columns_are_there_when_asked_for(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, directions=True)
    rows = [ScoringPrompt("How many?"), ScoringPrompt("")]
    run(scorer, rows, tmp_path / "s.parquet")
    columns = ScoreTable.read(tmp_path / "s.parquet").columns
    assert columns["prompt"].to_pylist() == ["How many?", ""]
    assert columns.schema.field("direction").type == pa.list_(pa.float32())
    assert np.linalg.norm(columns["direction"][0].as_py()) == pytest.approx(1, abs=1e-5)
    assert columns["direction"][1].as_py() is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--dataset", "missing.jsonl"], "no such file"),
        (["--split", "train"], "no splits"),
        (["--limit", "0"], "--limit 0"),
        (["--dtype", "int8"], "--dtype 'int8'"),
        (["--backend", "cuda9"], "backend is 'cuda9'"),
        (["--device", "cuda"], "'cuda' cannot be used"),
        (["--device", "toaster"], "toaster"),
        (["--device", "meta"], "'meta' cannot be used"),
        (["--too-long", "panic"], "panic"),
        (["--model", "./nowhere"], "no such directory"),
        (["--tokens-per-batch", "0"], "tokens_per_batch=0"),
        (["--question-after", "Q:"], "plain-text"),
        (["--overwrite", "--resume"], "exclude each other"),
        (["--task", "gsm9k"], "gsm9k"),
    ],
)
def test_mistakes_on_the_command_line_end_with_one_clear_message(
    model_directory, dataset, tmp_path, more, words, run_cli
):
    if "cuda" in more and os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a CUDA device")
    output = tmp_path / "scores.parquet"
    status, _, error = run_cli(command(model_directory, dataset, output, *more)[3:])
    assert status == 2
    assert words in error
    assert "Traceback" not in error
    assert not output.exists()
