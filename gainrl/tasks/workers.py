"""Processes that answer requests, one JSON object a line, and may hang or die without taking anybody along.

The workers are plain subprocesses spoken to over pipes: no fork of this process (which may hold a GPU and threads), no
signal handler, so any thread of any process may ask.  A worker that is late or dies is killed, reaped and replaced.
They start when first needed and end with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gainrl.errors import UserError

_START = 60.0  # seconds until a worker says hello on a busy machine


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


def _granted(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that the control groups of this process grant: the least of all levels; inf without a limit."""
    least = math.inf
    with contextlib.suppress(OSError, ValueError):
        line = next((line for line in own.read_text().splitlines() if line.startswith("0::")), "0::/")
        here = groups / line[3:].lstrip("/")
        for group in (here, *here.parents):
            with contextlib.suppress(OSError, ValueError):
                quota, period = (group / "cpu.max").read_text().split()
                least = min(least, float(quota) / float(period) if quota != "max" else math.inf)
            if group == groups:
                break
    return least


class WorkerDied(Exception):
    """The worker ended before it answered; the message says with which status."""


class WorkerSlow(Exception):
    """The worker did not answer in time and was killed."""


class _Worker:
    """One worker process.  Not thread-safe: whoever took it from the pool has it alone."""

    def __init__(self, command: Sequence[str]):
        # a session of its own keeps the terminal's Ctrl-C away
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._rest = b""
        try:
            assert self.process.stdin is not None
            os.set_blocking(self.process.stdin.fileno(), False)
            hello = json.loads(self._line(time.monotonic() + _START))
        except BaseException:
            self.kill()
            raise
        if "missing" in hello:
            self.kill()
            raise UserError(hello["missing"])

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        until = time.monotonic() + timeout
        self._write(json.dumps(request).encode() + b"\n", until)
        reply: dict[str, Any] = json.loads(self._line(until))
        return reply

    def _write(self, data: bytes, until: float) -> None:
        assert self.process.stdin is not None
        descriptor = self.process.stdin.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        view = memoryview(data)
        while view:  # a pipe holds 64 KiB: a worker that reads nothing would block a longer request for good
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise WorkerSlow
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerDied(str(error)) from error

    def _line(self, until: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()  # unlike select, good for descriptors above 1023
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise WorkerSlow
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise WorkerDied(f"exit status {self.process.wait()}")
            parts.append(chunk)
        line, self._rest = b"".join(parts).split(b"\n", 1)
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def worker_command(module: Path, limit: float) -> list[str]:
    """The command of a worker that answers with this module's `answer`, `limit` seconds a request at most."""
    return [sys.executable, "-P", str(Path(__file__).with_name("worker_process.py")), str(module), str(limit)]


class WorkerPool:
    """Up to `workers` processes (default: the cores this process may use), each running `command`.

    A worker's first line is a hello: `{"ready": true}`, or `{"missing": why}`, which every request then raises as
    `UserError`.
    """

    def __init__(self, command: Sequence[str], workers: int | None = None):
        if workers is not None and workers < 1:
            raise UserError(f"a pool needs at least 1 worker, but was given {workers}")
        self.command = list(command)
        self.workers = workers or graders()
        self._lock = threading.Lock()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The reply of a free worker.  Raises `WorkerSlow`, or `WorkerDied` where two workers died of it."""
        with self._lock:
            if self._owner != os.getpid():  # a fork has the parent's pipes, but must not speak into them
                self._reset()
        for attempt in range(2):
            worker = self._idle.get()
            try:
                worker = worker or _Worker(self.command)
                return worker.ask(request, timeout)
            except WorkerDied:
                worker = self._drop(worker)
                if attempt:
                    raise
            except BaseException:
                worker = self._drop(worker)
                raise
            finally:
                self._idle.put(worker)
        raise AssertionError("unreachable")

    def ask_many(
        self, requests: Sequence[dict[str, Any]], timeouts: Sequence[float]
    ) -> list[dict[str, Any] | WorkerDied | WorkerSlow]:
        """Replies in the order of the requests, an exception in the place of each one that failed."""

        def one(request: dict[str, Any], timeout: float) -> dict[str, Any] | WorkerDied | WorkerSlow:
            try:
                return self.ask(request, timeout)
            except (WorkerDied, WorkerSlow) as error:
                return error

        if len(requests) < 2:
            return [one(*pair) for pair in zip(requests, timeouts, strict=True)]
        with ThreadPoolExecutor(min(self.workers, len(requests))) as threads:
            return list(threads.map(one, requests, timeouts))

    @staticmethod
    def _drop(worker: _Worker | None) -> None:
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End the idle workers; the pool starts new ones when used again."""
        if self._owner != os.getpid():
            return
        ended = []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._idle.get_nowait())
        for worker in ended:
            self._drop(worker)
            self._idle.put(None)
