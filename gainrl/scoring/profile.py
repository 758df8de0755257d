"""Where the time of a scoring pass goes, and what limits it: the measurements behind `gainrl profile`.

One pass over some prompts is run as `score_dataset` runs it, with a clock on every phase.  Around it, square matrix
products of the model's dtype measure the machine's ceiling; before it, the same pass without the clock says what the
clock costs.  Work is counted over the tokens really forwarded:

    2 · weights of linear layers (of a token's own experts)   per token
    4 · head width · heads                                    per pair of tokens that attention looks at, per layer
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gainrl.errors import UserError
from gainrl.scoring.contract import Prepared
from gainrl.scoring.phases import NO_CLOCK, PhaseClock
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.provenance import Source
from gainrl.scoring.run import score_dataset
from gainrl.scoring.scorer import AngleScorer
from gainrl.scoring.taps import blocks_of, decoder_of

CEILING = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the square product that measures the ceiling."""
TRACED_BATCHES = 8


@dataclass(frozen=True)
class Profile:
    """What one pass cost; seconds, tokens, operations, bytes."""

    prompts: int
    question_tokens: int
    forwarded_tokens: int
    """Tokens that went through the model: shared prefixes once."""
    seconds: float
    """The pass with the clock."""
    unclocked: float
    """The same pass without it."""
    phases: dict[str, float]
    flops: float
    ceiling: float
    """Operations per second of the matrix product."""
    scored_bytes: int
    """Activations that the scorer read."""
    peak_memory: int
    """Of the device: allocated by torch on CUDA, resident in this process on a CPU."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation: work done per second of the pass, over the ceiling."""
        return self.flops / self.seconds / self.ceiling

    @property
    def other(self) -> float:
        """Seconds of the pass in none of the phases: planning, waiting, Python."""
        return max(0.0, self.seconds - sum(self.phases.values()))

    def verdict(self) -> str:
        """One line that says what limits the pass."""
        forward = self.phases.get("forward", 0.0) / self.seconds
        reached = self.flops / self.phases.get("forward", self.seconds) / self.ceiling
        largest = max({**self.phases, "other": self.other}.items(), key=lambda item: item[1])
        if forward >= 0.5:
            if reached >= 0.5:
                return (
                    f"limited by matrix products: the forward pass takes {forward:.0%} at {reached:.0%} of the ceiling"
                )
            return (
                f"limited by the forward pass ({forward:.0%} of the time), which reaches only {reached:.0%} of the "
                "ceiling: batches too small (raise --tokens-per-batch), attention, or layers that are no products"
            )
        remedy = {
            "tokenise": "the tokenizer is slower than the model",
            "transfer": "token ids reach the device too slowly",
            "score": "the scorer is slower than the model: see gainrl doctor for its backend",
            "nll": "the head's logits cost more than the decoder: leave out --nll",
            "write": "the disk is slow",
            "other": "Python between the batches: raise --tokens-per-batch",
        }.get(largest[0], "")
        return f"limited by {largest[0]} ({largest[1] / self.seconds:.0%} of the time): {remedy}"


def profile(scorer: AngleScorer, prompts: Sequence[ScoringPrompt], trace: Path | None = None) -> Profile:
    """Profile a pass over `prompts`; `trace` names a file for a trace of its first batches, for Perfetto.

    Raises UserError if no prompt can be scored.
    """
    device = scorer.device
    scorer.tokens_per_batch  # noqa: B018 -- found before the clock runs
    prepared = [scorer.prepare(prompts[i : i + 4096]) for i in range(0, len(prompts), 4096)]
    shape = _shape(prepared)
    if not shape["forwarded_tokens"]:
        raise UserError("no prompt of the dataset can be scored: there is nothing to profile (gainrl score says why)")
    _pass(scorer, prompts[: min(64, len(prompts))])  # lazy initialisation, caches
    product = _product(next(p.dtype for p in scorer.model.parameters() if p.is_floating_point()), device)
    unclocked = _pass(scorer, prompts)
    before = product()
    clock = PhaseClock(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    scorer.measure(clock)
    try:
        seconds = _pass(scorer, prompts, in_advance=False)  # one phase at a time
    finally:
        scorer.measure(NO_CLOCK)
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    ceiling = statistics.median([before, product(), product()])
    if trace is not None:
        write_trace(scorer, prompts, trace)
    hidden = int(scorer.forward.decoder.config.hidden_size)
    width = next(p for p in scorer.model.parameters() if p.is_floating_point()).element_size()
    return Profile(
        prompts=len(prompts),
        question_tokens=shape["question_tokens"],
        forwarded_tokens=shape["forwarded_tokens"],
        seconds=seconds,
        unclocked=unclocked,
        phases=clock.seconds(),
        flops=operations(scorer.model, shape["forwarded_tokens"], shape["pairs"]),
        ceiling=ceiling,
        scored_bytes=shape["forwarded_tokens"] * hidden * width,
        peak_memory=peak,
        details={
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "form": type(scorer.forward).__name__,
            "tokens_per_batch": scorer.tokens_per_batch,
            "batches": sum(len(window.batches) for window in prepared),
        },
    )


def write_trace(scorer: AngleScorer, prompts: Sequence[ScoringPrompt], path: Path) -> None:
    """A trace of the first TRACED_BATCHES batches (their phases by name), as JSON that Perfetto and Chrome open."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if scorer.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    scorer.measure(PhaseClock(scorer.device))
    try:
        with torch.profiler.profile(activities=activities) as traced, scorer.weights_fixed():
            prepared = scorer.prepare(prompts[:4096])
            found = scorer.score_window(prepared, mine=lambda batches: batches[:TRACED_BATCHES])
            for _ in found:
                pass
    finally:
        scorer.measure(NO_CLOCK)
    traced.export_chrome_trace(str(path))


def _pass(scorer: AngleScorer, prompts: Sequence[ScoringPrompt], *, in_advance: bool | None = None) -> float:
    """Seconds of one whole pass, journal and table included."""
    with tempfile.TemporaryDirectory(prefix="gainrl-profile-") as folder:
        run = score_dataset(
            scorer, prompts, Path(folder) / "scores.parquet", Source("profile"), model_name="profiled", model_hash="",
            in_advance=in_advance,
        )  # fmt: skip
    return run.seconds


def _shape(prepared: Sequence[Prepared]) -> dict[str, int]:
    """Tokens forwarded, question tokens, and pairs of tokens that attention looks at."""
    forwarded = questions = pairs = 0
    last = b""
    for window in prepared:
        for batch in window.batches:
            shared = len(batch.shared)
            key = batch.shared.tobytes()
            if shared and key != last:  # the scorer keeps the last one
                forwarded += shared
                pairs += shared * (shared + 1) // 2
            last = key if shared else last
            for i in batch.members:
                own = len(window.rendered[i].tokens) - shared
                forwarded += own
                questions += window.rendered[i].question
                pairs += own * shared + own * (own + 1) // 2
    return {"forwarded_tokens": forwarded, "question_tokens": questions, "pairs": pairs}


def operations(model: nn.Module, tokens: int, pairs: int) -> float:
    """Floating-point operations of the decoder for `tokens` tokens and `pairs` pairs per layer (module docstring)."""
    decoder: Any = decoder_of(model)
    config = decoder.config
    dense = sum(_weights(m) for m in decoder.modules() if isinstance(m, nn.Linear))
    experts = sum(
        p.numel()
        for module in decoder.modules()
        for p in module.parameters(recurse=False)
        if p.ndim == 3  # all experts of a layer in one tensor
    )
    blocks = blocks_of(decoder)
    listed = sum(
        _weights(m)
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and module is not blocks  # experts as modules of their own
        for m in module.modules()
        if isinstance(m, nn.Linear)
    )
    count = next((n for name in _EXPERTS if (n := getattr(config, name, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    share = chosen / count if count and chosen else 1.0
    if share < 1.0:
        dense, experts = dense - listed, experts + listed
    weights = dense + share * experts
    heads = int(getattr(config, "num_attention_heads", 0))
    head = int(getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
    return float(2 * weights * tokens + 4 * heads * head * pairs * len(blocks))


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _weights(linear: nn.Linear) -> int:
    return linear.in_features * linear.out_features  # a quantised weight's own shape is packed


def _product(dtype: torch.dtype, device: torch.device) -> Any:
    """A function that measures operations per second of one square product."""
    size = CEILING[device.type if device.type in CEILING else "cuda"]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def measure() -> float:
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 2.0 * size**3 / (time.perf_counter() - start)

    measure()
    return measure
