"""Comparing mathematical answers in processes of their own, so that one may hang, crash or eat memory.

`AnswerPool.compare_many(pairs)` may be called from any thread of any process: the workers are plain subprocesses
spoken to over pipes, no signal handler and no fork of this process is involved.  A comparison that does not end in
`timeout` seconds has its worker killed and is unscorable, as is one whose worker dies twice; neither is ever a
silent wrong.  Workers start when first needed and end with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gainrl.errors import UserError

_WORKER = Path(__file__).with_name("worker.py")
_START = 60.0  # seconds for a worker to import sympy on a busy machine
_REMEMBERED = 65536  # comparisons; training meets the same answers again and again


class Comparison(NamedTuple):
    """verdict: right, wrong or unscorable; answer: one spelling for answers that math-verify reads alike."""

    verdict: str
    reason: str
    answer: str


class _Died(Exception):
    pass


class _Slow(Exception):
    pass


class _Worker:
    """One worker process.  Not thread-safe: whoever took it from the pool has it alone."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        # -P keeps the worker's own folder off its path; a session of its own keeps the terminal's Ctrl-C away
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(2 * timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._rest = b""
        hello = json.loads(self._line(_START))
        if "missing" in hello:
            self.kill()
            raise UserError(f"grading mathematics needs math-verify ({hello['missing']}); pip install 'gainrl[tasks]'")

    def ask(self, gold: str, answer: str) -> Comparison:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _Died(str(error)) from error
        reply = json.loads(self._line(self.timeout))
        return Comparison(reply["verdict"], reply["reason"], reply["answer"])

    def _line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        descriptor = self._process.stdout.fileno()
        poll = select.poll()  # unlike select, good for descriptors above 1023
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Slow
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise _Died(f"exit status {self._process.wait()}")
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class AnswerPool:
    """Up to `workers` processes (default: the cores this process may use) that compare answers."""

    def __init__(self, workers: int | None = None, timeout: float = 5.0):
        if workers is not None and workers < 1:
            raise UserError(f"an answer pool needs at least 1 worker, but was given {workers}")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout = timeout
        self._lock = threading.Lock()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)
        self._known: OrderedDict[tuple[str, str], Comparison] = OrderedDict()

    def compare(self, gold: str, answer: str) -> Comparison:
        return self.compare_many([(gold, answer)])[0]

    def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """Compare (gold, answer) pairs, in order.  Raises `UserError` where math-verify is not installed."""
        with self._lock:
            if self._owner != os.getpid():  # a fork has the parent's pipes, but must not speak into them
                self._reset()
            known = {pair: self._known[pair] for pair in pairs if pair in self._known}
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if len(fresh) == 1:
            known[fresh[0]] = self._one(fresh[0])
        elif fresh:
            with ThreadPoolExecutor(min(self.workers, len(fresh))) as threads:
                known.update(zip(fresh, threads.map(self._one, fresh), strict=True))
        with self._lock:
            for pair in fresh:
                if known[pair].verdict != "unscorable":  # a busy machine may do better next time
                    self._known[pair] = known[pair]
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [known[pair] for pair in pairs]

    def _one(self, pair: tuple[str, str]) -> Comparison:
        why = ""
        for _ in range(2):
            worker = self._idle.get()
            try:
                worker = worker or _Worker(self.timeout)
                return worker.ask(*pair)
            except _Slow:
                self._drop(worker)
                worker = None
                return Comparison("unscorable", f"comparing took more than {self.timeout:g} s", "")
            except _Died as error:
                why = str(error)
                self._drop(worker)
                worker = None
            except BaseException:
                self._drop(worker)
                worker = None
                raise
            finally:
                self._idle.put(worker)
        return Comparison("unscorable", f"the grading process died twice ({why})", "")

    @staticmethod
    def _drop(worker: _Worker | None) -> None:
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End the workers; the pool starts new ones when used again."""
        if self._owner != os.getpid():
            return
        ended = []
        with contextlib.suppress(queue.Empty):
            while True:
                ended.append(self._idle.get_nowait())
        for worker in ended:
            self._drop(worker)
            self._idle.put(None)


_shared: AnswerPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> AnswerPool:
    """The pool that all tasks of this process use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = AnswerPool()
        return _shared
