"""`gainrl eval`: how much of a task a model, or a checkpoint of a run, gets right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gainrl.errors import UserError


def eval(
    model: Annotated[str, typer.Option(help="Hub id, local directory, or smollm2-135m (the packaged model).")],
    task: Annotated[str, typer.Option(help="The task by name (gsm8k, arithmetic, reasoning-gym:..., ...).")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint of a training run: its weights, or its adapter on --model.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task (default: the held-out one).")] = None,
    dataset: Annotated[str | None, typer.Option(help="A local copy of the task's data, or another hub id.")] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate only the first LIMIT rows.")] = None,
    samples: Annotated[int, typer.Option(help="Completions per problem.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token (default: 0 for one sample, 1 for several).")
    ] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling: the share of probability kept.")] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest completion (default: the task's own).")] = None,
    batch_size: Annotated[int, typer.Option(help="Completions generated together.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: the checkpoint's own.")] = "auto",
    run: Annotated[Path | None, typer.Option(help="Run directory: the figures are added to its evals.jsonl.")] = None,
    stage: Annotated[str, typer.Option(help="What the record in evals.jsonl is called.")] = "eval",
) -> None:
    """Generate completions for a task's problems, grade them, and print accuracy with its interval."""
    if run is not None and not run.is_dir():
        raise UserError(f"--run {run}: no such run directory")
    if temperature is None:
        temperature = 0.0 if samples == 1 else 1.0
    from gainrl.tasks import load_task

    loaded = load_task(task)
    rows = loaded.load(split, source=dataset, limit=limit)

    from gainrl.evaluation import append_record, evaluate
    from gainrl.scoring import load_tokenizer

    tokenizer = load_tokenizer(model)
    network, step = _network(model, checkpoint, dtype, device)
    result = evaluate(
        network,
        tokenizer,
        loaded,
        rows,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    print(result.summary())
    if run is not None:
        append_record(run, result.record(stage, step, model=str(checkpoint or model)))


def _network(model: str, checkpoint: Path | None, dtype: str, device: str) -> tuple[Any, int | None]:
    """The model to evaluate, and the training step that its weights come from."""
    from gainrl.scoring import load_model

    if checkpoint is None:
        return load_model(model, dtype=dtype, device=device), None
    if not checkpoint.is_dir():
        raise UserError(f"--checkpoint {checkpoint}: no such directory")
    step = None
    if (state := checkpoint / "trainer_state.json").is_file():
        step = json.loads(state.read_text(encoding="utf-8"))["global_step"]
    if not (checkpoint / "adapter_config.json").is_file():
        return load_model(str(checkpoint), dtype=dtype, device=device), step
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{checkpoint} is an adapter: pip install peft") from None
    return PeftModel.from_pretrained(load_model(model, dtype=dtype, device=device), str(checkpoint)), step
