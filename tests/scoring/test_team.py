"""Several processes of torchrun: the same table as one, work divided by its cost, kills and other numbers of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_runs import command, gainrl_score

from gainrl.scoring.batching import Batch
from gainrl.scoring.journal import journal_path
from gainrl.scoring.prompts import Rendered
from gainrl.scoring.team import Team, work


def torchrun(processes, *arguments, program=("-m", "gainrl")):
    """`torchrun --nproc-per-node N -m gainrl score ...`, in a session of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    verb = command(*arguments)[3:]
    return subprocess.Popen(
        [*launcher, *program, *verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_write_the_table_of_one_to_the_bit(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    out, error = (process := torchrun(2, model_directory, dataset, output)).communicate(timeout=250)
    assert process.returncode == 0, error[-3000:]
    assert output.read_bytes() == whole.read_bytes()
    assert out.count("200 rows in") == 1, "one process speaks"
    assert os.listdir(tmp_path) == ["scores.parquet"]


@pytest.mark.full
def test_two_killed_processes_are_resumed_by_one(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    process = torchrun(2, model_directory, dataset, output)
    journals = [journal_path(output), journal_path(output, 1)]
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if all(path.exists() and path.stat().st_size > 3000 for path in journals):
            break
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    for child in subprocess.run(
        ["pgrep", "-f", str(output)], capture_output=True, text=True, check=False
    ).stdout.split():  # torchrun gives its workers sessions of their own; the path names them and nothing else
        os.kill(int(child), signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    assert all(path.exists() for path in journals)
    refused = gainrl_score(model_directory, dataset, output)
    assert refused.returncode == 2
    done = gainrl_score(model_directory, dataset, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "taken from an earlier run" in done.stdout
    assert output.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["scores.parquet"]


batches = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), max_size=40)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(lengths=batches, size=st.integers(1, 5))
def test_every_batch_is_somebodys_and_work_is_even(lengths, size):
    rendered, planned = [], []
    for group in lengths:
        members = tuple(range(len(rendered), len(rendered) + len(group)))
        rendered += [Rendered(np.zeros(n, dtype=np.int32), 0) for n in group]
        planned.append(Batch(np.empty(0, dtype=np.int32), members))
    shares = [Team(rank, size).share(planned, rendered, [0] * size) for rank in range(size)]
    taken = sorted(batch.members for share in shares for batch in share)
    assert taken == sorted(batch.members for batch in planned)
    costs = [sum(work(batch, rendered) for batch in share) for share in shares]
    largest = max((work(batch, rendered) for batch in planned), default=0)
    assert max(costs) - min(costs) <= largest, "the largest first, each to whoever has least: one batch apart at most"


def test_uneven_windows_are_evened_out_by_later_ones():
    rendered = [Rendered(np.zeros(100, dtype=np.int32), 0)] * 3
    planned = [Batch(np.empty(0, dtype=np.int32), (i,)) for i in range(3)]
    loads = [0, 0]
    counts = [len(Team(0, 2).share(planned, rendered, loads)) for _ in range(2)]
    assert counts == [2, 1]
    assert loads[0] == loads[1]


@pytest.mark.full
def test_one_killed_process_is_resumed_by_three(model_directory, dataset, whole, tmp_path):
    output = tmp_path / "scores.parquet"
    process = subprocess.Popen(
        command(model_directory, dataset, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    while process.poll() is None and not (journal_path(output).exists() and journal_path(output).stat().st_size > 5000):
        time.sleep(0.002)
    process.kill()
    process.wait()
    _, error = (again := torchrun(3, model_directory, dataset, output, "--resume")).communicate(timeout=280)
    assert again.returncode == 0, error[-3000:]
    assert output.read_bytes() == whole.read_bytes()


IN_ADVANCE = """
import os

import gainrl.scoring
from gainrl.scoring import run

run.WINDOW = 16  # many of them: the collectives of the thread that prepares and of the main thread meet


def score_dataset(*arguments, team, progress, **options):
    finished = 0

    def told(rows, tokens):
        nonlocal finished
        finished += rows
        progress(rows, tokens)
        if finished >= 20 and os.environ.get("FAILS") == str(team.rank):
            raise RuntimeError(f"process {team.rank} has had enough")

    return run.score_dataset(*arguments, team=team, progress=told, in_advance=True, **options)


gainrl.scoring.score_dataset = score_dataset
from gainrl.cli import main

main()
"""


@pytest.fixture
def program(tmp_path_factory):
    """The command with small windows, tokenised in a thread, whose exchanges have a gloo group of their own."""
    path = tmp_path_factory.mktemp("program") / "score.py"
    path.write_text(IN_ADVANCE)
    return [str(path)]


@pytest.mark.full
def test_two_processes_that_prepare_in_a_thread_write_the_table_of_one(model_directory, dataset, program, tmp_path):
    tables = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.parquet"
        _, error = (process := torchrun(processes, model_directory, dataset, output, program=program)).communicate(
            timeout=280
        )
        assert process.returncode == 0, error[-3000:]
        tables.append(output.read_bytes())
    assert tables[0] == tables[1]
    assert sorted(os.listdir(tmp_path)) == ["1.parquet", "2.parquet"]


@pytest.mark.full
@pytest.mark.parametrize("fails", [0, 1])
def test_a_process_that_fails_amid_the_pass_ends_the_others(
    model_directory, dataset, program, tmp_path, monkeypatch, fails
):
    """Nobody waits for it: neither a main thread nor one that prepares windows."""
    monkeypatch.setenv("FAILS", str(fails))
    output = tmp_path / "scores.parquet"
    process = torchrun(2, model_directory, dataset, output, program=program)
    try:
        _, error = process.communicate(timeout=280)
    finally:
        if process.poll() is None:  # it hangs; its workers have sessions of their own and end with it
            process.terminate()
    assert process.returncode != 0
    assert f"RuntimeError: process {fails} has had enough" in error
    assert not output.exists()
    assert journal_path(output, fails).exists(), "finished rows are kept"
