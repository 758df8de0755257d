"""`gainrl eval`: evaluate a model on a task."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from gainrl.cli import options
from gainrl.errors import UserError

_main, _drawn = options("Options"), options("How completions are made")


def eval(
    model: Annotated[str, _main("Hub id, folder or smollm2-135m.")],
    task: Annotated[str, _main("gsm8k, math500, ... or dotted path.")],
    checkpoint: Annotated[str | None, _main("Weights in place of the model's own.")] = None,
    split: Annotated[str | None, _main("Split (the task's held-out one).")] = None,
    source: Annotated[str | None, _main("Hub id or file in the task's schema.")] = None,
    limit: Annotated[int | None, _main("Only the first N problems.", "N")] = None,
    prompt: Annotated[Path | None, _main("Prompt template in place of the task's.", "JSON")] = None,
    output: Annotated[Path | None, _main("Where generations are kept.", "FOLDER")] = None,
    resume: Annotated[bool, _main("Go on with the folder's generations.", flag="--resume")] = False,
    overwrite: Annotated[bool, _main("Replace the folder's generations.", flag="--overwrite")] = False,
    run: Annotated[Path | None, _main("Run whose evals.jsonl gets the record.", "FOLDER")] = None,
    stage: Annotated[str, _main("Name of the record: before, after, ...")] = "eval",
    check: Annotated[bool, _main("Grade the gold answers; generate nothing.", flag="--check")] = False,
    samples: Annotated[int, _drawn("Completions per problem (1).", "N")] = 1,
    temperature: Annotated[float | None, _drawn("0 is greedy (1; 0 for one sample).", "X")] = None,
    top_p: Annotated[float, _drawn("Probability mass of the nucleus (1).", "X")] = 1.0,
    max_new_tokens: Annotated[int | None, _drawn("Of a completion (the task's default).", "N")] = None,
    batch_size: Annotated[int | None, _drawn("Sequences at a time (32; vllm, server: 1024).", "N")] = None,
    seed: Annotated[int, _drawn("Seed of the draws (0).", "N")] = 0,
    device: Annotated[str, _drawn("auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, _drawn("auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, _drawn("auto, transformers, vllm or server.")] = "auto",
    server: Annotated[str | None, _drawn("Address of an OpenAI-compatible server.", "URL")] = None,
    max_unscorable_share: Annotated[float, _drawn("More unscorable ones end it (0.1).", "X")] = 0.1,
) -> None:
    """Evaluate a model on a task: avg@k, pass@k, maj@k with 95 % intervals.

    Example: gainrl eval --model smollm2-135m --task arithmetic --limit 8
    """
    from gainrl.evaluation import Store, append_record, evaluate, rows_digest
    from gainrl.tasks import load_task

    prompt, output, run = (path and path.expanduser() for path in (prompt, output, run))
    checkpoint = checkpoint and os.path.expanduser(checkpoint)
    loaded = load_task(task, prompt=prompt)
    rows = loaded.load(split, source, limit)
    if check:
        result = loaded.self_check(rows)
        print(result)
        raise typer.Exit(0 if result.ok else 1)
    loaded.check_ready()
    if engine not in ("auto", "transformers", "vllm", "server"):
        raise UserError(f"--engine is {engine!r}; it must be auto, transformers, vllm or server")
    if (engine == "server" and not server) or (server and engine not in ("auto", "server")):
        raise UserError(
            f"--engine {engine} and --server {server}: the engine server needs an address, and no other does"
        )
    if resume and output is None:
        raise UserError("--resume needs --output FOLDER, where the generations are kept")
    adapter = checkpoint is not None and (Path(checkpoint) / "adapter_config.json").is_file()
    adapter = adapter and not (Path(str(checkpoint)) / "config.json").is_file()
    if engine == "auto":
        engine = "server" if server else "vllm" if not adapter and _vllm_has_a_gpu() else "transformers"
    if engine == "vllm" and adapter:
        raise UserError(f"{checkpoint!r} is an adapter: merge it into the model, or use --engine transformers")
    settings: dict[str, Any] = {
        "samples": samples, "top_p": top_p, "max_new_tokens": max_new_tokens or loaded.max_new_tokens, "seed": seed,
        "temperature": (0.0 if samples == 1 else 1.0) if temperature is None else temperature,
        "batch_size": batch_size or (32 if engine == "transformers" else 1024),
    }  # fmt: skip
    weights = {"model": model, "checkpoint": checkpoint}
    named = {"task": loaded.name, "rows": rows_digest(rows), "dtype": dtype, "engine": engine, **weights}
    step = _step(checkpoint)
    store = Store(output, named | settings, resume=resume, overwrite=overwrite) if output else None
    made = _made(engine, model, checkpoint if adapter else None, checkpoint or model, server, device, dtype, seed)
    more: Any = {"engine": made, "store": store, "max_unscorable_share": max_unscorable_share}
    evaluation = evaluate(None, None, loaded, rows, **settings, **more)
    print(evaluation.summary())
    if store is not None:
        print(f"  generations: {store.path}")
    if run is not None:
        append_record(run, evaluation.record(stage, step, **weights))
        print(f"  recorded in {run / 'evals.jsonl'}")


def _vllm_has_a_gpu() -> bool:
    import torch

    return find_spec("vllm") is not None and torch.cuda.is_available()


def _made(
    engine: str, model: str, adapter: str | None, weights: str, server: str | None, device: str, dtype: str, seed: int
) -> Any:
    """The engine, with its model; an adapter goes on the model that is named, wherever its base was in training."""
    from gainrl.evaluation.engines import ServerEngine, TransformersEngine, VLLMEngine
    from gainrl.models import load_model, load_tokenizer, resolve_model

    if server is not None:
        return ServerEngine(server, weights, token=os.environ.get("OPENAI_API_KEY"))
    tokenizer = load_tokenizer(weights if (Path(weights) / "tokenizer_config.json").is_file() else model)
    if engine == "vllm":
        return VLLMEngine(resolve_model(weights), tokenizer, dtype=dtype, seed=seed)
    try:
        network = load_model(model if adapter else weights, device=device, dtype=dtype)
        if adapter:
            from peft import PeftModel

            network = PeftModel.from_pretrained(network, adapter).eval()
    except UserError:
        raise
    except Exception as error:  # safetensors and peft raise their own for a damaged file
        raise UserError(f"{weights!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return TransformersEngine(network, tokenizer)


def _step(checkpoint: str | None) -> int | None:
    """The training step of a checkpoint of a run; None for other weights."""
    state = Path(checkpoint or "") / "trainer_state.json"
    if checkpoint is None or not state.is_file():
        return None
    try:
        return int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{str(state)!r} is damaged: {error}") from error
