"""No attack is graded right, none touches anything outside, none stays, none takes longer than 2 s over its limit."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gainrl.tasks.sandbox import GraderPool, Limits, isolation
from gainrl.tasks.sandbox.filter import filters
from gainrl.tasks.sandbox.pool import packed
from tests.tasks.attacks import CALLS, PROGRAMS

pytestmark = pytest.mark.skipif(isolation() != "ok", reason=f"bubblewrap: {isolation()}")

SECRET = f"secret-{os.urandom(16).hex()}"
LIMITS = Limits(test=0.7, total=1.0, memory=512 << 20)


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    os.environ["GAINRL_TEST_TOKEN"] = SECRET  # like an access token that a trainer's environment may hold
    graders = GraderPool(1)
    graders.grade([request("def solve(x): return x")], LIMITS)
    test = "def check(candidate): assert candidate(1) == 1"  # starts the sandbox that is kept for datasets' tests
    graders.grade([{"kind": "check", "code": "def f(x): return x", "entry": "f", "prompt": "", "test": test}], LIMITS)
    yield graders
    graders.close()
    del os.environ["GAINRL_TEST_TOKEN"]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canary")
    folder.chmod(0o777)
    path = folder / "file"
    path.write_text("alive")
    path.chmod(0o666)
    return path


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server on this machine's loopback and an abstract socket, which hand out the secret to whoever reaches them."""
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    servers[1].bind(f"\0gainrl-canary-{servers[0].getsockname()[1]}")  # test processes run side by side
    servers[1].listen()

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(SECRET.encode())
            connection.close()

    threads = [threading.Thread(target=serve, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield servers[0].getsockname()[1]
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def request(code: str) -> dict[str, object]:
    return {"kind": "calls", "code": code, "entry": "solve", "tests": packed([((1,), {}, SECRET)])}


def descendants(of: int) -> set[int]:
    """Living processes below a process, by /proc."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry)] = int(fields[1])
    found = {of}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {of}
        found |= more


def strangers(grader: int) -> set[int]:
    """Processes of the grader's user, which is its own where tests run as root; elsewhere `descendants` has to do."""
    user = Path("/proc", str(grader)).stat().st_uid
    if user == os.getuid():
        return set()
    found = set()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and Path("/proc", entry).stat().st_uid == user:
                found.add(int(entry))
        except OSError:
            continue
    return found


def grader_of(pool: GraderPool) -> int:
    worker = next(worker for worker in pool.pool._idle.queue if worker is not None)
    return worker.process.pid


def peak(process: int) -> int:
    """MiB of memory that a process held at most."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10


def table(path: str) -> str:
    return Path(path).read_text()


def check(pool: GraderPool, canary: Path, attack: dict[str, object]) -> None:
    grader = grader_of(pool)
    before, below = strangers(grader), descendants(grader)
    inside = len(os.listdir(f"/proc/{grader}/fd"))
    tables = table("/proc/sys/fs/aio-nr")
    began = time.monotonic()
    verdict = pool.grade([attack], LIMITS)[0]
    took = time.monotonic() - began
    assert verdict.verdict == "wrong", verdict
    assert SECRET not in verdict.reason.split(", not ")[0], "the program saw what it must not"
    assert took < LIMITS.total + 2, verdict  # the backstop is 1.5 of it and a second
    assert verdict.reason.isprintable()
    assert grader_of(pool) == grader, "the grader itself died"
    assert descendants(grader) <= below
    assert strangers(grader) <= before
    assert len(os.listdir(f"/proc/{grader}/fd")) == inside
    assert peak(grader) < 512, "decoding took memory without limit"
    assert table("/proc/sys/fs/aio-nr") == tables
    assert canary.read_text() == "alive"
    assert os.listdir(canary.parent) == ["file"]


@pytest.mark.parametrize("name", CALLS)
def test_a_function_that_attacks_is_wrong_and_leaves_nothing(
    pool: GraderPool, canary: Path, port: int, name: str
) -> None:
    code = CALLS[name].replace("CANARY", str(canary)).replace("PORT", str(port))
    check(pool, canary, request(code))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_attacks_is_wrong_and_leaves_nothing(pool: GraderPool, canary: Path, name: str) -> None:
    check(pool, canary, {"kind": "stdin", "code": PROGRAMS[name], "tests": [["1\n", SECRET]]})


@pytest.mark.parametrize(
    "name", ["__eq__ is always true", "os._exit(0) in the call", "sys.exit(0) in the call", "patched builtins"]
)
def test_the_tests_of_a_dataset_are_out_of_reach_too(pool: GraderPool, canary: Path, name: str) -> None:
    test = f"def check(candidate):\n    assert candidate(1) == {SECRET!r}\n"
    check(pool, canary, {"kind": "check", "code": CALLS[name], "entry": "solve", "prompt": "", "test": test})


def test_the_honest_answer_is_right(pool: GraderPool) -> None:
    verdict = pool.grade([request(f"def solve(x): return {SECRET!r}")], Limits())[0]
    assert verdict.verdict == "right"


@pytest.mark.parametrize("name", ["a starved init on one core", "threads that burn all cores", "sleeping"])
def test_no_attack_outlives_its_grader(name: str) -> None:
    graders = GraderPool(1)
    graders.grade([request("def solve(x): return x")], LIMITS)
    pid = grader_of(graders)
    asking = threading.Thread(target=graders.grade, args=([request(CALLS[name])], Limits(test=60, total=60)))
    asking.start()
    until = time.monotonic() + 10
    while not (inside := descendants(pid)) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)
    inside |= descendants(pid)
    assert inside
    os.kill(pid, 9)  # as when the trainer ends, or the pool loses patience
    until = time.monotonic() + 3
    while any(Path(f"/proc/{one}").exists() for one in inside) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [one for one in inside if Path(f"/proc/{one}").exists()]
    for pid in descendants(os.getpid()):  # the second try
        if b"gainrl.tasks.sandbox.grader" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
    asking.join()
    graders.close()


def test_the_filters_are_for_both_architectures() -> None:
    sizes = [len(program) for machine in ("x86_64", "aarch64") for program in filters(machine)]
    assert min(sizes) > 500
    with pytest.raises(OSError, match="not known"):
        filters("m68k")
