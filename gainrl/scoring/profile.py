"""Where the time of a scoring pass goes: torch's profiler around the pass, its phases by name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from gainrl.errors import UserError
from gainrl.scoring.base import PHASES
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.scorer import AngleScorer

WARM = 32


@dataclass(frozen=True)
class Profile:
    """What one pass over some prompts cost."""

    prompts: int
    scored: int
    """Prompts with a score."""
    tokens: int
    """Question tokens of these."""
    seconds: float
    """Of the pass, under the profiler."""
    phases: dict[str, tuple[float, float]]
    """Seconds of each of PHASES on the host and on a GPU."""
    peak_memory: int
    """Bytes that torch held at most on the GPU; 0 on a CPU."""


def profile(scorer: AngleScorer, prompts: Sequence[ScoringPrompt], trace: Path | None = None) -> Profile:
    """Profile a pass over `prompts`; `trace` names a JSON file for Perfetto.  UserError if no prompt has a score."""
    cuda = scorer.device.type == "cuda"
    scorer.score(prompts[:WARM])  # what is compiled, allocated and measured once
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    if cuda:
        torch.cuda.reset_peak_memory_stats(scorer.device)
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        scores = scorer.score(prompts)
        seconds = time.perf_counter() - start
    if not (scored := scores.status.count("ok")):
        raise UserError(f"no prompt of the dataset can be scored: {next(filter(None, scores.reasons), 'it is empty')}")
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    events: dict[str, Any] = {event.key: event for event in profiler.key_averages()}
    found = {name: events.get(f"gainrl:{name}") for name in PHASES}
    phases = {
        name: (event.cpu_time_total / 1e6, event.device_time_total / 1e6) if event else (0.0, 0.0)
        for name, event in found.items()
    }
    peak = torch.cuda.max_memory_allocated(scorer.device) if cuda else 0
    return Profile(len(prompts), scored, int(scores.question_tokens.sum()), seconds, phases, peak)
