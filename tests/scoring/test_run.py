"""Score tables on disk: provenance, resume after a kill, outputs that exist, datasets that change."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
from gainrl.scoring.run import journal_path
from gainrl.table import ScoreTable, content_ids, fingerprint


@pytest.fixture(scope="module")
def model_directory(make_model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """200 chats of a few words, every tenth one a repeat, one of them empty, one without a user turn."""
    random = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    system = {"role": "system", "content": "Answer the question step by step."}
    rows = []
    for n in range(200):
        question = " ".join(random.choice(["tom", "buys", "3", "apples", "at", "noon"], random.integers(1, 9)))
        rows.append([system, {"role": "user", "content": "repeat me" if n % 10 == 0 else f"{n} {question}"}])
    rows[17] = [system, {"role": "user", "content": ""}]
    rows[18] = [system]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    return path


def run(scorer, rows, output, **options):
    source = Source("memory", None, None, len(rows))
    return score_dataset(scorer, rows, output, source, model_name="tiny", model_hash="weights:0", **options)


def command(model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    verb = [sys.executable, "-m", "gainrl", "score", "--model", str(model), "--dataset", str(dataset)]
    return [*verb, "--output", str(output), "--tokens-per-batch", "24", "--device", "cpu", *more]


def gainrl_score(*arguments) -> subprocess.CompletedProcess[str]:
    """The command in this process (importing torch anew for each costs seconds); killed runs have their own."""
    from gainrl.cli import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gainrl", *command(*arguments)[3:]])
        try:
            main()
        except SystemExit as done:
            status = int(done.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def whole(model_directory, dataset, tmp_path_factory) -> Path:
    """The table of one uninterrupted run of the command."""
    output = tmp_path_factory.mktemp("whole") / "scores.parquet"
    done = gainrl_score(model_directory, dataset, output)
    assert done.returncode == 0, done.stderr
    assert "prompts/s" in done.stdout
    assert "1 undefined, 1 failed" in done.stdout
    assert "row 17 (" in done.stdout
    assert "failed: the chat has no user message" in done.stdout
    assert "Spearman" in done.stdout
    return output


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


def kill_and_resume(model: Path, dataset: Path, output: Path, batches: int) -> None:
    """Start, SIGKILL once about `batches` batches are in the journal, resume to the end."""
    process = subprocess.Popen(
        command(model, dataset, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    partial = journal_path(output)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if partial.exists() and partial.stat().st_size > 1200 * (batches + 1):  # its header alone has 1.2 kB or more
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert partial.exists()
    again = gainrl_score(model, dataset, output)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    done = gainrl_score(model, dataset, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "taken from an earlier run" in done.stdout
    assert not partial.exists()


@pytest.mark.parametrize(
    "batches", [3, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2, 5, 9, 14, 20, 27, 35, 44, 54))]
)
def test_a_killed_run_resumes_to_the_same_table_to_the_bit(model_directory, dataset, whole, tmp_path, batches):
    output = tmp_path / "scores.parquet"
    kill_and_resume(model_directory, dataset, output, batches)
    assert output.read_bytes() == whole.read_bytes()


def test_ctrl_c_ends_with_one_line_and_keeps_the_finished_rows(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    arguments = command(model_directory, dataset, output)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    while process.poll() is None and not (journal_path(output).exists() and journal_path(output).stat().st_size > 5000):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with --resume" in error
    assert "Traceback" not in error
    assert gainrl_score(model_directory, dataset, output, "--resume").returncode == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_finished_table_resumes_to_itself_and_is_kept_without_overwrite(model_directory, dataset, whole):
    before = whole.read_bytes()
    kept = gainrl_score(model_directory, dataset, whole)
    assert kept.returncode == 2
    assert "exists and is kept" in kept.stderr
    assert gainrl_score(model_directory, dataset, whole, "--resume").returncode == 0
    other = gainrl_score(model_directory, dataset, whole, "--resume", "--too-long", "truncate")
    assert other.returncode == 2
    assert "too_long" in other.stderr
    assert whole.read_bytes() == before


def test_a_dataset_that_changed_since_is_refused_and_the_journal_kept(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"

    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, progress=stop_after(10))
    kept = journal_path(output).read_bytes()
    changed = [ScoringPrompt("another question"), *rows[1:]]
    with pytest.raises(UserError, match="not the one that"):
        run(scorer, changed, output, resume=True)
    with pytest.raises(UserError, match="not the one that"):
        run(scorer, rows[:5], output, resume=True)
    assert journal_path(output).read_bytes() == kept
    assert len(run(scorer, rows, output, resume=True).table) == 20


def test_a_second_writer_on_the_same_output_is_refused(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"
    seen = []

    def intrude(*_):
        if not seen:
            with pytest.raises(UserError, match="another gainrl score") as refusal:
                run(scorer, rows, output, resume=True)
            seen.append(refusal)

    assert len(run(scorer, rows, output, progress=intrude).table) == 20
    assert seen


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


def stop_after(count: int):
    """A progress callback that interrupts the run once `count` rows are finished."""

    def progress(finished: int, _: int) -> None:
        nonlocal count
        count -= finished
        if count <= 0:
            raise KeyboardInterrupt

    return progress


def test_a_full_disk_while_the_table_is_written_keeps_the_finished_rows(make_model, tokenizer, tmp_path, monkeypatch):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"

    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gainrl.scoring.run.pq.ParquetWriter", Full)
        with pytest.raises(UserError, match=r"disk .* is full; 20 finished rows are kept"):
            run(scorer, rows, output)
    assert not output.exists()
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    resumed = run(scorer, rows, output, resume=True)
    assert (resumed.kept, resumed.scored) == (20, 0)


ON_A_SMALL_DISK = """
import errno, sys
from pathlib import Path
from gainrl.scoring.journal import Journal
from gainrl.scoring.scorer import RowResult
journal = Journal(Path(sys.argv[1]) / "j", {})
try:
    for row in range(100_000):
        journal.append([row], [str(row)], None, [RowResult("ok", None)])
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    kept = len(journal)
    journal.close()
    assert len(Journal(Path(sys.argv[1]) / "j", {})) == kept > 10
    print("kept", kept)
"""


def test_a_journal_on_a_disk_that_fills_keeps_every_whole_batch(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: no small file system to fill")
    jail = ["bwrap", "--dev-bind", "/", "/", "--size", "65536", "--tmpfs", str(tmp_path)]
    done = subprocess.run(
        [*jail, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("kept"), done.stderr


def test_a_torn_journal_loses_only_what_is_torn(make_model, tokenizer, tmp_path):
    """Whatever a power cut leaves behind: any cut, and blocks of zeros after it."""
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=12)
    rows = [ScoringPrompt(f"question {n}") for n in range(12)]
    output = tmp_path / "scores.parquet"
    run(scorer, rows, output)
    expected = output.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, overwrite=True, progress=stop_after(12))
    journal = journal_path(output).read_bytes()
    output.unlink()
    for cut in range(1, len(journal), max(1, len(journal) // 40)):
        for tail in (b"", bytes(64)):
            journal_path(output).write_bytes(journal[:cut] + tail)
            run(scorer, rows, output, resume=True)
            assert output.read_bytes() == expected, f"cut at {cut}, {len(tail)} zeros after it"
            output.unlink()


def test_overwrite_is_refused_while_another_run_writes_and_harms_nothing(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"
    refusals = []

    def intrude(*_):
        with pytest.raises(UserError, match="another gainrl score") as refusal:
            run(scorer, rows, output, overwrite=True)
        refusals.append(refusal)

    assert len(run(scorer, rows, output, progress=intrude).table) == 20
    assert refusals
    assert os.listdir(tmp_path) == ["scores.parquet"]


@pytest.mark.parametrize(
    ("then", "now", "options", "words"),
    [
        ({}, {"backend": "torch"}, {}, "backend"),
        ({}, {"directions": True}, {}, "directions"),
        ({}, {"tokens_per_batch": 9}, {}, "tokens_per_batch"),
        ({}, {}, {"keep_prompts": False}, "prompts"),
    ],
)
def test_resuming_with_another_plan_or_other_columns_is_refused_by_name(
    make_model, tokenizer, tmp_path, then, now, options, words
):
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"
    first = AngleScorer(make_model(), tokenizer, **{"tokens_per_batch": 8, **then})
    with pytest.raises(KeyboardInterrupt):
        run(first, rows, output, progress=stop_after(7))
    second = AngleScorer(make_model(), tokenizer, **{"tokens_per_batch": 8, **now})
    with pytest.raises(UserError, match=words):
        run(second, rows, output, resume=True, **options)
    run(first, rows, output, resume=True)


def test_a_finished_table_is_not_resumed_for_another_dataset_or_other_columns(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    rows = [ScoringPrompt(f"question {n}") for n in range(5)]
    output = tmp_path / "scores.parquet"
    run(scorer, rows, output)
    with pytest.raises(UserError, match="the dataset's rows"):
        run(scorer, [*rows, ScoringPrompt("one more")], output, resume=True)
    with pytest.raises(UserError, match="direction"):
        run(AngleScorer(scorer.model, tokenizer, directions=True), rows, output, resume=True)


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
        (["--backend", "cuda9"], "--backend 'cuda9'"),
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
