"""`gainrl profile`: where the time of a scoring pass goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError


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
    attention: Annotated[str, typer.Option(help="auto, grouped, flex, varlen or padded.")] = "auto",
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

    from gainrl.scoring import AngleScorer
    from gainrl.scoring.profile import profile as measure

    scorer = AngleScorer(
        model, device=device, dtype=dtype, backend=backend, tokens_per_batch=tokens_per_batch, nll=nll,
        question_after=question_after, attention=attention, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    found = measure(scorer, prompts, trace)
    print(f"{found.scored} of {found.prompts} prompts scored, {found.tokens:,} question tokens, {found.seconds:.2f} s")
    print(f"({scorer.dtype}, {scorer.form} attention, {scorer.tokens_per_batch} tokens per batch, {scorer.device})\n")
    print(f"{'phase':<10} {'host s':>9} {'share':>7} {'device s':>9}")
    rest = found.seconds - sum(host for host, _ in found.phases.values())
    for name, (host, on_device) in {**found.phases, "other": (max(rest, 0.0), 0.0)}.items():
        print(f"{name:<10} {host:>9.3f} {host / found.seconds:>7.1%} {on_device:>9.3f}")
    print(f"\n{found.prompts / found.seconds:.1f} prompts/s under the profiler")
    if found.peak_memory:
        print(f"peak memory: {found.peak_memory / 2**20:,.0f} MiB")
    if trace is not None:
        print(f"trace: {trace} (open it at ui.perfetto.dev, or in chrome://tracing)")
