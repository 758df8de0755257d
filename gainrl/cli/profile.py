"""`gainrl profile`: where the time of a scoring pass goes, by torch's profiler around the pass."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError

WARM = 32
"""Prompts that are scored before: for what is compiled, allocated and measured once."""


def profile(
    model: Annotated[str, typer.Option(help="Hub id, local directory, or smollm2-135m (the packaged model).")],
    dataset: Annotated[str | None, typer.Option(help="As for gainrl score.")] = None,
    task: Annotated[str | None, typer.Option(help="As for gainrl score.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset or task.")] = None,
    limit: Annotated[int, typer.Option(help="Profile the pass over the first LIMIT rows.")] = 256,
    question_after: Annotated[str | None, typer.Option(help="As for gainrl score.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as this machine is fast), float32, bfloat16, float16.")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, native, triton, torch or reference.")] = "auto",
    attention: Annotated[str, typer.Option(help="auto, grouped, flex or padded.")] = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="As for gainrl score.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="As for gainrl score.")] = False,
    nll: Annotated[bool, typer.Option("--nll", help="With the likelihoods that gainrl score --nll stores.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write a trace here (.json), for ui.perfetto.dev.")] = None,
) -> None:
    """Measure where a scoring pass spends its time, with torch's profiler."""
    if trace is not None and not (trace := trace.expanduser()).parent.is_dir():
        raise UserError(f"--trace {trace}: the folder {trace.parent} does not exist")
    from gainrl.cli.score import prompts_of

    rows, _ = prompts_of(dataset, task, split, limit)
    prompts = list(rows)

    import torch
    from torch.profiler import ProfilerActivity

    from gainrl.scoring import AngleScorer
    from gainrl.scoring.base import PHASES

    scorer = AngleScorer(
        model, device=device, dtype=dtype, backend=backend, tokens_per_batch=tokens_per_batch, nll=nll,
        question_after=question_after, attention=attention, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    scorer.score(prompts[:WARM])
    activities = [ProfilerActivity.CPU]
    if cuda := scorer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.reset_peak_memory_stats(scorer.device)
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        scores = scorer.score(prompts)
        seconds = time.perf_counter() - start
    if not (scored := scores.status.count("ok")):
        raise UserError(f"no prompt of the dataset can be scored: {next(filter(None, scores.reasons), 'it is empty')}")
    tokens = int(scores.question_tokens.sum())
    print(f"{scored} of {len(prompts)} prompts scored, {tokens:,} question tokens, {seconds:.2f} s")
    print(f"({scorer.dtype}, {scorer.form} attention, {scorer.tokens_per_batch} tokens per batch, {scorer.device})\n")
    print(f"{'phase':<10} {'host s':>9} {'share':>7} {'device s':>9}")
    events, rest = {event.key: event for event in profiler.key_averages()}, seconds
    for name in PHASES:
        event = events.get(f"gainrl:{name}")
        host, on_device = (event.cpu_time_total / 1e6, event.device_time_total / 1e6) if event else (0.0, 0.0)
        rest -= host
        print(f"{name:<10} {host:>9.3f} {host / seconds:>7.1%} {on_device:>9.3f}")
    print(f"{'other':<10} {max(rest, 0.0):>9.3f} {max(rest, 0.0) / seconds:>7.1%}")
    print(f"\n{len(prompts) / seconds:.1f} prompts/s under the profiler")
    if cuda:
        print(f"peak memory: {torch.cuda.max_memory_allocated(scorer.device) / 2**20:,.0f} MiB")
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
        print(f"trace: {trace} (open it at ui.perfetto.dev, or in chrome://tracing)")
