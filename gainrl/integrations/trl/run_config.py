"""The YAML of `gainrl train`: sections, names, types.  What can be refused without loading anything is refused here.

model: smollm2-135m            hub id, local directory, or smollm2-135m
task: arithmetic               a task by name (dataset, prompt, reward), or
dataset: problems.jsonl        rows with a column `prompt`, with
rewards: [rewards.exact]       reward functions by dotted path
output: runs/arithmetic        the run directory
scores: scores.parquet         score table; made in this run if it is missing (default: in the run directory)
curriculum: {prompts_per_epoch: 64, navigator: gaussian, sigma_fraction: 0.2, ...}     fields of CurriculumArguments
training: {num_train_epochs: 5, learning_rate: 1.0e-5, ...}       fields of TRL's GRPOConfig
lora: {r: 16, ...}             fields of PEFT's LoraConfig
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gainrl.errors import UserError
from gainrl.integrations.trl.layers import read_layers

_PREFIX = "curriculum_"
_MANAGED = {
    "output_dir": "output",
    "run_dir": "output",
    "scores": "scores",
    "resume_from_checkpoint": "the option --resume",
    "model_init_kwargs": "model_options",
}


@dataclass(frozen=True)
class RunConfig:
    """A training run as the YAML describes it (see the module's docstring)."""

    model: str
    """Hub id, local directory, or `smollm2-135m`."""
    output: str
    """The run directory."""
    task: str | None = None
    """A task by name or dotted path: it brings dataset, prompts and reward."""
    dataset: str | None = None
    """Hub id or local file instead of a task, with a column `prompt`; with a task, where its rows come from."""
    split: str | None = None
    """Split to train on; the task's first, or `train`, where not given."""
    limit: int | None = None
    """Train on the first rows only."""
    rewards: list[str] = field(default_factory=list)
    """Reward functions by dotted path; needed where there is no task."""
    scores: str | None = None
    """Score table; made in this run if it is missing (default: in the run directory)."""
    scored_with: str = "same"
    """`same`: the table must come from the model that is trained; `any`: rank with one model, train another."""
    question_after: str | None = None
    """Plain text: the question is what follows the last occurrence of this text."""
    stop: list[str] | None = None
    """Texts that end a completion; the task's own where not given."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Passed to `from_pretrained` (dtype, attn_implementation, revision, ...)."""
    scoring: dict[str, Any] = field(default_factory=dict)
    """Passed to `AngleScorer` when the table is made in this run (tokens_per_batch, backend, ...)."""
    curriculum: dict[str, Any] = field(default_factory=dict)
    """Fields of the curriculum."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of TRL's `GRPOConfig`."""
    lora: dict[str, Any] | None = None
    """Fields of PEFT's `LoraConfig`: train an adapter."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.dataset is None) and not (self.task and self.dataset):
            raise UserError("the config names neither a task nor a dataset: give one of them")
        if self.task is None and not self.rewards:
            raise UserError("a dataset needs reward functions: give rewards: [package.module.function]")
        if self.scored_with not in ("same", "any"):
            raise UserError(f"scored_with: {self.scored_with!r}; choose 'same' or 'any'")

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.output).expanduser()

    @property
    def table_path(self) -> Path:
        """Where the score table is, or will be made."""
        return Path(self.scores).expanduser() if self.scores else self.directory / "scores.parquet"

    @classmethod
    def read(cls, *paths: str | os.PathLike[str]) -> RunConfig:
        """Read YAML files, later ones on top; UserError for a missing file, no YAML, or a name that does not exist."""
        return cls.from_dict(*read_layers(paths))

    @classmethod
    def from_dict(cls, given: Any, source: str = "the config") -> RunConfig:
        """From plain values; UserError as in `read`."""
        if not isinstance(given, Mapping):
            raise UserError(f"{source} must hold names and values, not a {type(given).__name__}")
        known = {entry.name: entry for entry in dataclasses.fields(cls)}
        refuse_unknown(given, known, source)
        for name in ("model", "output"):
            if not isinstance(given.get(name), str) or not given[name]:
                raise UserError(f"{source} lacks {name!r}")
        values = {name: value for name, value in given.items() if value is not None}
        for name in ("model_options", "scoring", "curriculum", "training", "lora"):
            if not isinstance(values.get(name, {}), Mapping):
                raise UserError(f"{source}: section {name!r} must hold names and values")
        for name in ("rewards", "stop"):
            if isinstance(values.get(name), str):
                values[name] = [values[name]]
        return cls(**values)

    def trainer_settings(self) -> dict[str, Any]:
        """Keyword arguments of `GainRLConfig`; UserError for names that it does not have."""
        from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig

        fields = {entry.name: entry for entry in dataclasses.fields(GainRLConfig)}
        own = {entry.name for entry in dataclasses.fields(CurriculumArguments)} - set(_MANAGED) - {"shuffle_dataset"}
        short = {name.removeprefix(_PREFIX): name for name in own}
        refuse_unknown(self.curriculum, short, "section 'curriculum'")
        for name in self.training:
            if name in _MANAGED:
                raise UserError(f"section 'training' cannot set {name!r}: use {_MANAGED[name]}")
        refuse_unknown(self.training, set(fields) - own - set(_MANAGED), "section 'training'")
        if self.training.get("save_only_model"):
            raise UserError(
                "section 'training': save_only_model: true leaves out of the checkpoints what --resume needs: leave it "
                "out (save_total_limit: 1 keeps the last checkpoint alone)"
            )
        settings = {short[name]: value for name, value in self.curriculum.items()} | self.training
        settings = {name: _as_number(value, fields[name].type) for name, value in settings.items()}
        if not settings.keys() & {"activation_checkpointing", "gradient_checkpointing"}:
            settings["activation_checkpointing"] = True  # TRL's default, by its present name
        settings.setdefault("save_strategy", "epoch")
        return {**settings, "output_dir": str(self.directory / "checkpoints"), "run_dir": str(self.directory)}

    def dump(self) -> str:
        """The config as YAML that `read` takes, with every default written out."""
        values = dataclasses.asdict(self)
        return yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False, allow_unicode=True)


def refuse_unknown(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """UserError for the first name that is not known, naming the nearest one."""
    known = sorted(known)
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
        hint = f": the nearest name is {near[0]!r}" if near else ""
        raise UserError(f"{where} has no {str(name)!r}{hint}")


def _as_number(value: Any, kind: Any) -> Any:
    """YAML 1.1 reads `1e-5` (without a dot) as text; turn such text into the number that the field wants."""
    if not isinstance(value, str) or "float" not in str(kind):
        return value
    try:
        return float(value)
    except ValueError:
        return value
