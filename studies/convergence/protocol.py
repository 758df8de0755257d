"""The protocol: what all arms share, read from protocol.yaml, which was committed before any arm but uniform ran."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from studies.convergence.base import Pretraining, Size
from studies.convergence.bed import Bed
from studies.convergence.held_out import family

PATH = Path(__file__).with_name("protocol.yaml")


@dataclass(frozen=True)
class Protocol:
    """What the arms have in common."""

    size: Size
    pretraining: dict[str, Pretraining]
    prompts: int
    """N, prompts of the training dataset."""
    fresh: int
    """Fresh problems for evaluation."""
    steps: int
    """Budget: optimizer steps of uniform, each of `prompts_per_step × rollouts` rollouts."""
    evaluate_every: int
    prompts_per_step: int
    rollouts: int
    learning_rate: dict[str, float]
    sigma_fraction: float
    alpha: float
    beta: float

    @property
    def budget(self) -> int:
        """Rollouts that a run may spend."""
        return self.steps * self.prompts_per_step * self.rollouts

    def bed(self, name: str, seed: int) -> Bed:
        """The bed of a family and seed."""
        return Bed(family(name), seed, self.prompts, self.fresh, self.size, self.pretraining[name])


def load(path: Path = PATH) -> Protocol:
    """The protocol on disk."""
    given: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    given["size"] = Size(**given["size"])
    given["pretraining"] = {name: Pretraining(**settings) for name, settings in given["pretraining"].items()}
    return Protocol(**given)
