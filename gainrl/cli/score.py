"""`gainrl score`: rank a dataset by angle concentration."""

from __future__ import annotations

import json
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from gainrl.cli.interrupts import interruptible
from gainrl.errors import UserError

ENGINES = ("torch", "vllm", "ray")
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: the checkpoint's own.")]


def score(
    model: Annotated[str, typer.Option(help="Hub id, local directory, or smollm2-135m (the packaged model).")],
    output: Annotated[Path, typer.Option(help="Score table to write: a .parquet file, or a folder (--shards).")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Hub id (name or name:configuration), or a local .jsonl, .json or .parquet file; repeat it to rank "
            "several as one."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Map the dataset's own columns to prompts (gsm8k, arithmetic, reasoning-gym:..., ...)."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset or task.")] = None,
    limit: Annotated[int | None, typer.Option(help="Score only the first LIMIT rows.")] = None,
    question_after: Annotated[
        str | None,
        typer.Option(help="Plain text: the question is what follows the last occurrence of this text."),
    ] = None,
    too_long: Annotated[str, typer.Option(help="Prompts beyond the model's context: skip or truncate.")] = "skip",
    engine: Annotated[
        str, typer.Option(help="What runs the model: torch (this process), ray (a cluster), or vllm (beyond one GPU).")
    ] = "torch",
    workers: Annotated[int | None, typer.Option(help="ray: copies of the model (default: one a GPU, or 1).")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs that share each layer.")] = 1,
    engine_option: Annotated[
        list[str] | None, typer.Option(help="vllm: NAME=VALUE for vllm.LLM (VALUE as JSON or text); repeat for more.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Dtype = "auto",
    backend: Annotated[str, typer.Option(help="auto, native, triton, torch or reference.")] = "auto",
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(help="Tokens of one forward pass (default: found from the memory at hand)."),
    ] = None,
    tap: Annotated[
        str,
        typer.Option(help="Hidden states: final, layer:K, layer:K.mlp-input, .mlp-output, .attention-input, ..."),
    ] = "final",
    definition: Annotated[
        str,
        typer.Option(help="intra+inter (published), intra, or intra+W*inter; add ,no-diagonal to leave i = j out."),
    ] = "intra+inter",
    control: Annotated[
        str,
        typer.Option(help="length: rank by what is left of the score after length is regressed out."),
    ] = "none",
    nll: Annotated[
        bool, typer.Option("--nll", help="Also store each question's mean negative log-likelihood per token.")
    ] = False,
    max_failed: Annotated[
        float, typer.Option(help="Stop once more than this share of the rows failed (they are named in the table).")
    ] = 1.0,
    directions: Annotated[
        bool,
        typer.Option(
            help="Also store each prompt's direction U_q / |U_q|, from which the default navigator of training learns "
            "(4 bytes times the model's width a prompt)."
        ),
    ] = False,
    prompts: Annotated[bool, typer.Option(help="Store the prompts' text in the table, for reports.")] = True,
    shards: Annotated[
        int | None,
        typer.Option(help="Write a folder of so many Parquet files by rank (0: of 16,384 rows each) instead of one."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output and start anew.")] = False,
) -> None:
    """Rank a dataset by angle concentration, with one forward pass over its prompts."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype {dtype!r}: choose auto, float32, bfloat16 or float16")
    if engine not in ENGINES:
        raise UserError(f"--engine {engine!r}: choose {' or '.join(ENGINES)}")
    if engine != "ray" and workers is not None:
        raise UserError("--workers is for --engine ray")
    if engine != "vllm" and (tensor_parallel != 1 or engine_option):
        raise UserError("--tensor-parallel and --engine-option are for --engine vllm")
    with interruptible(lambda: _left(output)) as interrupts:
        from gainrl.angle.checks import check_backend

        check_backend(backend)  # that it serves is asked where the model runs
        from gainrl.scoring.run import check_output
        from gainrl.scoring.team import join

        team, leave = join()
        if shards is None and (not output.suffix or output.is_dir()):
            shards = 0  # --output scores/
        if team.leads:
            check_output(output, overwrite=overwrite, resume=resume, shards=shards)
        rows, source = prompts_of(dataset, task, split, limit)

        from tqdm.auto import tqdm

        from gainrl.scoring import AngleScorer, model_identity, score_dataset
        from gainrl.scoring.summary import summary

        common: dict[str, Any] = {
            "dtype": dtype,
            "backend": backend,
            "tokens_per_batch": tokens_per_batch,
            "question_after": question_after,
            "too_long": too_long,
            "definition": definition,
            "directions": directions,
        }
        scorer: Any
        if engine == "vllm":
            from gainrl.scoring.vllm_engine import VllmScorer

            _require_vllm_fits(device, tap, nll, team.size)
            options = engine_options(engine_option or [])
            scorer = VllmScorer(model, tensor_parallel=tensor_parallel, options=options, **common)
        elif engine == "ray":
            from gainrl.scoring.ray_engine import RayScorer

            if team.size > 1:
                raise UserError("Ray starts its own workers: run gainrl score without torchrun, with --workers")
            scorer = RayScorer(model, workers=workers, device=device, tap=tap, nll=nll, **common)
        else:
            scorer = AngleScorer(model, device=team.device(device), tap=tap, nll=nll, **common)
        with tqdm(total=source.size, unit=" prompts", desc="scoring", smoothing=0.1, disable=not team.leads) as bar:
            tokens = 0

            def progress(finished: int, new_tokens: int) -> None:
                nonlocal tokens
                interrupts.check()
                tokens += new_tokens
                bar.set_postfix_str(f"{tokens:,} tokens", refresh=False)
                bar.update(finished)

            try:
                interrupts.check()  # of one that was lost while libraries and the model were loaded
                run = score_dataset(
                    scorer,
                    rows,
                    output,
                    source,
                    model_name=model,
                    model_hash=model_identity(model, scorer.model),
                    overwrite=overwrite,
                    resume=resume,
                    keep_prompts=prompts,
                    control=control,
                    max_failed=max_failed,
                    shards=shards,
                    team=team,
                    progress=progress,
                )
            finally:
                if close := getattr(scorer, "close", None):  # an engine's processes
                    close()
    if team.leads:
        print(summary(run, output))
    leave()


def _left(output: Path) -> str:
    """What there is to say when a run is interrupted; nothing of the scoring pass may be loaded yet."""
    if any(output.parent.glob(f"{escape(output.name)}.partial*")):
        return f"interrupted: finished rows are kept beside {output}; go on with --resume"
    return "interrupted: no finished rows are left to go on from"


def _require_vllm_fits(device: str, tap: str, nll: bool, processes: int) -> None:
    """UserError for what vLLM's pooling interface does not give, before it is loaded."""
    if nll:
        raise UserError("--nll needs the logits, which vLLM's pooling interface does not give: use --engine torch")
    if tap != "final":
        raise UserError(f"--tap {tap}: vLLM gives the final hidden states alone: use --engine torch")
    if device != "auto":
        raise UserError(f"--device {device}: vLLM chooses its devices itself (CUDA_VISIBLE_DEVICES limits them)")
    if processes > 1:
        raise UserError("vLLM starts its own processes: run gainrl score without torchrun, with --tensor-parallel")


def engine_options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE each, VALUE read as JSON where it is JSON; UserError for anything else."""
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UserError(f"--engine-option {text!r}: give NAME=VALUE, say gpu_memory_utilization=0.8")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def prompts_of(dataset: str | list[str] | None, task: str | None, split: str | None, limit: int | None):  # type: ignore[no-untyped-def]
    """The prompts and where they come from: a task's rows, or a dataset (or several) that has a column `prompt`."""
    from gainrl.scoring import ScoringPrompt, Source, open_rows, scoring_prompts

    names = [dataset] if isinstance(dataset, str) else dataset or []
    if task is not None:
        if len(names) > 1:
            raise UserError(f"--task {task} maps one dataset to prompts: give --dataset once, not {len(names)} times")
        from gainrl.tasks import load_task

        loaded = load_task(task)
        chosen = split or loaded.splits[0]
        size, rows = loaded.stream(chosen, source=names[0] if names else None, limit=limit)
        found = (ScoringPrompt(row["prompt"], row.get("question")) for row in rows)
        return found, Source(names[0] if names else task, chosen, limit, size, task)
    if not names:
        raise UserError("give --dataset (a hub id or a local file), --task, or both")
    opened = open_rows(names, split=split, limit=limit)
    return scoring_prompts(opened), Source(opened.name, opened.split, opened.limit, opened.size)
