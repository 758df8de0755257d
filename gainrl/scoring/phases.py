"""Where the time of a scoring pass goes: named phases, timed only when somebody asks.

The scorer wraps its work in `clock("forward")` and the like.  `NO_CLOCK` does nothing.  `PhaseClock` measures: on a
CPU with the wall clock, on CUDA with events (nothing waits until the end), and marks each phase for profilers
(`torch.profiler`, and NVTX ranges on CUDA).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

Clock = Callable[[str], AbstractContextManager[None]]
PHASES = ("tokenise", "transfer", "forward", "nll", "score", "write")


def NO_CLOCK(phase: str) -> AbstractContextManager[None]:
    """The clock that measures nothing."""
    return nullcontext()


class PhaseClock:
    """Seconds per phase; phases do not overlap and are not nested."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._host: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        on_device = self._cuda and phase not in ("tokenise", "write")
        cuda: Any = torch.cuda
        if self._cuda:
            cuda.nvtx.range_push(f"gainrl:{phase}")
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2)) if on_device else (None, None)
        start = time.perf_counter()
        if begin is not None:
            begin.record()
        try:
            with torch.profiler.record_function(f"gainrl:{phase}"):
                yield
        finally:
            if end is not None:
                end.record()
                self._events.append((phase, begin, end))
            else:
                self._host[phase] = self._host.get(phase, 0.0) + time.perf_counter() - start
            if self._cuda:
                cuda.nvtx.range_pop()

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far, in the order of `PHASES`; waits for the device."""
        total = dict(self._host)
        if self._events:
            torch.cuda.synchronize()
            for phase, begin, end in self._events:
                total[phase] = total.get(phase, 0.0) + begin.elapsed_time(end) / 1e3
        return {phase: total[phase] for phase in PHASES if phase in total}
