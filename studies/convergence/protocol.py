"""The protocol: what all runs share, read from protocol.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from studies.convergence.base import Pretraining, Size
from studies.convergence.bed import Bed
from studies.convergence.held_out import family

PATH = Path(__file__).with_name("protocol.yaml")


class Shape(NamedTuple):
    """A step: prompts, rollouts of each, and its learning rate."""

    prompts: int
    rollouts: int
    rate: float

    def __str__(self) -> str:
        return f"{self.prompts}x{self.rollouts}@{self.rate:g}"


@dataclass(frozen=True)
class Protocol:
    """What the runs have in common; protocol.yaml says what each field is."""

    size: Size
    pretraining: dict[str, Pretraining]
    prompts: int
    fresh: int
    budget: int
    evaluate_every: int
    usual: Shape
    shapes: list[tuple[int, int]]
    rates: list[float]
    tuning: list[str]
    chosen: dict[str, Shape]

    def bed(self, name: str, seed: int) -> Bed:
        """The bed of a family and seed."""
        return Bed(family(name), seed, self.prompts, self.fresh, self.size, self.pretraining[name])


def load(path: Path = PATH) -> Protocol:
    """The protocol on disk."""
    given: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    given["size"] = Size(**given["size"])
    given["pretraining"] = {name: Pretraining(**settings) for name, settings in given["pretraining"].items()}
    given["usual"] = Shape(*given["usual"])
    given["shapes"] = [tuple(shape) for shape in given["shapes"]]
    given["chosen"] = {name: Shape(*shape) for name, shape in given["chosen"].items()}
    return Protocol(**given)
