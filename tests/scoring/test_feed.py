"""What feeds a pass: shares of a window tokenised by several processes, and windows made ahead in a thread."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from scoring_runs import run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, feed
from gainrl.scoring import run as runs
from gainrl.scoring.feed import ahead
from gainrl.scoring.journal import journal_path
from gainrl.scoring.prompts import Rendered
from gainrl.scoring.team import Team


@dataclass
class Meeting:
    """Where the threads that stand for a team's processes exchange values."""

    size: int
    values: dict[int, object] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.size, timeout=60)

    def __call__(self, rank, value):
        self.values[rank] = value
        self.barrier.wait()
        found = [self.values[rank] for rank in range(self.size)]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Threads(Team):
    meetings: tuple[Meeting, ...] = ()

    def gather(self, value):
        return self.meetings[0](self.rank, value)

    def exchange(self, value):
        return self.meetings[1](self.rank, value)

    @contextmanager
    def ready(self):
        yield self


def together(size, work):
    """`work(team)` in `size` threads; their results, the first exception raised."""
    meetings, results = (Meeting(size), Meeting(size)), [None] * size

    def one(rank):
        try:
            results[rank] = work(Threads(rank, size, None, meetings))
        except BaseException as error:
            results[rank] = error
            for meeting in meetings:
                meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(runs, "WINDOW", 16)


def rows_with_faults():
    rows = [ScoringPrompt([{"role": "user", "content": f"question {n} of {n % 7}"}]) for n in range(70)]
    rows[3] = ScoringPrompt([{"role": "system", "content": "nobody asks"}])
    rows[40] = ScoringPrompt([{"role": "user", "content": " "}])
    rows[41] = ScoringPrompt("", problem="the row has no column 'prompt', only ['x']")
    rows[42] = ScoringPrompt([{"role": "user", "content": "long " * 300}])
    return rows


@pytest.fixture
def scorers(make_model, tokenizer):
    """As many scorers as asked for, and how many prompts each has tokenised."""
    model, counts = make_model(), {}

    def make(rank=0):
        scorer = AngleScorer(model, tokenizer, tokens_per_batch=24)
        counts[rank], real = 0, scorer.renderer.__call__

        def counted(prompts):
            counts[rank] += len(prompts)
            return real(prompts)

        scorer.renderer.__class__ = type(
            "Counted", (type(scorer.renderer),), {"__call__": lambda _, rows: counted(rows)}
        )
        return scorer

    return make, counts


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("in_advance", [False, True])
def test_a_team_tokenises_each_prompt_once_and_writes_the_table_of_one(
    scorers, small_windows, tmp_path, size, in_advance
):
    make, counts = scorers
    rows = rows_with_faults()
    run(make(), rows, tmp_path / "one.parquet")
    counts.clear()
    output = tmp_path / "several.parquet"
    together(size, lambda team: run(make(team.rank), rows, output, team=team, in_advance=in_advance))
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert sum(counts.values()) == len(rows)
    assert max(counts.values()) - min(counts.values()) <= -(-len(rows) // 16), "shares of a window differ by one"
    table = runs.ScoreTable.read(output)
    assert table.status_counts() == {"ok": 66, "undefined": 1, "skipped": 1, "failed": 2}
    assert table.columns["reason"][41].as_py() == "the row has no column 'prompt', only ['x']"


def test_a_resumed_team_tokenises_only_windows_that_are_owed(scorers, small_windows, tmp_path):
    make, counts = scorers
    rows = rows_with_faults()
    run(make(), rows, tmp_path / "one.parquet")
    output = tmp_path / "several.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(make(), rows, output, progress=stop_after(40))
    counts.clear()
    together(3, lambda team: run(make(team.rank), rows, output, team=team, resume=True, in_advance=True))
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert sum(counts.values()) == 70 - 2 * 16, "two windows were whole"


@pytest.mark.parametrize("in_advance", [False, True])
def test_processes_that_read_different_rows_are_told(scorers, small_windows, tmp_path, in_advance):
    make, _ = scorers
    rows = rows_with_faults()

    def work(team):
        own = rows[: 70 - 30 * team.rank]
        return run(make(team.rank), own, tmp_path / "scores.parquet", team=team, in_advance=in_advance)

    with pytest.raises(UserError, match="processes 0 and 1 read different rows"):
        together(2, work)
    assert journal_path(tmp_path / "scores.parquet").exists(), "finished rows are kept"


@pytest.mark.parametrize("size", [1, 3])
def test_all_results_are_on_disk_before_one_process_reads_those_of_the_others(
    scorers, small_windows, tmp_path, monkeypatch, size
):
    """Of several machines that share a folder, one sees what another has synced, not what it holds back."""
    make, _ = scorers
    output, synced, seen = tmp_path / "scores.parquet", {}, []
    fsync, write_table = os.fsync, runs.write_table

    def noted(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    def checked(journals, *arguments, **options):
        for journal in journals:
            status = journal.path.stat()
            seen.append(synced.get(status.st_ino) == status.st_size)
        return write_table(journals, *arguments, **options)

    monkeypatch.setattr("gainrl.scoring.journal._SYNC_SECONDS", 1e9)  # none by the clock
    monkeypatch.setattr("gainrl.scoring.journal.os.fsync", noted)
    monkeypatch.setattr(runs, "write_table", checked)
    together(size, lambda team: run(make(team.rank), rows_with_faults(), output, team=team))
    assert seen == [size > 1] * size, "a process alone has nobody who reads"


def test_processes_that_do_not_share_the_output_are_told_before_anything_is_scored(scorers, tmp_path, monkeypatch):
    make, counts = scorers
    monkeypatch.setattr(runs, "PATIENCE", 0.2)

    def work(team):
        (tmp_path / str(team.rank)).mkdir()
        return run(make(team.rank), rows_with_faults(), tmp_path / str(team.rank) / "scores.parquet", team=team)

    with pytest.raises(UserError, match=r"process 0 does not see the results of process 1 .*share"):
        together(2, work)
    assert sum(counts.values()) == 0


def test_a_team_that_starts_anew_harms_no_run_that_reads_the_journals_of_others(scorers, small_windows, tmp_path):
    make, _ = scorers
    rows, output = rows_with_faults(), tmp_path / "scores.parquet"
    refusals = []

    def intrude(*_):
        if not refusals:
            with pytest.raises(UserError, match="another gainrl score") as refusal:
                together(2, lambda team: run(make(team.rank), rows, output, team=team, overwrite=True))
            refusals.append(refusal)

    run(make(), rows, tmp_path / "one.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(make(), rows, output, progress=stop_after(40))
    journal_path(output).rename(journal_path(output, 1))
    run(make(), rows, output, resume=True, progress=intrude)
    assert refusals
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize("in_advance", [False, True])
def test_a_dataset_that_changed_is_noticed_before_anything_is_tokenised(scorers, small_windows, tmp_path, in_advance):
    make, counts = scorers
    rows, output = rows_with_faults(), tmp_path / "scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(make(), rows, output, progress=stop_after(40))
    counts.clear()
    rows[0] = ScoringPrompt("another")
    with pytest.raises(UserError, match="not the one that"):
        run(make(), rows, output, resume=True, in_advance=in_advance)
    assert sum(counts.values()) == 0


def test_what_is_packed_for_the_others_comes_out_alike():
    rendered = [
        Rendered(np.arange(5, dtype=np.int32), 2),
        Rendered(np.empty(0, dtype=np.int32), 0, "failed", "why"),
        Rendered(np.arange(9, dtype=np.int32), 0, truncated=4, reason="12 tokens"),
        Rendered(np.arange(1, dtype=np.int32), 0),
    ]
    for given in (rendered, rendered[1:2], []):
        found = list(feed._unpacked(*feed._packed(given)))
        assert [(p.tokens.tolist(), p.tokens.dtype, p.prefix, p.status, p.reason, p.truncated) for p in found] == [
            (p.tokens.tolist(), p.tokens.dtype, p.prefix, p.status, p.reason, p.truncated) for p in given
        ]


def test_items_made_ahead_are_the_same_and_few():
    made = []

    def items():
        for n in range(20):
            made.append(n)
            yield n

    taken = []
    for n in ahead(items(), 2):
        taken.append(n)
        assert len(made) <= n + 4, "two that wait, one being made, one that was taken"
    assert taken == list(range(20))


def test_an_error_ahead_is_raised_in_its_place_and_leaving_early_ends_the_thread():
    def items():
        yield 1
        raise UserError("row 2 is bad")

    source = ahead(items(), 2)
    assert next(source) == 1
    with pytest.raises(UserError, match="row 2 is bad"):
        next(source)
    source = ahead(iter(range(1000)), 1)
    next(source)
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gainrl-windows"]
