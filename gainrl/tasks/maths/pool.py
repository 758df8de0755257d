"""Comparing mathematical answers in processes of their own, so that one may hang, crash or eat memory.

A comparison that does not end in `timeout` seconds has its worker killed, as has one whose worker dies twice.  Whose
fault it was, the gold answer alone says: where it evaluates in time, the answer is wrong, with the reason, since a
model could otherwise choose not to be graded; where it does not, the row is unscorable.  Works from any thread
(`gainrl.tasks.workers`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gainrl.tasks.workers import WorkerDied, WorkerPool, WorkerSlow, worker_command

_WORKER = Path(__file__).with_name("worker.py")
_REMEMBERED = 65536  # comparisons; training meets the same answers again and again


class Comparison(NamedTuple):
    """verdict: right, wrong or unscorable; answer: one spelling for answers that math-verify reads alike."""

    verdict: str
    reason: str
    answer: str


class AnswerPool:
    """Up to `workers` processes (default: the cores this process may use) that compare answers."""

    def __init__(self, workers: int | None = None, timeout: float = 5.0):
        self.timeout = timeout
        # -P keeps the worker's own folder off its path
        self.pool = WorkerPool(worker_command(_WORKER, 2 * timeout), workers)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Comparison] = OrderedDict()

    def compare(self, gold: str, answer: str) -> Comparison:
        return self.compare_many([(gold, answer)])[0]

    def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """Compare (gold, answer) pairs, in order.  Raises `UserError` where math-verify is not installed."""
        with self._lock:
            known = {pair: self._known[pair] for pair in pairs if pair in self._known}
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        requests = [{"gold": gold, "answer": answer} for gold, answer in fresh]
        for pair, reply in zip(fresh, self.pool.ask_many(requests, [self.timeout] * len(fresh)), strict=True):
            if isinstance(reply, WorkerSlow):
                known[pair] = self._blame(pair[0], f"comparing took more than {self.timeout:g} s")
            elif isinstance(reply, WorkerDied):
                known[pair] = self._blame(pair[0], f"the grading process died twice ({reply})")
            else:
                known[pair] = Comparison(reply["verdict"], reply["reason"], reply["answer"])
        with self._lock:
            for pair in fresh:
                if known[pair].verdict != "unscorable":  # a busy machine may do better next time
                    self._known[pair] = known[pair]
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [known[pair] for pair in pairs]

    def _blame(self, gold: str, why: str) -> Comparison:
        """The verdict on an answer that could not be compared: wrong where the gold answer alone can be evaluated."""
        try:
            reply = self.pool.ask({"gold": gold, "answer": None}, self.timeout)
        except (WorkerSlow, WorkerDied):
            return Comparison("unscorable", why, "")
        if reply["verdict"] != "right":
            return Comparison("unscorable", why, "")
        return Comparison("wrong", f"{why}, which the gold answer alone does not", "")

    def close(self) -> None:
        """End the workers; the pool starts new ones when used again."""
        self.pool.close()


_shared: AnswerPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> AnswerPool:
    """The pool that all tasks of this process use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = AnswerPool()
        return _shared
