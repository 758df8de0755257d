"""Ctrl-C at any moment of a scoring run: status 130 and what is left can be resumed, or the run was over."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from scoring_runs import command, gainrl_score

from gainrl import scoring
from gainrl.scoring.journal import journal_path


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """SIGINT as a terminal has it: jobs that a shell without job control starts with `&` ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def plainly() -> None:
    signal.raise_signal(signal.SIGINT)


def in_a_destructor() -> None:
    class Dies:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Dies()
    gc.collect()


def as_another_error() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("the library was interrupted") from None


@pytest.fixture
def after_a_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen once the first batch is in the journal."""

    def arrange(happen: Callable[[], None]) -> None:
        score_dataset = scoring.score_dataset

        def watched(*arguments, progress, **options):
            batches = 0

            def told(rows, tokens):
                nonlocal batches
                progress(rows, tokens)
                batches += 1
                if batches == 2:
                    happen()

            return score_dataset(*arguments, progress=told, **options)

        monkeypatch.setattr(scoring, "score_dataset", watched)

    return arrange


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("happen", [plainly, in_a_destructor, as_another_error])
def test_ctrl_c_ends_with_one_line_and_keeps_the_finished_rows(
    model_directory, dataset, whole, tmp_path, after_a_batch, monkeypatch, happen
):
    """Also where Python drops the exception, or a library makes another one of it."""
    output = tmp_path / "scores.parquet"
    after_a_batch(happen)
    stopped = gainrl_score(model_directory, dataset, output)
    assert stopped.returncode == 130
    assert stopped.stderr.splitlines()[-1] == (
        f"interrupted: finished rows are kept beside {output}; go on with --resume"
    )
    assert "Traceback" not in stopped.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    done = gainrl_score(model_directory, dataset, output, "--resume")
    assert done.returncode == 0
    assert "taken from an earlier run" in done.stdout
    assert output.read_bytes() == whole.read_bytes()


def test_ctrl_c_before_the_first_batch_leaves_nothing_and_says_so(model_directory, dataset, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gainrl.scoring.run.windows", interrupted)
    stopped = gainrl_score(model_directory, dataset, tmp_path / "scores.parquet")
    assert stopped.returncode == 130
    assert stopped.stderr.splitlines()[-1] == "interrupted: no finished rows are left to go on from"
    assert not os.listdir(tmp_path)


def test_a_background_job_that_ignores_ctrl_c_goes_on(model_directory, dataset, whole, tmp_path, after_a_batch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    after_a_batch(plainly)
    output = tmp_path / "scores.parquet"
    assert gainrl_score(model_directory, dataset, output).returncode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


HEARD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gainrl.cli import main
main()
"""


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "moment",
    [
        *(("seconds", n) for n in (1.0, 3.0)),  # libraries and model are loaded
        *(("bytes", n) for n in (0, 1500, 9000, 40_000)),  # of the journal
        ("writing", 0),
        *(("written", n) for n in (0.0, 0.05)),  # seconds after the table is there
    ],
    ids=str,
)
def test_ctrl_c_at_any_moment_ends_a_run_that_can_be_resumed(model_directory, dataset, whole, tmp_path, moment):
    kind, size = moment
    output = tmp_path / "scores.parquet"
    journal, started = journal_path(output), time.monotonic()

    def due() -> bool:
        if kind == "seconds":
            return time.monotonic() - started >= size
        if kind == "bytes":
            return journal.exists() and journal.stat().st_size > size
        return output.exists() if kind == "written" else any(path.suffix == ".tmp" for path in tmp_path.iterdir())

    arguments = [sys.executable, "-c", HEARD, *command(model_directory, dataset, output)[3:]]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(arguments, text=True, cwd="/", **pipes)  # type: ignore[call-overload]
    while process.poll() is None and not due():
        time.sleep(0.0005)
    if kind == "written":
        time.sleep(size)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    # Killed by the signal itself (130 to a shell): Python's own start and end, outside the program.
    assert process.returncode in (130, -signal.SIGINT, 0), error
    assert process.returncode != 130 or "Traceback" not in error or "Exception ignored" in error, error
    if process.returncode == 0:
        assert output.read_bytes() == whole.read_bytes(), "the signal came after the end"
        assert not journal.exists()
        return
    again = gainrl_score(model_directory, dataset, output, "--resume")
    assert again.returncode == 0, again.stderr
    assert output.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["scores.parquet"]
