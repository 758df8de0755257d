"""The pool of killable workers: failures, blame, threads, forks, scripts without a guard."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gainrl.errors import UserError
from gainrl.tasks import workers
from gainrl.tasks.workers import WorkerFailed, WorkerPool, graders

WORKER = """
import os, sys, time
MEMORY = 1 << 30
def prepare():
    print("not a reply")
    return ""
def answer(request):
    what = request["what"]
    if what == "die": os._exit(3)
    if what == "raise": raise KeyError("no")
    if what == "hang":
        while True: pass
    if what == "eat": bytearray(2 << 30)
    return {"verdict": "right" if what == "gold" else "wrong", "reason": str(os.getpid())}
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = WorkerPool("a_worker", 2)
    yield made
    made.close()


@pytest.mark.parametrize("what", ["die", "raise", "hang", "eat"])
def test_what_a_request_causes_is_wrong_if_the_control_is_right(pool: WorkerPool, what: str) -> None:
    for control, verdict in (("gold", "wrong"), ("other", "unscorable"), ("die", "unscorable")):
        found = pool.ask_many([{"what": what}], 0.5, lambda _, name=control: {"what": name})
        assert [reply["verdict"] for reply in found] == [verdict]
        assert "failed" in found[0]["reason"]
    assert pool.ask_many([{"what": what}], 0.5)[0]["verdict"] == "unscorable"
    with pytest.raises(WorkerFailed):
        pool.ask({"what": what}, 0.5)


def test_any_thread_may_ask_and_replies_keep_their_order(pool: WorkerPool) -> None:
    replies: list[str] = []

    def ask() -> None:
        asked = [{"what": "gold" if n % 3 else "other"} for n in range(30)]
        replies.extend(reply["verdict"] for reply in pool.ask_many(asked, 10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == (["wrong", "right", "right"] * 10) * 4


def test_a_fork_has_workers_of_its_own_and_nothing_stays(pool: WorkerPool) -> None:
    mine = {reply["reason"] for reply in pool.ask_many([{"what": "gold"}] * 4, 10)}
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, pool.ask({"what": "gold"}, 10)["reason"].encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() not in mine
    os.close(read)
    os.close(write)
    pool.close()
    until = time.monotonic() + 5
    while any(Path("/proc", pid).exists() for pid in mine) and time.monotonic() < until:
        time.sleep(0.01)
    assert not [pid for pid in mine if Path("/proc", pid).exists()]


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(UserError, match="nowhere does not start: ModuleNotFoundError"):
        WorkerPool("gainrl.tasks.nowhere").ask({}, 1)
    with pytest.raises(UserError, match="at least 1 worker"):
        WorkerPool("gainrl.tasks.nowhere", 0)


def test_a_script_without_a_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from gainrl.tasks import load_task\n"
        "row = {'question': '?', 'answer': '2x'}\n"
        "print(load_task('math500').grade(r'It is \\boxed{x+x}.', row).status)\n"
    )
    paths = os.pathsep.join([str(Path(workers.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    for command in ([str(script)], ["-c", f"exec(open({str(script)!r}).read())"]):
        run = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        assert (run.stdout, run.stderr) == ("right\n", "")


def test_the_number_of_graders_is_the_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAINRL_GRADERS", raising=False)
    monkeypatch.setattr(workers, "_allowed", lambda: 8)
    monkeypatch.setattr(workers, "_granted", lambda: 6.5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert graders() == 3
    monkeypatch.setenv("GAINRL_GRADERS", "5")
    assert graders() == 5
    monkeypatch.setenv("GAINRL_GRADERS", "none")
    with pytest.raises(UserError, match="GAINRL_GRADERS"):
        graders()
