"""Grading programs in sandboxes, from any thread: one grader process per core, each with one sandbox at a time."""

from __future__ import annotations

import base64
import functools
import platform
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.sandbox import codec
from gainrl.tasks.workers import WorkerDied, WorkerPool, WorkerSlow

_ROOT = Path(__file__).parents[3]
_START = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from gainrl.tasks.sandbox.grader import main; main()"


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    test, total: wall seconds for one test and for the whole program; memory: bytes of address space of its only
    process; processes: threads at once, the two of the sandbox included; file_size: bytes of one file; output: bytes
    printed in one test.  CPU time is bounded by the total, /tmp by 64 MiB.
    """

    test: float = 6.0
    total: float = 30.0
    memory: int = 1 << 30
    processes: int = 64
    file_size: int = 16 << 20
    output: int = 8 << 20

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise UserError(f"limits must be positive, but are {self}")


@dataclass(frozen=True)
class Verdict:
    """verdict: right, wrong or unscorable; `outputs` only where they were asked for.

    `lasting`: a trusted solution has none because it raises, which it would do again.
    """

    verdict: str
    reason: str
    passed: int = 0
    total: int = 0
    outputs: Any = None
    lasting: bool = False


class _Graders(WorkerPool):
    """Graders; once one has answered, one that does not start (no memory, no user namespace left) ends nothing."""

    answered = False

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        try:
            reply = super().ask(request, timeout)
        except (UserError, OSError) as error:
            if not self.answered:
                raise
            return {"verdict": "unscorable", "reason": f"a grader does not start any more: {error}"}
        self.answered = True
        return reply


class GraderPool:
    """Grades programs in up to `workers` processes (default: the cores this process may use)."""

    def __init__(self, workers: int | None = None):
        self.pool = _Graders([sys.executable, "-c", _START], workers)

    def grade(self, requests: Sequence[dict[str, Any]], limits: Limits) -> list[Verdict]:
        """One verdict a request (see `grader.py`), in order.  Raises `UserError` where programs cannot be isolated.

        A grader that dies, does not answer or, after others have answered, does not start makes unscorable: its own
        time limits lie well above the program's.
        """
        full = [{**request, "limits": asdict(limits)} for request in requests]
        # a check has two sandboxes; 30 s for a machine that is busy with other things
        replies = self.pool.ask_many(full, [2 * limits.total + 30] * len(full))
        return [_verdict(reply) for reply in replies]

    def outputs(self, code: str, entry: str, inputs: Sequence[Any], limits: Limits) -> Verdict:
        """What a trusted solution returns for each list of arguments; unscorable where it fails."""
        tests = base64.b64encode(codec.encode(list(inputs))).decode()
        return self.grade([{"kind": "outputs", "code": code, "entry": entry, "tests": tests}], limits)[0]

    def close(self) -> None:
        """End the graders; the pool starts new ones when used again."""
        self.pool.close()


def _verdict(reply: dict[str, Any] | WorkerDied | WorkerSlow) -> Verdict:
    if isinstance(reply, WorkerDied):
        return Verdict("unscorable", f"the grading process died twice ({reply})")
    if isinstance(reply, WorkerSlow):
        return Verdict("unscorable", "the grading process did not answer")
    found = codec.decode(base64.b64decode(reply["outputs"])) if "outputs" in reply else None
    lasting = reply.get("lasting", False)
    return Verdict(reply["verdict"], reply["reason"], reply.get("passed", 0), reply.get("total", 0), found, lasting)


def packed(tests: Any) -> str:
    """Tests as a request carries them."""
    return base64.b64encode(codec.encode(tests)).decode()


_shared: GraderPool | None = None
_shared_lock = threading.Lock()


def shared_graders() -> GraderPool:
    """The pool that all tasks of this process use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = GraderPool()
        return _shared


# Tries from inside what must not work; each value is True where it did work.
_BREAK_OUT = """
import _thread, os, socket, time

def attempt(action):
    try:
        return bool(action())
    except BaseException:
        return False

def made(path):
    with open(path, "w") as file:
        file.write("x")
    return True

def fill():
    data = b"x" * (1 << 20)
    for number in range(100):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(data)
    return True

def threads():
    started = 0
    try:
        for _ in range(200):
            _thread.start_new_thread(time.sleep, (1,))  # Thread.start() can wait for ever where memory ends
            started += 1
    except RuntimeError:
        pass
    return started >= 200

def test():
    tried = {
        "start a process": lambda: os.fork() >= 0,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "reach the network": lambda: socket.create_connection(("192.0.2.1", 80), 0.2),
        "bind beyond the loopback": lambda: socket.getaddrinfo("example.org", 80),
        "see other processes": lambda: len([p for p in os.listdir("/proc") if p.isdigit()]) > 3,
        "signal the sandbox's init": lambda: os.kill(1, 0) is None and os.kill(1, 9) is None and False,
        "read the harness's memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
        "write to the sandbox's init": lambda: open("/proc/1/mem", "r+b") or open("/proc/1/oom_score_adj", "w"),
        "reach the machine below a virtual one": lambda: socket.socket(40, socket.SOCK_STREAM),
        "read a home": lambda: any(os.listdir(h) for h in ("/home", "/var", "/srv", "/mnt") if os.path.isdir(h)),
        "read passwords": lambda: open("/etc/shadow"),
        "write to the system": lambda: made("/usr/x") or made("/etc/x"),
        "write to the root": lambda: made("/x"),
        "write to /dev": lambda: made("/dev/x") or made("/dev/shm/x"),
        "fill /tmp": fill,
        "write a huge file": lambda: os.truncate(os.open("/tmp/huge", os.O_CREAT | os.O_RDWR), 1 << 40) is None,
        "take more memory": lambda: len(bytearray(2 << 30)),
        "use memory outside the limit": lambda: os.memfd_create("x"),
        "raise a limit": lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_AS, (-1, -1)) is None,
        "become root": lambda: os.setuid(0) is None,
        "read the environment": lambda: set(os.environ) - {"PATH", "LANG", "PWD", "LC_CTYPE", "OPENBLAS_NUM_THREADS"},
        "read the environment of the sandbox's init": lambda: open("/proc/1/environ", "rb").read().strip(b"\\0"),
        "start 200 threads": threads,  # last: nothing else works once it has eaten the address space
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
    pool = GraderPool(1)
    try:
        limits = Limits(test=20, total=20)
        found = pool.grade([{"kind": "probe", "code": _BREAK_OUT, "entry": "test"}], limits)[0]
    except UserError as error:
        return str(error)
    finally:
        pool.close()
    if found.verdict != "right":
        return f"the bubblewrap self-test does not run: {found.reason}"
    leaks = [name for name, worked in found.outputs[0].items() if worked]
    if leaks:
        return f"bubblewrap does not isolate here; a program in it can {', '.join(leaks)}"
    return "ok"


def require_isolation() -> None:
    """Raise `UserError` where programs cannot be isolated: code tasks refuse to run then."""
    found = isolation()
    if found != "ok":
        raise UserError(f"code tasks run programs that a model wrote, only isolated ones: {found}")
