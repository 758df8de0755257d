"""Runs that end early: kills, torn journals, full disks, datasets and settings that changed, second writers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scoring_runs import command, gainrl_score, run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.journal import Journal, journal_path


def kill_and_resume(model: Path, dataset: Path, output: Path, batches: int) -> None:
    """Start, SIGKILL once about `batches` batches are in the journal, resume to the end."""
    process = subprocess.Popen(
        command(model, dataset, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    partial = journal_path(output)
    deadline = time.monotonic() + 200  # a busy machine took 107 s to the first batch
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


def test_a_file_system_without_locks_is_not_taken_for_a_second_writer(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("gainrl.scoring.journal.fcntl.flock", refused)
    with pytest.raises(
        UserError, match=r"cannot be locked \(No locks available\): choose an --output on a file system"
    ):
        Journal(tmp_path / "scores.parquet.partial", {}, window=64)


def test_a_full_disk_while_the_table_is_written_keeps_the_finished_rows(make_model, tokenizer, tmp_path, monkeypatch):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"

    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gainrl.scoring.finish.pq.ParquetWriter", Full)
        with pytest.raises(UserError, match=r"disk .* is full; 20 finished rows are kept"):
            run(scorer, rows, output)
    assert not output.exists()
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    resumed = run(scorer, rows, output, resume=True)
    assert (resumed.kept, resumed.scored) == (20, 0)


def test_a_full_disk_while_a_finished_table_is_resumed_is_one_error(make_model, tokenizer, tmp_path, monkeypatch):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"
    run(scorer, rows, output)
    before = output.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("gainrl.scoring.ordering.os.posix_fallocate", full)
        with pytest.raises(UserError, match=r"the disk of .* is full; .*scores\.parquet is whole.* make room"):
            run(scorer, rows, output, resume=True)
    assert output.read_bytes() == before
    assert run(scorer, rows, output, resume=True).kept == 20


ON_A_SMALL_DISK = """
import errno, sys
from pathlib import Path
from gainrl.scoring.journal import Journal
from gainrl.scoring.results import RowResult
journal = Journal(Path(sys.argv[1]) / "j", {}, window=64)
try:
    for row in range(100_000):
        journal.append([row], [bytes(8)], None, [RowResult("ok", None)])
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    kept = len(journal)
    journal.close()
    assert len(Journal(Path(sys.argv[1]) / "j", {}, window=64)) == kept > 10
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
    kept = journal_path(output).read_bytes()
    second = AngleScorer(make_model(), tokenizer, **{"tokens_per_batch": 8, **now})
    with pytest.raises(UserError, match=words):
        run(second, rows, output, resume=True, **options)
    assert journal_path(output).read_bytes() == kept, "the finished rows stay"
    assert run(first, rows, output, resume=True).kept >= 7


def test_results_stay_if_reading_them_again_is_interrupted(make_model, tokenizer, tmp_path, monkeypatch):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(20)]
    output = tmp_path / "scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, progress=stop_after(7))
    kept = journal_path(output).read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gainrl.scoring.journal.Journal._note", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(scorer, rows, output, resume=True)
    assert journal_path(output).read_bytes() == kept


@pytest.mark.parametrize("left", ["nothing", "half a header", "another run's header", "this run's header"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_killed_before_its_first_batch_leaves_nothing_in_the_way(
    make_model, tokenizer, tmp_path, left, resume
):
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=8)
    rows = [ScoringPrompt(f"question {n}") for n in range(6)]
    output = tmp_path / "scores.parquet"
    run(scorer, rows, output)
    expected = output.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, overwrite=True, progress=stop_after(1))
    output.unlink()
    journal = journal_path(output)
    header = 8 + int.from_bytes(journal.read_bytes()[:4], "little")
    if left == "another run's header":
        other = Journal(tmp_path / "other", {"model": "another one"}, window=64)
        journal.write_bytes(other.path.read_bytes())
        other.close()
    else:
        os.truncate(journal, {"nothing": 0, "half a header": header // 2, "this run's header": header}[left])
    again = run(scorer, rows, output, resume=resume)
    assert (again.kept, again.scored) == (0, 6)
    assert output.read_bytes() == expected
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_a_new_journal_is_known_to_the_folder_on_disk_before_it_takes_results(tmp_path, monkeypatch):
    """Its own blocks are flushed every second; without the folder's a power cut takes the file's name."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino) or fsync(file))
    journal = Journal(tmp_path / "scores.parquet.partial", {}, window=64)
    assert tmp_path.stat().st_ino in synced
    journal.close()


def test_a_new_journal_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gainrl.scoring.journal.sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path / "scores.parquet.partial", {}, window=64)
    assert not os.listdir(tmp_path)


def test_a_finished_table_is_not_resumed_for_another_dataset_or_other_columns(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    rows = [ScoringPrompt(f"question {n}") for n in range(5)]
    output = tmp_path / "scores.parquet"
    run(scorer, rows, output)
    with pytest.raises(UserError, match="the dataset's rows"):
        run(scorer, [*rows, ScoringPrompt("one more")], output, resume=True)
    with pytest.raises(UserError, match="direction"):
        run(AngleScorer(scorer.model, tokenizer, directions=True), rows, output, resume=True)
