"""`gainrl train`: one flat run file, every name of which is a flag as well, read by TRL's parser."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import typer
import yaml

from gainrl.errors import UserError

COMMAND: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
}
HELP = """\
Usage: gainrl train --config RUN.yaml [--config MORE.yaml ...] [--NAME VALUE ...]

Train with the curriculum; the dataset is ranked first if there is no score table.  Each name below is a key of the YAML
file and a flag.  A flag wins over the files, a later file over an earlier one.

The run
  model_name_or_path           hub id, local directory, or smollm2-135m
  task                         gsm8k, math, arithmetic:size=600, ...: brings dataset, prompts and reward
  dataset, split, limit        hub id or local file with a column `prompt`; which of its rows
  question_after               plain text: the question follows this text
  rewards                      reward functions: package.module.function or file.py:function
  stop                         texts that end a completion
  output_dir                   the run directory
  resume, overwrite, report    continue a run; replace a run; keep report.html up to date (--no_report)
The curriculum
  scores                       score table (default: scores.parquet in the run directory, made if it is missing)
  navigator, navigator_args    probe, gaussian (the paper), posterior or uniform; its settings
  accuracy_rewards             names of the rewards that tell what is correct, if there are several
  accuracy_range               those rewards' values for wrong and correct (default: 0 1)
  log_angle                    measure angle concentration even if the navigator does not need it
  group_by, quota              column of the prompts' source; the largest share of a draw for each source
Most used of TRL
  num_generations              rollouts of a prompt
  per_device_train_batch_size, gradient_accumulation_steps, steps_per_generation, num_iterations
  num_train_epochs, max_steps  length of the run
  learning_rate, lr_scheduler_type, beta, temperature, max_completion_length
  use_peft, lora_r, dtype      train an adapter; dtype of the weights
  use_vllm, vllm_mode          generate with vLLM
  save_steps, save_total_limit, logging_steps, report_to

  --help-all shows every name with its default.
"""


def train(context: typer.Context) -> None:
    """Train a model with the curriculum: rank the dataset if there is no score table yet, then draw, train, move on."""
    words = context.args
    if "--help" in words or not words:
        print(HELP, end="")
        return
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)
    try:
        import trl  # noqa: F401
    except ImportError:
        raise UserError("gainrl train needs TRL: pip install 'gainrl[trl]'") from None
    from gainrl.integrations.trl import script
    from gainrl.integrations.trl.trainer import agreed

    parser = run_parser()
    if "--help-all" in words:
        parser.print_help()
        return
    try:
        given, (run, settings, model) = read(parser, words)
        agreed(lambda: check_output(Path(settings.output_dir).expanduser(), run))
        run.rewards = [import_reward(path) for path in run.rewards or []]
        callbacks = [_live_report(settings.output_dir)] if run.report else None
        trainer = script.train(run, settings, model, given, callbacks)
    except UserError:
        if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process of each machine has the same to say
            raise typer.Exit(2) from None
        raise
    except KeyboardInterrupt:
        again = shlex.join(word for word in words if word not in ("--resume", "--overwrite"))
        print(f"\nstopped; go on from the last checkpoint with: gainrl train {again} --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    if trainer.accelerator.is_main_process:
        print(f"trained {trainer.state.global_step} steps; run directory {trainer.args.output_dir}")


def _live_report(directory: str) -> Any:
    """A callback that writes the run's report in a process of its own: at most once a minute, and at the end."""
    from transformers import TrainerCallback

    command = [sys.executable, "-m", "gainrl", "report", str(Path(directory).expanduser().resolve())]

    class LiveReport(TrainerCallback):
        def __init__(self) -> None:
            self.writer: subprocess.Popen[bytes] | None = None
            self.since = time.monotonic()

        def begin(self) -> subprocess.Popen[bytes]:
            self.since, null = time.monotonic(), subprocess.DEVNULL
            return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            idle = self.writer is None or self.writer.poll() is not None
            if state.is_world_process_zero and idle and time.monotonic() - self.since > 60:
                self.writer = self.begin()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                if self.writer is not None:
                    self.writer.wait()
                if self.begin().wait():  # a report that fails ends no run
                    print(f"no report: `gainrl report {directory}` says why", file=sys.stderr)

    return LiveReport()


def check_output(directory: Path, run: Any) -> None:
    """UserError if a run is in the way, or is not there to resume."""
    if run.resume and run.overwrite:
        raise UserError("--resume and --overwrite exclude each other: go on, or start anew")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"output_dir {str(directory)!r} is a file: name a directory")
    there = [
        name for name in ("config.yaml", "draws.jsonl") if (directory / name).exists()
    ]  # evaluations may come first
    there += [path.name for path in directory.glob("checkpoint-*") if path.name[11:].isdecimal()]
    if run.resume and not there:
        raise UserError(f"there is no run to resume in {str(directory)!r}: leave out --resume")
    if there and not (run.resume or run.overwrite):
        raise UserError(
            f"output_dir {str(directory)!r} holds a run ({there[0]}): go on with --resume, replace it with "
            "--overwrite, or name another directory"
        )


def import_reward(path: str) -> Callable[..., Any]:
    """A reward function by `package.module.function` or `file.py:function`.  Raises UserError if there is none."""
    home, _, name = path.rpartition(":") if ":" in path else path.rpartition(".")
    if path.endswith(".py") or not home:
        shown = f"{path}:function" if path.endswith(".py") else "package.module.function or file.py:function"
        raise UserError(f"reward {path!r} names no function: give {shown}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # console scripts do not search the working directory
    try:
        if home.endswith(".py"):
            spec: Any = importlib.util.spec_from_file_location(Path(home).stem, Path(home).expanduser())
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(home)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(f"reward {path!r}: cannot import {home!r}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UserError(f"reward {path!r}: {home!r} has no function {name!r}, only {', '.join(functions) or 'none'}")
    made: Callable[..., Any] = found
    return made


def run_parser() -> Any:
    """TRL's parser over `RunArguments`, `GainRLConfig` and TRL's `ModelConfig`, with `known`: its actions by name."""
    from trl import ModelConfig, TrlParser

    from gainrl.integrations.trl.config import GainRLConfig
    from gainrl.integrations.trl.script import RunArguments

    class RunParser(TrlParser):  # type: ignore[misc]
        known: dict[str, Any]

        def add_argument(self, *names: Any, **settings: Any) -> Any:
            action = super().add_argument(*names, **settings)
            self.__dict__.setdefault("known", {}).setdefault(action.dest, action)
            return action

        def error(self, message: str) -> Any:
            raise UserError(message)

    kinds = (RunArguments, GainRLConfig, ModelConfig)
    return RunParser(kinds, prog="gainrl train", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)


def read(parser: Any, words: Sequence[str]) -> tuple[dict[str, Any], tuple[Any, Any, Any]]:
    """What the files and flags in `words` set, by name, and the three configs that it makes.

    Raises UserError for a file that cannot be read, an unknown name (with the nearest one), a value of another type,
    and what the configs refuse.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", action="append", default=[])
    values: dict[str, Any] = {}
    try:
        found, flags = first.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    for file in found.config:
        values |= _yaml(file)
    for name, value in (values.pop("env", None) or {}).items():
        os.environ[str(name)] = str(value)
    _refuse_unknown(values, parser.known, "")
    hints = {name: str(hint) for kind in parser.dataclass_types for name, hint in get_type_hints(kind).items()}
    values = {n: _converted(parser.known[n], v, hints[n]) for n, v in values.items() if v is not None}
    defaults = {name: action.default for name, action in parser.known.items()}
    parser.set_defaults_with_config(**values)
    namespace, rest = parser.parse_known_args(flags)
    _refuse_unknown([word.lstrip("-").partition("=")[0].replace("-", "_") for word in rest], parser.known, "--")
    given = {name: value for name, value in vars(namespace).items() if name in values or value != defaults[name]}
    if "output_dir" not in given:
        raise UserError("output_dir is missing: name the run directory")
    from gainrl.integrations.trl.script import refused

    with refused("these settings"):
        run, settings, model = parser.parse_dict(given)
    if settings.loss_type not in parser.known["loss_type"].help:  # TRL looks at it only once it trains
        raise UserError(f"loss_type: {settings.loss_type!r} is none of TRL's; --help-all lists them")
    kept = {name: value for name, value in given.items() if name not in ("resume", "overwrite")}
    return kept, (run, settings, model)


def _yaml(file: str) -> dict[str, Any]:
    try:
        given = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config {file!r}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the config {file!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise UserError(f"the config {file!r} must hold names and values, not a {type(given).__name__}")
    return given


def _refuse_unknown(names: Iterable[Any], known: Mapping[str, Any], dashes: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]
            raise UserError(f"there is no setting {dashes}{name}: the nearest name is {dashes}{near}")


def _converted(action: Any, value: Any, hint: str) -> Any:
    """A YAML value as the flag of this name would give it.  Raises UserError for another type."""
    if isinstance(value, dict) and "dict" in hint:
        return value
    several = action.nargs == "+" or (isinstance(value, list) and "list" in hint)
    kind, made = action.type or str, []
    no = "no" if kind is str or "no" in (action.choices or ()) else "false"  # YAML reads a plain `no` as false
    for entry in value if several and isinstance(value, list) else [value]:
        try:
            if isinstance(entry, dict | list):
                raise TypeError
            made.append(kind(no if entry is False else "true" if entry is True else str(entry)))
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            name = getattr(kind, "__name__", "value").replace("string_to_", "")
            raise UserError(f"{action.dest}: {entry!r} is not of the type {name}") from None
        if action.choices and made[-1] not in action.choices:
            raise UserError(f"{action.dest}: {entry!r} is none of {', '.join(map(str, action.choices))}")
    return made if several else made[0]
