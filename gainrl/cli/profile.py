"""`gainrl profile`: where the time of a scoring pass goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: the checkpoint's own.")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, native, triton, torch or reference.")] = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="As for gainrl score.")] = None,
    nll: Annotated[bool, typer.Option("--nll", help="With the likelihoods that gainrl score --nll stores.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace of the first batches here (.json), for Perfetto.")
    ] = None,
) -> None:
    """Measure where a scoring pass spends its time, against the machine's own matrix products."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype {dtype!r}: choose auto, float32, bfloat16 or float16")
    if trace is not None and not trace.parent.is_dir():
        raise UserError(f"--trace {trace}: the folder {trace.parent} does not exist")
    from gainrl.cli.score import prompts_of

    rows, _ = prompts_of(dataset, task, split, limit)
    prompts = list(rows)

    from gainrl.scoring import AngleScorer
    from gainrl.scoring.profile import profile as measure

    scorer = AngleScorer(
        model, device=device, dtype=dtype, backend=backend, tokens_per_batch=tokens_per_batch,
        question_after=question_after, nll=nll,
    )  # fmt: skip
    print("\n".join(lines(measure(scorer, prompts, trace))))
    if trace is not None:
        print(f"trace of the first batches: {trace} (open it at ui.perfetto.dev, or in chrome://tracing)")


def lines(found: Any) -> list[str]:
    """What `gainrl profile` prints of a `gainrl.scoring.profile.Profile`."""
    made = found.details
    place = made["device"] if made["device"] != "cpu" else f"cpu, {made['threads']} threads"
    result = [
        f"{found.prompts} prompts, {found.question_tokens:,} question tokens; forwarded {found.forwarded_tokens:,} "
        f"tokens in {made['batches']} batches of at most {made['tokens_per_batch']} ({made['form']}, {place})",
        "",
        f"{'phase':<10} {'seconds':>9} {'share':>7}",
    ]
    phases = {**found.phases, "other": found.other}
    result += [f"{name:<10} {taken:>9.3f} {taken / found.seconds:>7.1%}" for name, taken in phases.items()]
    score = found.phases.get("score", 0.0)
    return [
        *result,
        f"{'pass':<10} {found.seconds:>9.3f}  ({found.unclocked:.3f} without the clock)",
        "",
        f"speed: {found.prompts / found.seconds:.1f} prompts/s, {found.forwarded_tokens / found.seconds:,.0f} tokens/s",
        f"model FLOPs utilisation: {found.utilisation:.1%} of {found.ceiling / 1e9:,.0f} GFLOP/s, a matrix product in "
        "this run",
        f"scorer: {score / found.seconds:.2%} of the pass, {found.scored_bytes / max(score, 1e-9) / 1e9:.2f} GB/s",
        f"peak memory: {found.peak_memory / 2**20:,.0f} MiB",
        found.verdict(),
    ]
