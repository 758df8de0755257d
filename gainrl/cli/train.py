"""`gainrl train`: one flat run file, every name of which is a flag as well, read by TRL's parser."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
Example: gainrl train --model_name_or_path smollm2-135m --task arithmetic:size=600 --output_dir runs/a --max_steps 8
"""


def train(context: typer.Context) -> None:
    """Train a model with the curriculum: rank the dataset if there is no score table yet, then draw, train, move on."""
    words = context.args
    if not words or {"--help", "-h"} & set(words):
        print(HELP, end="")
        return
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
    given, (run, settings, model) = read(parser, words)
    agreed(lambda: check_output(Path(settings.output_dir).expanduser(), run))
    run.rewards = [import_reward(path) for path in run.rewards or []]
    try:
        trainer = script.train(run, settings, model, given, [_live_report(settings.output_dir)] if run.report else None)
    except KeyboardInterrupt:
        again = "--resume in place of --overwrite" if run.overwrite else "--resume"
        print(f"\nstopped; the same command with {again} goes on from the last checkpoint", file=sys.stderr)
        raise
    if trainer.accelerator.is_main_process:
        print(f"trained {trainer.state.global_step} steps; run directory {trainer.args.output_dir}")


def _live_report(directory: str) -> Any:
    """A callback that writes the run's report in a process of its own: at most once a minute, and at the end."""
    from transformers import TrainerCallback

    command: Any = [sys.executable, "-m", "gainrl", "report", str(Path(directory).expanduser().resolve())]
    quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    class LiveReport(TrainerCallback):
        writer: Any = None
        due = time.monotonic() + 60

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            idle = self.writer is None or self.writer.poll() is not None
            if state.is_world_process_zero and idle and time.monotonic() > self.due:
                self.writer, self.due = subprocess.Popen(command, **quiet), time.monotonic() + 60

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.writer is not None:
                self.writer.wait()
            if state.is_world_process_zero and subprocess.call(command, **quiet):  # a report that fails ends no run
                print(f"no report: `gainrl report {directory}` shows the reason", file=sys.stderr)

    return LiveReport()


def check_output(directory: Path, run: Any) -> None:
    """UserError if a run is in the way, or is not there to resume."""
    records = [directory / "config.yaml", directory / "draws.jsonl", *directory.glob("checkpoint-*")]
    there = next((path.name for path in records if path.exists()), None)  # evaluations may come before the run
    if run.resume and run.overwrite:
        raise UserError("--resume and --overwrite exclude each other: go on, or start anew")
    if directory.is_file():
        raise UserError(f"output_dir {str(directory)!r} is a file: name a directory")
    if run.resume and not there:
        raise UserError(f"there is no run to resume in {str(directory)!r}: leave out --resume")
    if there and not (run.resume or run.overwrite):
        ways = "go on with --resume, replace it with --overwrite, or name another directory"
        raise UserError(f"output_dir {str(directory)!r} holds a run ({there}): {ways}")


def import_reward(path: str) -> Callable[..., Any]:
    """A reward function by `package.module.function` or `file.py:function`.  Raises UserError if there is none."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # console scripts do not search the working directory
    file, _, name = path.rpartition(":")
    try:
        script = file.endswith(".py")
        found: Any = runpy.run_path(os.path.expanduser(file))[name] if script else pkgutil.resolve_name(path)
    except Exception as error:  # whatever the module does when it is imported
        found = f"{type(error).__name__}: {error}"
    if not callable(found) or isinstance(found, type):
        raise UserError(f"reward {path!r} is no function: {found} (give package.module.function or file.py:function)")
    return found  # type: ignore[no-any-return]


def run_parser() -> Any:
    """TRL's parser over `RunArguments`, `GainRLConfig` and TRL's `ModelConfig`."""
    from trl import ModelConfig, TrlParser

    from gainrl.integrations.trl.config import GainRLConfig
    from gainrl.integrations.trl.script import RunArguments

    def refuse(message: str) -> Any:
        raise UserError(message)

    kinds = (RunArguments, GainRLConfig, ModelConfig)
    parser = TrlParser(kinds, prog="gainrl train", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    parser.error = refuse
    return parser


def read(parser: Any, words: Sequence[str]) -> tuple[dict[str, Any], tuple[Any, Any, Any]]:
    """What the files and flags in `words` set, by name, and the three configs that it makes.

    Raises UserError for a file that cannot be read, an unknown name (with the nearest one), a value of another type,
    and what the configs refuse.
    """
    from gainrl.integrations.trl.script import refused

    known = vars(parser.parse_args([]))
    parser.set_defaults(**dict.fromkeys(known))  # so that what is not None was given
    parser.add_argument("--config", action="append", default=[])
    values: dict[str, Any] = {}
    for file in parser.parse_known_args(words)[0].config:
        values |= _yaml(file)
    if not isinstance(env := values.pop("env", None) or {}, dict):
        raise UserError(f"env: {env!r} must hold names and values")
    os.environ |= {str(name): str(value) for name, value in env.items()}
    hints = {
        name: inspect.formatannotation(hint).replace("typing.", "")
        for kind in parser.dataclass_types
        for name, hint in get_type_hints(kind).items()
    }
    # A list or a mapping stays as YAML gives it; every other value becomes a flag, in front of those of the caller.
    whole: dict[str, Any] = {}
    flags = []
    for name, value in values.items():
        if name not in known:
            raise _unknown(name, known)
        if isinstance(value, list | dict):
            if type(value).__name__ not in hints[name]:
                raise UserError(f"{name}: {value!r} is a {type(value).__name__}, and {hints[name]} is wanted")
            whole[name] = [_entry(parser, name, one) for one in value] if isinstance(value, list) else value
        elif isinstance(value, bool) and hints[name] == "str":  # scale_rewards: false
            whole[name] = value
        elif value is not None:
            flags.append(f"--{name}={'no' if value is False else value}")
    namespace, rest = parser.parse_known_args([*flags, *words])
    if rest:
        raise _unknown(rest[0], known)
    given = whole | {name: value for name, value in vars(namespace).items() if value is not None and name != "config"}
    if "output_dir" not in given:
        raise UserError("output_dir is missing: name the run directory")
    with refused("these settings"):
        run, settings, model = parser.parse_dict(given)
    for name, field in settings.__dataclass_fields__.items():  # TRL looks at some words only once it trains
        choices = re.findall(r"(\w+)'", field.metadata.get("help") or "") if hints[name] == "str" else ()
        if field.default in choices and (value := getattr(settings, name)) not in choices:
            raise UserError(f"{name}: {value!r} is none of TRL's words for it; --help-all lists them")
    if settings.remove_unused_columns and (run.task or settings.group_by):
        raise UserError("remove_unused_columns: the reward and group_by need the dataset's columns, leave it out")
    kept = {name: value for name, value in given.items() if name not in ("resume", "overwrite")}
    return kept, (run, settings, model)


def _entry(parser: Any, name: str, value: Any) -> Any:
    """One entry of a list, read as if it were a flag's value, with the flag's type."""
    found = getattr(parser.parse_known_args([f"--{name}={value}"])[0], name)
    return found[0] if isinstance(found, list) else found


def _unknown(word: str, known: dict[str, Any]) -> UserError:
    """The error for a key of a file, or a word of the command line, that sets nothing."""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    if name in known:
        return UserError(f"{word!r} is no flag: write --{name}")
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]
    return UserError(f"there is no setting {name}: the nearest name is {near} (--help-all lists all)")


def _yaml(file: str) -> dict[str, Any]:
    try:
        given = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the config {file!r}: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise UserError(f"the config {file!r} must hold names and values, not a {type(given).__name__}")
    return {str(name).replace("-", "_"): value for name, value in given.items()}  # as in flags
