"""`gainrl score`: rank a dataset by angle concentration."""

from __future__ import annotations

import datetime
import json
import os
import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import yaml

from gainrl.cli import options
from gainrl.errors import UserError

_main, _scores, _running = options("Options"), options("What is scored"), options("How it runs")


def score(
    model: Annotated[str, _main("Hub id, folder or smollm2-135m.")],
    output: Annotated[Path, _main("Score table, .parquet.", "FILE")],
    dataset: Annotated[list[str] | None, _main("Hub id (name:config) or file; repeatable.")] = None,
    task: Annotated[str | None, _main("Task that makes prompts of the rows.")] = None,
    split: Annotated[str | None, _main("Split of the dataset or task.")] = None,
    limit: Annotated[int | None, _main("Only the first N rows.", "N")] = None,
    directions: Annotated[bool, _main("Store what the navigator probe learns from.", flag="--directions")] = False,
    resume: Annotated[bool, _main("Go on where an interrupted run stopped.", flag="--resume")] = False,
    overwrite: Annotated[bool, _main("Replace the output and start anew.", flag="--overwrite")] = False,
    question_after: Annotated[str | None, _scores("Text right before plain-text questions.")] = None,
    too_long: Annotated[str, _scores("Beyond the context: skip or truncate.")] = "skip",
    chat_template_kwargs: Annotated[str | None, _scores("Of the chat template, as in training.", "JSON")] = None,
    date: Annotated[str | None, _scores("Given to templates that print today's.", "DATE", hidden=True)] = None,
    tap: Annotated[str, _scores("Hidden states: final, layer:K, ...")] = "final",
    definition: Annotated[str, _scores("intra+inter, intra, intra+W*inter.")] = "intra+inter",
    nll: Annotated[bool, _scores("Store mean log-likelihoods, too.", flag="--nll")] = False,
    no_prompts: Annotated[bool, _scores("Leave the prompts' text out.", flag="--no-prompts")] = False,
    dtype: Annotated[str, _running("auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, _running("auto, cpu, cuda, cuda:1, ...")] = "auto",
    revision: Annotated[str | None, _running("Branch or commit on the hub.")] = None,
    trust_remote_code: Annotated[bool, _running("Run the model's own code.", flag="--trust-remote-code")] = False,
    tokens_per_batch: Annotated[int | None, _running("Of a forward pass.", "N")] = None,
    backend: Annotated[str, _running("auto, native, triton, torch, reference.")] = "auto",
    engine: Annotated[str, _running("torch, ray (a cluster) or vllm.")] = "torch",
    workers: Annotated[int | None, _running("ray: copies of the model.", "N")] = None,
    engine_option: Annotated[list[str] | None, _running("vllm: NAME=VALUE; repeatable.")] = None,
) -> None:
    """Rank a dataset by angle concentration, with one forward pass over its prompts.

    Example: gainrl score --model smollm2-135m --task gsm8k --output s.parquet
    """
    given = locals()
    if engine not in ("torch", "ray", "vllm"):
        raise UserError(f"--engine {engine!r}: choose torch, ray or vllm")
    if engine != "ray" and workers is not None:
        raise UserError("--workers is for --engine ray")
    if engine != "vllm" and engine_option:
        raise UserError("--engine-option is for --engine vllm")
    from gainrl.scoring.run import check_output

    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if engine != "torch" and size > 1:
        raise UserError(f"--engine {engine} starts its own processes: run gainrl score without torchrun")
    if rank == 0:
        check_output(output, overwrite=overwrite, resume=resume)
    rows, source = prompts_of(dataset, task, split, limit)

    import torch
    import torch.distributed as dist
    from tqdm.auto import tqdm

    from gainrl.scoring import score_dataset
    from gainrl.scoring.summary import summary

    settings = settings_of(given)
    if size > 1:  # torchrun started them; each takes the GPU of its local rank
        if settings.device in ("auto", "cuda") and (gpus := torch.cuda.device_count()):
            settings.device = f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}"
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    hidden: dict[str, Any] = {"disable": True} if rank else {}  # else TQDM_DISABLE decides
    share = source.size and -(-source.size // size)
    more: Any = {"overwrite": overwrite, "resume": resume, "keep_prompts": not no_prompts}
    try:
        with (
            _scorer(engine, settings, workers, engine_option or []) as scorer,
            tqdm(total=share, unit=" prompts", desc="scoring", **hidden) as bar,
        ):
            more["progress"] = lambda finished, tokens: bar.update(finished)
            run = score_dataset(scorer, rows, output, source, **more)
    except KeyboardInterrupt:
        print(f"interrupted: go on with --resume ({output}.parts keeps finished rows)", file=sys.stderr)
        raise
    if rank == 0:
        print(summary(run))
    if size > 1:
        dist.barrier()  # whoever serves the store must not be the first to go
        dist.destroy_process_group()


def settings_of(given: dict[str, Any]) -> Any:
    """The scorer's settings among a verb's options; what was left out has the default."""
    from gainrl.scoring import ScoringSettings

    known = ScoringSettings.__dataclass_fields__
    return ScoringSettings(**{name: value for name, value in given.items() if name in known and value is not None})


def _scorer(engine: str, settings: Any, workers: int | None, options: list[str]) -> Any:
    """A context with what runs the model; an engine's processes end with it."""
    if engine == "ray":
        from gainrl.scoring.ray_engine import RayScorer

        return closing(RayScorer(settings, workers=workers))
    if engine == "vllm":
        from gainrl.scoring.vllm_engine import VllmScorer

        return closing(VllmScorer(settings, engine_options(options)))
    from gainrl.scoring import AngleScorer

    return nullcontext(AngleScorer(**vars(settings)))


def engine_options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE each, VALUE as in JSON or YAML; UserError for anything else."""
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--engine-option {text!r}: give NAME=VALUE, say gpu_memory_utilization=0.8")
        for read in (json.loads, yaml.safe_load):  # YAML takes 1e-3 for a word, JSON for a number
            with suppress(ValueError, yaml.YAMLError):
                options[name.strip().replace("-", "_")] = read(value)
                break
        else:
            raise UserError(f"--engine-option {text!r}: {value!r} is neither JSON nor YAML")
    return options


def prompts_of(dataset: str | list[str] | None, task: str | None, split: str | None, limit: int | None):  # type: ignore[no-untyped-def]
    """The prompts and where they come from: a task's rows, or a dataset (or several) that has a column `prompt`."""
    from gainrl.scoring import ScoringPrompt, Source, open_rows, scoring_prompts

    names = [dataset] if isinstance(dataset, str) else dataset or []
    if task is None and not names:
        raise UserError("give --dataset (a hub id or a local file), --task, or both")
    if task is None:
        opened = open_rows(names, split=split, limit=limit)
        return scoring_prompts(opened), Source(opened.name, opened.split, opened.limit, opened.size)
    if len(names) > 1:
        raise UserError(f"--task {task} maps one dataset to prompts: give --dataset once, not {len(names)} times")
    from gainrl.tasks import load_task

    loaded = load_task(task)
    name, chosen = next(iter(names), None), split or loaded.splits[0]
    size, rows = loaded.stream(chosen, source=name, limit=limit)
    found = (ScoringPrompt(row["prompt"], row.get("question")) for row in rows)
    return found, Source(name or task, chosen, limit, size, task)
