"""`gainrl profile`: where the time of a scoring pass goes, by torch's profiler around the pass."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from gainrl.cli import options
from gainrl.errors import UserError

_main, _running = options("Options"), options("How it runs")


def profile(
    model: Annotated[str, _main("Hub id, folder or smollm2-135m.")],
    dataset: Annotated[str | None, _main("Hub id (name:config) or file.")] = None,
    task: Annotated[str | None, _main("Task that makes prompts of the rows.")] = None,
    split: Annotated[str | None, _main("Split of the dataset or task.")] = None,
    limit: Annotated[int, _main("Only the first N rows (256).", "N")] = 256,
    trace: Annotated[Path | None, _main("Write a trace for ui.perfetto.dev.", "JSON")] = None,
    question_after: Annotated[str | None, _main("Text right before plain-text questions.")] = None,
    nll: Annotated[bool, _main("With mean log-likelihoods.", flag="--nll")] = False,
    device: Annotated[str, _running("auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, _running("auto, float32, bfloat16 or float16.")] = "auto",
    backend: Annotated[str, _running("auto, native, triton, torch, reference.")] = "auto",
    attention: Annotated[str, _running("auto, grouped, flex or padded.")] = "auto",
    tokens_per_batch: Annotated[int | None, _running("Of a forward pass.", "N")] = None,
    trust_remote_code: Annotated[bool, _running("Run the model's own code.", flag="--trust-remote-code")] = False,
) -> None:
    """Measure where a scoring pass spends its time, with torch's profiler.

    Example: gainrl profile --model smollm2-135m --task arithmetic --trace t.json
    """
    if trace is not None and not (trace := trace.expanduser()).parent.is_dir():
        raise UserError(f"--trace {trace}: the folder {trace.parent} does not exist")
    from gainrl.cli.score import prompts_of, settings_of

    given, prompts = locals(), list(prompts_of(dataset, task, split, limit)[0])

    import torch

    from gainrl.scoring import AngleScorer
    from gainrl.scoring.base import PHASES

    scorer = AngleScorer(**vars(settings_of(given)))
    scorer.score(prompts[:32])  # for what is compiled, allocated and measured once
    cuda = scorer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(scorer.device)
    with torch.profiler.profile() as profiler:  # of all that the machine has
        start = time.perf_counter()
        scores = scorer.score(prompts)
        seconds = time.perf_counter() - start
    if not (scored := scores.status.count("ok")):
        raise UserError(f"no prompt of the dataset can be scored: {next(filter(None, scores.reasons), 'it is empty')}")
    tokens = int(scores.question_tokens.sum())
    print(f"{scored} of {len(prompts)} prompts scored, {tokens:,} question tokens, {seconds:.2f} s")
    print(f"({scorer.dtype}, {scorer.form} attention, {scorer.tokens_per_batch} tokens per batch, {scorer.device})\n")
    print(f"{'phase':<10} {'host s':>9} {'share':>7} {'device s':>9}")
    events = {event.key: event for event in profiler.key_averages()}
    rows = {name: event for name in PHASES if (event := events.get(f"gainrl:{name}"))}
    for name, event in rows.items():
        host, on_device = event.cpu_time_total / 1e6, event.device_time_total / 1e6
        print(f"{name:<10} {host:>9.3f} {host / seconds:>7.1%} {on_device:>9.3f}")
    rest = max(seconds - sum(event.cpu_time_total for event in rows.values()) / 1e6, 0.0)
    print(f"{'other':<10} {rest:>9.3f} {rest / seconds:>7.1%}")
    print(f"\n{len(prompts) / seconds:.1f} prompts/s under the profiler")
    if cuda:
        print(f"peak memory: {torch.cuda.max_memory_allocated(scorer.device) / 2**20:,.0f} MiB")
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
        print(f"trace: {trace} (open it at ui.perfetto.dev, or in chrome://tracing)")
