"""One pool of processes that grade, and may hang or die without taking anybody along.

The workers are plain subprocesses spoken to over pipes: no fork of this process (which may hold a GPU and threads), no
spawn (which would import the user's `__main__` again), no signal handler, so any thread of any process may ask.  They
start when first needed and end with this process.

A control tells whose fault a failure is.  If a worker dies of a request, is late or fails, the same pool is asked for
something that must be right, such as the gold answer: if it is, the candidate caused the failure and is wrong, else the
row is unscorable.  A model could otherwise choose not to be graded.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import math
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.frames import Gone, Late, frame, receive, send, within

_START = 300.0  # seconds until a worker is there, with its first sandbox, on a machine that is very busy
_PROCESS = "import sys; sys.path.insert(0, sys.argv[1]); from gainrl.tasks.workers import serve; serve(sys.argv[2])"

Request = dict[str, Any]
Reply = dict[str, Any]


def graders() -> int:
    """How many processes grade for this one: `GAINRL_GRADERS`, else its share of the cores that it may use.

    Those are the cores of its affinity, or what the control group's `cpu.max` (version 2) grants of them, divided
    among the ranks of this machine (`LOCAL_WORLD_SIZE`); at least 1.  Raises `UserError` for a bad `GAINRL_GRADERS`.
    """
    named = os.environ.get("GAINRL_GRADERS")
    if named:
        if not named.isdecimal() or int(named) < 1:
            raise UserError(f"GAINRL_GRADERS is {named!r}; it must be a whole number of processes, at least 1")
        return int(named)
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    cores = min(_allowed(), _granted())
    return max(1, int(cores // (int(ranks) if ranks.isdecimal() and int(ranks) else 1)))


def _allowed() -> int:
    """Cores that this process may run on; all of them where the system does not say (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _granted() -> float:
    """Cores that the control groups of this process grant: the least of all levels; inf without a limit."""
    least, root = math.inf, Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        here = root / next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
        for group in (here, *(parent for parent in here.parents if parent.is_relative_to(root))):
            with contextlib.suppress(OSError, ValueError):  # "max 100000" is no limit
                quota, period = map(int, (group / "cpu.max").read_text().split())
                least = min(least, quota / period)
    return least


class WorkerFailed(Exception):
    """The worker died, was late (and killed), or raised; the message says which."""


class _Died(WorkerFailed):
    """The worker ended before it answered, which may be another process's fault: worth a second try."""


class _Worker:
    """One worker process.  Not thread-safe: whoever took it from the pool has it alone."""

    def __init__(self, module: str):
        # -P keeps the working directory off its path; a session of its own keeps the terminal's Ctrl-C away
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROCESS, str(Path(__file__).parents[2]), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._in, self._out = (pipe.fileno() for pipe in (self.process.stdin, self.process.stdout) if pipe)
        os.set_blocking(self._in, False)
        try:
            missing = self._reply(within(_START))["missing"]
        except WorkerFailed as error:
            missing = f"a grading process does not start: {error}"
        if missing:
            self.kill()
            raise UserError(missing)

    def ask(self, request: Request, seconds: float) -> Reply:
        reply = self._reply(within(seconds), frame("Q", json.dumps(request).encode(), seconds))
        if "failed" in reply:
            raise WorkerFailed(reply["failed"])
        return reply

    def _reply(self, wait: Any, sent: bytes = b"") -> Reply:
        try:
            send(self._in, sent, wait)
            reply: Reply = json.loads(receive(self._out, wait, 1 << 32)[2])
        except Late as error:
            raise WorkerFailed(str(error)) from error
        except Gone as error:
            self.process.kill()
            raise _Died(f"exit status {self.process.wait()}") from error
        return reply

    def kill(self) -> None:
        self.process.kill()
        with self.process:  # closes the pipes and waits
            pass


class WorkerPool:
    """Up to `workers` processes (default: `graders()`) that answer with the functions of `module`.

    The module has `MEMORY` (bytes of address space), `prepare()` (loads what answering needs; returns why it cannot, or
    an empty string) and `answer(request)`, a reply: a dictionary with "verdict" and "reason".
    """

    def __init__(self, module: str, workers: int | None = None):
        if workers is not None and workers < 1:
            raise UserError(f"a pool needs at least 1 worker, but was given {workers}")
        self.module, self._answered = module, False
        self.workers = workers or graders()
        self._lock = threading.Lock()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def ask(self, request: Request, seconds: float) -> Reply:
        """The reply of a free worker.  Raises `WorkerFailed`, or `UserError` if workers do not start.

        If one has answered before, a worker that does not start (no memory, no user namespace left) is a failure too.
        """
        with self._lock:
            if self._owner != os.getpid():  # a fork has the parent's pipes, but must not speak into them
                self._reset()
        try:
            return self._ask(request, seconds)
        except _Died:
            return self._ask(request, seconds)

    def _ask(self, request: Request, seconds: float) -> Reply:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self.module)
            reply = worker.ask(request, seconds)
            self._answered = True
            return reply
        except BaseException as error:
            if worker is not None:
                worker.kill()
            worker = None
            if isinstance(error, UserError | OSError) and self._answered:
                raise WorkerFailed(f"it does not start any more: {error}") from error
            raise
        finally:
            self._idle.put(worker)

    def ask_many(
        self, requests: Sequence[Request], seconds: float, control: Callable[[Request], Request] | None = None
    ) -> list[Reply]:
        """One reply a request, in order; `seconds` is the limit of each.

        A request that fails is wrong if the pool answers `control(request)` with the verdict right, else unscorable.
        """

        def one(request: Request) -> Reply:
            try:
                return self.ask(request, seconds)
            except WorkerFailed as error:
                verdict = "unscorable"
                with contextlib.suppress(WorkerFailed):
                    if control is not None and self.ask(control(request), seconds)["verdict"] == "right":
                        verdict = "wrong"
                return {"verdict": verdict, "reason": f"the grading process failed: {error}"}

        if len(requests) < 2:
            return list(map(one, requests))
        with ThreadPoolExecutor(min(self.workers, len(requests))) as threads:
            return list(threads.map(one, requests))

    def close(self) -> None:
        """End the idle workers; the pool starts new ones when used again."""
        if self._owner != os.getpid():
            return
        ended = []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._idle.get_nowait())
        for worker in ended:
            if worker is not None:
                worker.kill()
            self._idle.put(None)


shared_pool = functools.cache(WorkerPool)  # the pool of a module that all tasks of this process use


def serve(name: str) -> None:
    """Be a worker: a frame with one JSON object in, one out, until stdin closes.

    What hangs, crashes or eats memory takes only this process along: a kernel timer kills it some time after a
    request's limit even if the parent is gone.
    """
    into, out = os.dup(0), os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # nothing that a library prints may look like a reply
        os.dup2(quiet, descriptor)
    os.close(quiet)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def reply(content: Reply) -> None:
        send(out, frame("A", json.dumps(content).encode()))

    with contextlib.suppress(Gone):
        try:
            module: Any = importlib.import_module(name)
            missing = module.prepare()
        except Exception as error:
            missing = f"{name} does not start: {type(error).__name__}: {error}"
        reply({"missing": missing})
        if missing:
            return
        resource.setrlimit(resource.RLIMIT_AS, (module.MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            _, seconds, request = receive(into, None, 1 << 32)
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
            try:
                content = module.answer(json.loads(request))
            except Exception as error:
                content = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            signal.setitimer(signal.ITIMER_REAL, 0)
            reply(content)
