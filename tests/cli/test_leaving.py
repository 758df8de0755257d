"""How a process of several ends: its own status and all that it printed, whatever the backend's threads still hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gainrl.cli.leaving import one_of_several

SCRIPT = str(Path(__file__).with_name("late_collective.py"))


def start(*command: str, rank: int = 0) -> subprocess.Popen[str]:
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": str(rank), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], env=environment, text=True, **pipes)  # type: ignore[call-overload]


def test_a_thread_that_still_holds_tensors_does_not_abort_the_process(tmp_path: Path) -> None:
    ranks = [start(SCRIPT, str(tmp_path / "store"), rank=rank) for rank in range(2)]
    out, error = ranks[0].communicate(timeout=120)
    assert ranks[0].returncode == 3, error[-3000:]
    assert out.splitlines() == ["rank 0: done", "rank 0: exit handler"]
    assert "terminate called" not in error
    _, error = ranks[1].communicate(timeout=120)
    assert ranks[1].returncode == 1, "it was done, but not all of the run"
    assert "rank 1 is done, but another process of this run has died" in error


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(2)", 2, ""),
        ("import sys; sys.exit('no such thing')", 1, "no such thing\n"),
        ("import sys; sys.exit(130)", 130, ""),
        ("raise KeyError('k')", 1, "Traceback"),
        ("raise KeyboardInterrupt", 130, "Traceback"),
        ("import sys; sys.excepthook = lambda *_: print('hook', file=sys.stderr); raise KeyError('k')", 1, "hook\n"),
        (
            "import sys, threading, time; "
            "threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start(); sys.exit(130)",
            130,
            "",
        ),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()", 0, ""),
    ],
)
def test_the_status_is_that_of_the_block(body: str, status: int, said: str) -> None:
    code = f"from gainrl.cli.leaving import one_of_several\nwith one_of_several():\n    {body}\nprint('not reached')"
    out, error = (process := start("-c", code)).communicate(timeout=60)
    assert process.returncode == status, error
    assert error.startswith(said)
    assert out == ("late\n" if "late" in body else "")


def test_what_cannot_be_printed_is_no_success() -> None:
    code = "from gainrl.cli.leaving import one_of_several\nwith one_of_several():\n    print('x')"
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "WORLD_SIZE": "2", "PYTHONUNBUFFERED": ""}
        done = subprocess.run([sys.executable, "-c", code], stdout=full, env=environment, timeout=60, check=False)
    assert done.returncode == 120


@pytest.mark.parametrize("size", ["", "1", "many"])
def test_other_world_sizes_are_one_process(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    with one_of_several():
        pass


def test_a_process_alone_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit), one_of_several():
        raise SystemExit(2)
