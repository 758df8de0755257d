"""The curriculum's settings as fields of a TRL config, in which a field of TRL keeps its name and meaning."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import GRPOConfig, RLOOConfig

from gainrl.curriculum import DEFAULT, NAVIGATORS
from gainrl.curriculum.prompts import check_number
from gainrl.errors import UserError
from gainrl.precision import mixed_precision


def described(help: str, default: Any = None) -> Any:
    """A dataclass field with a line of help."""
    return field(default=default, metadata={"help": help})


@dataclass
class CurriculumArguments:
    """Fields of the curriculum; goes in front of any config of TRL's group-based trainers.

    `bf16` left out means what this machine is fast in (`gainrl.precision`).  Raises UserError for values that cannot
    work, before anything is loaded.
    """

    scores: str | None = described("Score table of the dataset, made by `gainrl score`.")
    navigator: str = described(f"What decides the draws: {', '.join(NAVIGATORS)}.", DEFAULT)
    navigator_args: dict[str, Any] | str | None = described("The navigator's settings, on a command line as JSON.")
    accuracy_rewards: list[str] | None = described("Rewards that tell what is correct, if there are several.")
    accuracy_range: list[float] | None = described("Their values for wrong and for correct; 0 and 1 if left out.")
    log_angle: bool = described("Measure angle concentration even if the navigator does not need it.", False)
    group_by: str | None = described("Dataset column that names a prompt's source, for metrics and `quota`.")
    quota: dict[str, Any] | str | None = described("By source, the largest share of a draw, on a command line as JSON.")

    def __post_init__(self) -> None:
        self.navigator_args = _dictionary("navigator_args", self.navigator_args)
        self.quota = _dictionary("quota", self.quota)
        args: Any = self
        if args.save_only_model:
            raise UserError("save_only_model makes checkpoints that cannot be resumed: use trainer.save_model()")
        if not torch.accelerator.is_available():
            args.use_cpu, args.dataloader_pin_memory = True, False
        if args.bf16 is None and not args.fp16:
            _ = args.device  # joins the processes of a launcher, so that the measurement of rank 0 holds for all
            device = None if args.use_cpu else torch.accelerator.current_accelerator()
            precision = mixed_precision(device or "cpu")
            args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
        super().__post_init__()  # type: ignore[misc]


@dataclass
class GainRLConfig(CurriculumArguments, GRPOConfig):  # type: ignore[misc]
    """TRL's `GRPOConfig` with the curriculum's fields."""

    baseline_rollouts: float = described("Weight of predicted pass rates in the baseline, in rollouts.", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("baseline_rollouts", self.baseline_rollouts, 0, 1e6)


@dataclass
class GainRLRLOOConfig(CurriculumArguments, RLOOConfig):  # type: ignore[misc]
    """TRL's `RLOOConfig` with the curriculum's fields."""


def _dictionary(name: str, given: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise UserError(f"{name}={given!r} is not JSON: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{name}={given!r} must hold names and values")
    return found
