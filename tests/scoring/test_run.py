"""Whole runs: the table of a dataset, and runs that end early and go on."""

from __future__ import annotations

import copy
import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from scoring_runs import command, gainrl_score, run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, ScoringSettings, open_rows, scoring_prompts
from gainrl.scoring import parts as parts_module
from gainrl.table import ScoreTable, content_ids

TOLERANCE = 5e-6
SYSTEM = {"role": "system", "content": "Answer the question step by step."}
ROWS = [ScoringPrompt([SYSTEM, {"role": "user", "content": f"{n} apples " * (n % 5 + 1)}]) for n in range(60)]


@pytest.fixture(scope="module")
def scorer(make_model, tokenizer):
    return AngleScorer(make_model(), tokenizer, tokens_per_batch=64, directions=True, nll=True)


@pytest.fixture(scope="module")
def expected(scorer, tmp_path_factory):
    return run(scorer, ROWS, tmp_path_factory.mktemp("expected") / "s.parquet").table


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    """Chunks of 16 rows, so that a run has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gainrl.scoring.parts.CHUNK", 16)
        patch.setattr("gainrl.scoring.run.CHUNK", 16)
        yield


def assert_same(table, expected):
    assert table.ids == expected.ids
    assert table.column("status").tolist() == expected.column("status").tolist()
    assert np.allclose(table.column("score"), expected.column("score"), atol=TOLERANCE, equal_nan=True)
    assert table.metadata == expected.metadata


def test_the_table_holds_what_the_scorer_says_in_dataset_order(scorer, expected, tmp_path):
    found = scorer.score(ROWS)
    assert expected.ids == content_ids(row.prompt for row in ROWS)
    assert np.allclose(expected.column("score"), found.score, atol=TOLERANCE)
    assert np.allclose(expected.column("nll"), found.nll, atol=1e-5)
    assert expected.column("prefix_tokens").tolist() == found.prefix_tokens.tolist()
    assert expected.metadata.definition == "intra+inter"
    assert pq.read_schema(expected.path).field("direction").type.value_type == "halffloat"
    directions = np.concatenate([block for _, block in expected.directions()])
    assert np.allclose(directions, found.directions, atol=1e-3)
    assert np.argsort(expected.column("position")).tolist() == np.argsort(-found.score, kind="stable").tolist()
    assert os.listdir(expected.path.parent) == ["s.parquet"]


def test_directions_are_float32_where_asked_for_and_null_where_there_is_none(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, directions=True, direction_dtype="float32")
    rows = [*ROWS[:3], ScoringPrompt([SYSTEM]), *ROWS[3:5]]
    table = run(scorer, rows, tmp_path / "s.parquet").table
    assert pq.read_schema(table.path).field("direction").type.value_type == "float"
    ((at, block),) = table.directions()
    assert at.tolist() == [0, 1, 2, 4, 5]
    assert np.allclose(np.linalg.norm(block, axis=1), 1, atol=1e-6)


def test_a_prompt_without_a_prefix_is_undefined_only_where_others_have_one(make_model, tokenizer, tmp_path):
    without_bos = copy.deepcopy(tokenizer)
    without_bos.backend_tokenizer.post_processor = None
    plain = AngleScorer(make_model(), without_bos)
    bare = [ScoringPrompt("how many apples"), ScoringPrompt("how many pears")]
    mixed = [*bare, ScoringPrompt("2 + 2 = 4\nhow many", "how many")]
    tables = [run(plain, rows, tmp_path / f"{len(rows)}.parquet").table for rows in (bare, mixed)]
    assert tables[0].status_counts() == {"ok": 2}
    assert tables[0].metadata.definition == "intra"
    assert tables[1].column("status").tolist() == ["undefined", "undefined", "ok"]
    assert tables[1].column("position").tolist() == [1, 2, 0]


def test_rows_that_are_no_prompt_have_a_row_with_a_reason(scorer, tmp_path):
    odd = [None, 7, ["a"], [{"role": "user", "content": b"x"}], "lone \ud800 surrogate", [SYSTEM]]
    rows = [ROWS[0], *(ScoringPrompt(value) for value in odd), ScoringPrompt("", problem="no such \ud800 column")]
    table = run(scorer, rows, tmp_path / "s.parquet").table
    assert table.column("status").tolist() == ["ok"] + ["failed"] * 7
    assert all(reason for reason in table.columns["reason"].to_pylist()[1:])
    assert table.column("position").tolist() == list(range(8))
    assert table.join(row.prompt for row in rows).tolist() == list(range(8))


def test_equal_prompts_are_told_apart_by_occurrence(scorer, tmp_path):
    rows = [ROWS[n % 7] for n in range(40)]
    table = run(scorer, rows, tmp_path / "s.parquet", keep_prompts=False).table
    assert table.ids == content_ids(row.prompt for row in rows)
    assert "prompt" not in table.columns.column_names


@pytest.mark.parametrize("stop", [1, 17, 59])
@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_an_interrupted_run_goes_on_with_what_it_lacks(scorer, expected, tmp_path, stop, seconds):
    output = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(scorer, ROWS, output, progress=stop_after(stop), seconds_per_part=seconds)
    with pytest.raises(UserError, match="use --resume to go on"):
        run(scorer, ROWS, output)
    again = run(scorer, ROWS, output, resume=True)
    assert again.kept >= stop
    assert again.kept + again.scored == len(ROWS)
    assert_same(again.table, expected)
    assert os.listdir(tmp_path) == ["s.parquet"]


def killed(scorer, output, seconds: float) -> None:
    """A run in a child process that SIGKILL ends after so many seconds, at whatever it does then."""
    child = os.fork()
    if not child:
        try:
            run(scorer, ROWS, output, resume=True, seconds_per_part=0.02, progress=lambda *_: time.sleep(0.002))
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("moment", [3, 11, *(pytest.param(n, marks=pytest.mark.full) for n in range(20))])
def test_a_run_killed_at_random_moments_ends_with_the_same_table(scorer, expected, tmp_path, moment):
    output, random = tmp_path / "s.parquet", np.random.default_rng(moment)
    for _ in range(2):  # the second run is one that goes on
        killed(scorer, output, random.uniform(0, 0.5))
    assert_same(run(scorer, ROWS, output, resume=True).table, expected)
    assert os.listdir(tmp_path) == ["s.parquet"]


def test_a_killed_command_loses_no_part(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    with subprocess.Popen(command(model_directory, dataset, output), stderr=subprocess.PIPE) as child:
        while b"prompts/s" not in child.stderr.read1() and child.poll() is None:
            pass
        child.kill()
    done = gainrl_score(model_directory, dataset, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same(ScoreTable.read(output), ScoreTable.read(whole))


def interrupted(scorer, rows, output, stop=20):
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, progress=stop_after(stop))
    return output


def test_parts_of_other_settings_or_rows_are_refused_and_kept(make_model, tokenizer, scorer, expected, tmp_path):
    output = interrupted(scorer, ROWS, tmp_path / "s.parquet")
    kept = sorted(os.listdir(f"{output}.parts"))
    other = AngleScorer(make_model(), tokenizer, directions=True, nll=True, too_long="truncate")
    with pytest.raises(UserError, match="too_long: 'skip' there, 'truncate' now"):
        run(other, ROWS, output, resume=True)
    for rows in ([ROWS[1], *ROWS[1:]], ROWS[:10]):
        with pytest.raises(UserError, match=r"another dataset"):
            run(scorer, rows, output, resume=True)
    assert set(kept) <= set(os.listdir(f"{output}.parts"))
    assert run(scorer, ROWS, output, overwrite=True).kept == 0


def test_another_question_in_the_same_prompt_is_another_dataset(scorer, tmp_path):
    rows, others = (
        [ScoringPrompt(f"{n} plums, {n} pears", f"{n} {fruit}") for n in range(40)] for fruit in ("pears", "plums")
    )
    output = interrupted(scorer, rows, tmp_path / "s.parquet")
    with pytest.raises(UserError, match="another dataset"):
        run(scorer, others, output, resume=True)
    assert run(scorer, rows, output, resume=True).kept >= 20
    with pytest.raises(UserError, match="the dataset's rows"):
        run(scorer, others, output, resume=True)
    assert run(scorer, rows, output, resume=True).kept == 40


def test_a_damaged_part_is_named(scorer, expected, tmp_path):
    output = interrupted(scorer, ROWS, tmp_path / "s.parquet")
    part = next(output.with_name("s.parquet.parts").glob("000000-*"))
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(UserError, match=rf"{part.name} is damaged.*remove it"):
        run(scorer, ROWS, output, resume=True)
    part.unlink()
    assert_same(run(scorer, ROWS, output, resume=True).table, expected)


def test_a_finished_table_is_kept_or_replaced_as_asked(make_model, tokenizer, scorer, expected, tmp_path):
    output = tmp_path / "s.parquet"
    run(scorer, ROWS, output)
    before = output.read_bytes()
    with pytest.raises(UserError, match="exists and is kept"):
        run(scorer, ROWS, output)
    again = run(scorer, ROWS, output, resume=True)
    assert (again.kept, again.scored) == (len(ROWS), 0)
    with pytest.raises(UserError, match="the dataset's rows"):
        run(scorer, ROWS[::-1], output, resume=True)
    with pytest.raises(UserError, match=r"finished table of other settings .nll: True there, False now"):
        run(AngleScorer(make_model(), tokenizer, directions=True), ROWS, output, resume=True)
    assert output.read_bytes() == before
    run(scorer, ROWS[:5], output, overwrite=True)
    assert len(ScoreTable.read(output)) == 5
    with pytest.raises(UserError, match="exclude each other"):
        run(scorer, ROWS, output, overwrite=True, resume=True)


@pytest.mark.parametrize("write", ["write_table", "ParquetWriter"])
def test_a_full_disk_is_one_sentence_and_finished_rows_stay(scorer, expected, tmp_path, monkeypatch, write):
    output, calls, real = tmp_path / "s.parquet", 0, getattr(pq, write)

    def full(*arguments, **options):
        nonlocal calls
        calls += 1
        if write == "ParquetWriter" or calls > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(parts_module.pq, write, full)
        with pytest.raises(UserError, match=r"the disk of .* is full; finished rows are kept in .*\.parts"):
            run(scorer, ROWS, output)
    assert not output.exists()
    again = run(scorer, ROWS, output, resume=True)
    assert again.kept == (60 if write == "ParquetWriter" else 32)
    assert_same(again.table, expected)


def test_nothing_is_written_where_no_row_can_be_scored_or_there_is_none(scorer, tmp_path):
    with pytest.raises(UserError, match="none of the first 3 rows can be scored; one of them: the chat has no"):
        run(scorer, [ScoringPrompt([SYSTEM])] * 3, tmp_path / "s.parquet")
    with pytest.raises(UserError, match="the dataset is empty"):
        run(scorer, [], tmp_path / "s.parquet")
    run(scorer, ROWS[:3], tmp_path / "s.parquet")
    assert os.listdir(tmp_path) == ["s.parquet"]


@pytest.mark.parametrize("name", ["s.csv", "s", "s.jsonl", "folder.parquet", "none/s.parquet"])
def test_an_output_that_is_no_parquet_file_to_be_is_refused(scorer, tmp_path, name):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match=r"ends in \.parquet|does not exist"):
        run(scorer, ROWS, tmp_path / name)


def test_settings_do_for_a_scorer(model_directory, dataset, whole, tmp_path):
    settings = ScoringSettings(model=model_directory, device="cpu", tokens_per_batch=24)
    table = run(settings, list(scoring_prompts(open_rows(dataset))), tmp_path / "s.parquet").table
    assert np.allclose(table.column("score"), ScoreTable.read(whole).column("score"), atol=TOLERANCE, equal_nan=True)


def test_two_processes_share_the_chunks(model_directory, tmp_path):
    """5,000 rows are two chunks, one for each process of torchrun."""
    data = tmp_path / "p.jsonl"
    data.write_text("".join(f'{{"prompt": "question {n % 4999}"}}\n' for n in range(5000)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    more = ["--tokens-per-batch", "8192"]
    two = command(model_directory, data, tmp_path / "two.parquet", *more)[2:]
    done = subprocess.run([*torchrun, *two], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5000 rows in" in done.stdout
    assert ": 5000 scored in" in done.stdout
    assert gainrl_score(model_directory, data, tmp_path / "one.parquet", *more).returncode == 0
    assert_same(ScoreTable.read(tmp_path / "two.parquet"), ScoreTable.read(tmp_path / "one.parquet"))
