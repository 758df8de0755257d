"""`gainrl eval`: evaluate a model on a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def eval(
    model: Annotated[str, typer.Option(help="Hub id, local directory, or smollm2-135m.")],
    task: Annotated[str, typer.Option(help="Task name (gsm8k, math500, humanevalplus, ...) or dotted path.")],
    checkpoint: Annotated[str | None, typer.Option(help="Weights to evaluate instead of the model's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Split; the task's held-out one by default.")] = None,
    source: Annotated[str | None, typer.Option(help="Local file or hub id in the task's schema.")] = None,
    limit: Annotated[int | None, typer.Option(help="First so many problems only.")] = None,
    prompt: Annotated[Path | None, typer.Option(help="JSON prompt template instead of the task's own.")] = None,
    samples: Annotated[int, typer.Option(help="Completions for each problem.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0: greedy. Default 0 for one sample, else 1.")] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus.")] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of a completion; the task's default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences at a time; 32 with transformers, 1024 with vllm or a server.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="auto (vllm on a GPU if installed), transformers, vllm or server.")
    ] = "auto",
    server: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the generations (Parquet).")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the folder's generations.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start anew in a folder that holds generations.")] = False,
    run: Annotated[Path | None, typer.Option(help="Run directory whose evals.jsonl gets the record.")] = None,
    stage: Annotated[str, typer.Option(help="Name of the record: before, after, ...")] = "eval",
    max_unscorable_share: Annotated[float, typer.Option(help="More unscorable completions stop the run.")] = 0.1,
    check: Annotated[bool, typer.Option(help="Grade the gold answers instead of generating.")] = False,
) -> None:
    """Evaluate a model on a task: pass@1 or avg@k, pass@k, maj@k, each with a 95 % bootstrap interval."""
    import os

    from gainrl.errors import UserError
    from gainrl.evaluation import Engine, Store, append_record, rows_digest
    from gainrl.evaluation import evaluate as run_evaluation
    from gainrl.tasks import load_task

    loaded = load_task(task, prompt=prompt)
    rows = loaded.load(split, source, limit)
    if check:
        result = loaded.self_check(rows)
        typer.echo(str(result))
        raise typer.Exit(0 if result.ok else 1)
    loaded.check_ready()
    if engine not in ("auto", "transformers", "vllm", "server"):
        raise UserError(f"--engine is {engine!r}; it must be auto, transformers, vllm or server")
    if engine == "server" and server is None:
        raise UserError("--engine server needs --server ADDRESS")
    if server is not None:
        engine = "server"
    if engine == "auto":
        engine = _engine(checkpoint)
    if engine == "vllm" and _is_adapter(checkpoint):
        raise UserError(
            f"{checkpoint!r} holds an adapter, which --engine vllm does not take here: merge it into the model, or use "
            "--engine transformers"
        )
    batch_size = batch_size or (32 if engine == "transformers" else 1024)
    heat = (0.0 if samples == 1 else 1.0) if temperature is None else temperature
    weights = checkpoint or model
    settings = {
        "task": loaded.name,
        "rows": rows_digest(rows),
        "model": model,
        "checkpoint": checkpoint,
        "samples": samples,
        "temperature": heat,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens or loaded.max_new_tokens,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": dtype,
    }
    step, epoch = _place(checkpoint)
    store = Store(output, settings, resume=resume, overwrite=overwrite) if output else None
    if resume and output is None:
        raise UserError("--resume needs --output FOLDER, where the generations are kept")

    generator: Engine
    if engine == "server":
        assert server is not None
        from gainrl.evaluation.engines import ServerEngine

        generator = ServerEngine(server, weights, token=os.environ.get("OPENAI_API_KEY"))
    else:
        from gainrl.evaluation import TransformersEngine
        from gainrl.models import load_tokenizer, resolve_model

        own = checkpoint is not None and (Path(checkpoint) / "tokenizer_config.json").is_file()
        tokenizer = load_tokenizer(weights if own else model)
        if engine == "vllm":
            from gainrl.evaluation.engines import VLLMEngine

            generator = VLLMEngine(resolve_model(weights), tokenizer, dtype=dtype, seed=seed)
        else:
            generator = TransformersEngine(_load(model, checkpoint, device, dtype), tokenizer)

    evaluation = run_evaluation(
        None,
        None,
        loaded,
        rows,
        samples=samples,
        temperature=heat,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        engine=generator,
        store=store,
        max_unscorable_share=max_unscorable_share,
    )
    typer.echo(evaluation.summary())
    if store is not None:
        typer.echo(f"  generations: {store.merge(evaluation.generations)}")
    if run is not None:
        append_record(run, evaluation.record(stage, step, epoch=epoch, model=model, checkpoint=checkpoint))
        typer.echo(f"  recorded in {run / 'evals.jsonl'}")


def _engine(checkpoint: str | None) -> str:
    """The engine of `auto`: vLLM where it is installed and has a GPU, except for adapters."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None or _is_adapter(checkpoint):
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def _is_adapter(checkpoint: str | None) -> bool:
    """Whether a checkpoint holds a PEFT adapter and no model."""
    folder = Path(checkpoint or "")
    return bool(checkpoint) and (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _place(checkpoint: str | None) -> tuple[int | None, float | None]:
    """The training step and epoch of a checkpoint of a run; None for other weights."""
    from gainrl.errors import UserError

    state = Path(checkpoint or "") / "trainer_state.json"
    if checkpoint is None or not state.is_file():
        return None, None
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        epoch = found.get("epoch")
        return int(found["global_step"]), None if epoch is None else float(epoch)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise UserError(f"{str(state)!r} is damaged: {error}") from error


def _load(model: str, checkpoint: str | None, device: str, dtype: str) -> Any:
    """The model, the checkpoint in its place, or, where that holds an adapter only, the model with the adapter."""
    from gainrl.errors import UserError
    from gainrl.models import load_model

    if checkpoint is None:
        return load_model(model, device=device, dtype=dtype)
    try:
        if not _is_adapter(checkpoint):
            return load_model(checkpoint, device=device, dtype=dtype)
        from peft import PeftModel

        return PeftModel.from_pretrained(load_model(model, device=device, dtype=dtype), checkpoint).eval()
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{checkpoint!r} holds an adapter, which needs peft: pip install peft") from error
    except Exception as error:  # transformers, safetensors and peft raise their own for a damaged file
        raise UserError(f"the checkpoint {checkpoint!r} cannot be loaded: {type(error).__name__}: {error}") from error
