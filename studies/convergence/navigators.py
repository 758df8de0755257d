"""What the study compares against: the oracle, and peers in the plainest form of their papers.

`oracle` gets the present policy's true pass rates, which no user has.  The screening peers generate
before they decide: what they discard is counted, and what they keep is part of the group that is trained on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import NAVIGATORS, Navigator, Outcomes
from gainrl.curriculum.prompts import Floats, Integers

PassRates = Callable[[], Floats]
"""(M,) chances that a rollout of each prompt is right under the present policy."""
Sample = Callable[[Integers, int], tuple[list[list[list[int]]], Integers]]
"""So many rollouts of each of these prompts under the present policy, as token ids, and how many of them are right."""


class Told(Navigator):
    """A navigator that is told pass rates; its state does not hold the policy, so a run cannot be resumed."""

    pass_rates: PassRates


class Oracle(Told):
    """n prompts, each in proportion to its reward variance p(1 − p)."""

    name = "oracle"

    def usefulness(self) -> Floats:
        """(M,) what the chances to be drawn are proportional to."""
        rates = self.pass_rates()
        return rates * (1 - rates)

    def race(self, n: int) -> Floats:
        """(M,) exponential arrival times."""
        times: Floats = self.rng.standard_exponential(len(self.prompts)) / np.maximum(self.usefulness(), 1e-12)
        return times


class Pools(Navigator):
    """prime-rl's difficulty pools: a prompt seen all right goes to the easy pool, one seen all wrong to the hard one.

    Only the normal pool is sampled; if it has too few prompts, the longest resting come back.
    """

    name = "pools"
    STATE = ("rests", "seen")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rests = np.zeros(len(self.prompts))
        """When a prompt left the normal pool; 0 while it is there."""
        self.seen = 0

    def race(self, n: int) -> Floats:
        """(M,) uniform arrival times; resting prompts come after all others."""
        return np.where(self.rests > 0, 1 + self.rests, self.rng.random(len(self.prompts)))

    def learn(self, index: Integers, outcomes: Outcomes, angle: float | None) -> None:
        """Move prompts between the pools."""
        self.seen += 1
        self.rests[index] = np.where(outcomes.mixed, 0, self.seen)


class SPO(Navigator):
    """SPO's sampling (Xu and Ding 2025, arXiv 2509.13232): weight sqrt(v(1 − v)) + ε, v a decayed Beta mean.

    Its single rollouts and its baseline are another trainer's; this arm has groups of two as the nearest to them.
    """

    name = "spo"
    STATE = ("right", "wrong")
    EPSILON, DECAY = 0.05, 0.96

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.right, self.wrong = np.full(len(self.prompts), 0.5), np.full(len(self.prompts), 0.5)

    def race(self, n: int) -> Floats:
        """(M,) exponential arrival times with the weights as rates."""
        value = self.right / (self.right + self.wrong)
        times: Floats = self.rng.standard_exponential(len(value)) / (np.sqrt(value * (1 - value)) + self.EPSILON)
        return times

    def learn(self, index: Integers, outcomes: Outcomes, angle: float | None) -> None:
        """Add the rollouts to the decayed counts."""
        for counts, new in ((self.right, outcomes.correct), (self.wrong, outcomes.scored - outcomes.correct)):
            counts[index] = self.DECAY * counts[index] + new


@dataclass(frozen=True)
class ScreenSettings:
    """Rollouts of a screening, and rollouts of a group that is trained on."""

    screen: int = 4
    group: int = 8


class Screening(Navigator):
    """A navigator that generates rollouts of prompts in a uniform order until n prompts have right and wrong ones.

    The rollouts of those n are the first of their groups; all others are discarded and counted.
    """

    Settings: type = ScreenSettings
    settings: ScreenSettings
    sample: Sample
    extra = 0
    """Rollouts that were discarded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: dict[int, list[list[int]]] = {}
        """The rollouts, as token ids, that the prompts of this draw have; by their index among the prompts."""

    @property
    @abstractmethod
    def rollouts(self) -> int:
        """Rollouts of a screening."""

    def wanted(self, order: Integers) -> Integers:
        """The prompts that may be generated, in this order."""
        return order

    def screened(self, index: Integers, mixed: npt.NDArray[np.bool_]) -> None:
        """Learn which of the prompts of this draw had right and wrong rollouts."""

    def race(self, n: int) -> Floats:
        """(M,) arrival times: first those that passed, then the others in a random order."""
        order = self.wanted(self.rng.permutation(len(self.prompts)))
        self.kept, found = {}, []
        at = 0
        while len(self.kept) < n and at < len(order):
            tried = order[at : at + n - len(self.kept)]
            completions, right = self.sample(tried, self.rollouts)
            found.append((right > 0) & (right < self.rollouts))
            self.kept.update((int(index), completions[i]) for i, index in enumerate(tried) if found[-1][i])
            at += len(tried)
        mixed = np.concatenate(found)
        self.extra += int((~mixed).sum()) * self.rollouts
        self.screened(order[:at], mixed)
        times = 1.0 + self.rng.random(len(self.prompts))
        times[list(self.kept)] = 0.0
        return times


class Speed(Screening):
    """SPEED-RL (Zhang et al. 2025, arXiv 2506.09016): prompts are screened, those with both outcomes get the rest."""

    name = "speed"

    @property
    def rollouts(self) -> int:
        """A part of the group."""
        return self.settings.screen


class Greso(Screening):
    """GRESO (Zheng et al. 2025, arXiv 2506.02177): prompts that were alike z times are skipped with 1 − e^z.

    Groups that turn out alike are thrown away and others generated until the batch is full (dynamic sampling).  The
    share of exploration e starts at one half and follows the share of alike groups (a quarter is wanted).
    """

    name = "greso"
    TARGET, STEP = 0.25, 0.01

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alike = np.zeros(len(self.prompts))
        self.explore = 0.5

    @property
    def rollouts(self) -> int:
        """The whole group."""
        return self.settings.group

    def wanted(self, order: Integers) -> Integers:
        """Without the prompts that the filter skips."""
        return order[self.rng.random(len(order)) < self.explore ** self.alike[order]]

    def screened(self, index: Integers, mixed: npt.NDArray[np.bool_]) -> None:
        """Count on for alike groups, and move the share of exploration."""
        self.alike[index] = np.where(mixed, 0, self.alike[index] + 1)
        step = self.STEP if (~mixed).mean() < self.TARGET else -self.STEP
        self.explore = float(np.clip(self.explore + step, 0.05, 1.0))


def register() -> None:
    """Make them known to gainrl's trainer, for this process."""
    for kind in (Oracle, Pools, SPO, Speed, Greso):
        NAVIGATORS[kind.name] = kind
