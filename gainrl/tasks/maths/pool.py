"""Comparing mathematical answers in processes of their own (`gainrl.tasks.workers`), with a memory.

If a comparison fails or takes longer than `timeout`, the gold answer alone is the control: where it can be evaluated,
the answer is wrong, else the row is unscorable.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from gainrl.tasks.workers import WorkerPool

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
        self.pool = WorkerPool("gainrl.tasks.maths.worker", workers)
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
        replies = self.pool.ask_many(requests, self.timeout, control=lambda request: {**request, "answer": None})
        with self._lock:
            for pair, reply in zip(fresh, replies, strict=True):
                known[pair] = Comparison(reply["verdict"], reply["reason"], reply.get("answer", ""))
                if reply["verdict"] != "unscorable":  # a busy machine may do better next time
                    self._known[pair] = known[pair]
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [known[pair] for pair in pairs]

    def close(self) -> None:
        """End the workers; the pool starts new ones when used again."""
        self.pool.close()


@functools.cache
def shared_pool() -> AnswerPool:
    """The pool that all tasks of this process use."""
    return AnswerPool()
