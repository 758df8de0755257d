"""Grading programs in sandboxes, from any thread: one grader process per core, each with one program at a time."""

from __future__ import annotations

import functools
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.sandbox import codec
from gainrl.tasks.workers import Request, WorkerPool


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    test, total: seconds of CPU time for one test and for the whole program, which has no more than its tests can need
    and 5 seconds; 1.5 times as much wall time and a second is the backstop.  memory: bytes of address space of its only
    process; processes: threads at once, the two of the sandbox included; output: bytes printed in one test.
    """

    test: float = 6.0
    total: float = 30.0
    memory: int = 1 << 30
    processes: int = 64
    output: int = 8 << 20

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise UserError(f"limits must be positive, but are {self}")


@dataclass(frozen=True)
class Verdict:
    """verdict: right, wrong or unscorable; `outputs` (packed tests) only where they were asked for.

    `lasting`: a trusted solution has none because it raises, which it would do again.  `differs`: the first failure is
    an output other than the expected one.
    """

    verdict: str
    reason: str
    passed: int = 0
    total: int = 0
    outputs: str = ""
    lasting: bool = False
    differs: bool = False


def packed(tests: Sequence[tuple[Any, Any, Any]]) -> str:
    """Tests (args, kwargs, expected) as a request carries them."""
    return json.dumps([[codec.encode((a, k)).decode(), codec.encode(e).decode()] for a, k, e in tests])


class GraderPool:
    """Grades programs in up to `workers` processes (default: the cores this process may use)."""

    def __init__(self, workers: int | None = None):
        self.pool = WorkerPool("gainrl.tasks.sandbox.grader", workers)

    def grade(self, requests: Sequence[Request], limits: Limits) -> list[Verdict]:
        """One verdict a request (see `grader.py`), in order.  Raises `UserError` where programs cannot be isolated.

        A program that a grader cannot cope with is wrong if another one is graded right then, else unscorable.
        """
        control = {
            "kind": "calls", "code": "def f(x): return x", "entry": "f", "tests": packed([((1,), {}, 1)]),
            "limits": asdict(Limits()),
        }  # fmt: skip

        full = [{**request, "limits": asdict(limits)} for request in requests]
        # a program's own limits end it long before: two sandboxes' wall time, and what a busy machine needs to start
        return [Verdict(**reply) for reply in self.pool.ask_many(full, 4 * limits.total + 300, lambda _: control)]

    def close(self) -> None:
        """End the graders; the pool starts new ones when used again."""
        self.pool.close()


shared_graders = functools.cache(GraderPool)  # the pool that all tasks of this process use


# Tries from inside what must not work; each value is True where it did work.  `bound` is what the sandbox may show.
# One system call stands for all that the filter forbids, which libseccomp decides and no machine.
_BREAK_OUT = """
import _thread, os, resource, socket

def attempt(action):
    try:
        return bool(action())
    except BaseException:
        return False

def threads():
    _thread.stack_size(1 << 16)  # small ones, so that the limit on threads is met and not the one on memory
    gate, started = _thread.allocate_lock(), 0
    gate.acquire()
    try:
        while started < 200:
            _thread.start_new_thread(gate.acquire, ())  # Thread.start() can wait for ever where memory ends
            started += 1
    except RuntimeError:
        return False
    return True

def strange(folder, bound):
    for path in (os.path.join(folder, name) for name in os.listdir(folder)):
        if path not in bound and not (any(b.startswith(path + "/") for b in bound) and not strange(path, bound)):
            return True
    return False

def test(bound, names):
    homes = [folder for folder in ("/home", "/root", "/var", "/srv", "/mnt") if os.path.isdir(folder)]
    me = os.getppid()
    tried = {
        "start a process": lambda: os.fork() >= 0,
        "make sockets": lambda: socket.socket(socket.AF_UNIX) or socket.socket(40, socket.SOCK_STREAM),
        "reach the network": lambda: socket.create_connection(("192.0.2.1", 80), 0.2),
        "see other processes": lambda: len([p for p in os.listdir("/proc") if p.isdigit()]) > 3,
        "read the harness's memory": lambda: open(f"/proc/{me}/mem", "rb"),
        "write to the sandbox's init": lambda: open("/proc/1/mem", "r+b") or open("/proc/1/oom_score_adj", "w"),
        "write to /proc": lambda: open("/proc/self/oom_score_adj", "w") or open("/proc/self/autogroup", "w"),
        "read a home": lambda: any(strange(folder, bound) for folder in homes),
        "read passwords": lambda: open("/etc/shadow"),
        "write files": lambda: any(attempt(lambda: open(f"{f}/x", "w")) for f in ("", "/tmp", "/usr", "/etc", "/dev")),
        "take more memory": lambda: len(bytearray(2 << 30)),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) is None,
        "become root": lambda: os.setuid(0) is None,
        "read the environment": lambda: set(os.environ) - {*names, "PWD", "LC_CTYPE"},
        "read the environment of the sandbox's init": lambda: open("/proc/1/environ", "rb").read().strip(b"\\0"),
        "start 200 threads": threads,
    }
    return {name: attempt(action) for name, action in tried.items()}
"""


@functools.cache
def isolation() -> str:
    """ "ok" where programs can be isolated on this machine (measured by trying to break out), else what is missing."""
    if not sys.platform.startswith("linux"):
        return f"bubblewrap needs Linux; this is {platform.system()}"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed; install it (apt-get install bubblewrap, dnf install bubblewrap)"
    from gainrl.tasks.sandbox.jail import ENVIRONMENT, shown

    pool = GraderPool(1)
    tests = packed([((list(shown()), list(ENVIRONMENT)), {}, None)])
    request = {"kind": "outputs", "code": _BREAK_OUT, "entry": "test", "tests": tests}
    try:
        for _ in range(3):  # a busy machine may be late
            found = pool.grade([request], Limits(test=20, total=20))[0]
            if found.verdict == "right":
                break
    except UserError as error:
        return str(error)
    finally:
        pool.close()
    if found.verdict != "right":
        return f"the bubblewrap self-test does not run: {found.reason}"
    worked = codec.decode(json.loads(found.outputs)[0][1].encode())
    leaks = [name for name in worked if worked[name]]
    if leaks:
        return f"bubblewrap does not isolate here; a program in it can {', '.join(leaks)}"
    return "ok"


def require_isolation() -> None:
    """Raise `UserError` where programs cannot be isolated: code tasks refuse to run then."""
    found = isolation()
    if found != "ok":
        raise UserError(f"code tasks run programs that a model wrote, only isolated ones: {found}")
