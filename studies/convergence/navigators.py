"""What the study compares against: the oracle, and peers in the plainest form of their papers.

`oracle` and the screening peers are told the present policy's true pass rates.  The oracle uses them as they are, which
nobody has in practice; the peers use them to throw the dice of a screening, whose rollouts are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.curriculum import NAVIGATORS, Navigator, Outcomes
from gainrl.curriculum.prompts import Floats, Integers

PassRates = Callable[[], Floats]
"""(M,) chances that a rollout of each prompt is right under the present policy."""


class Told(Navigator):
    """A navigator that is told pass rates; its state does not hold the policy, so a run cannot be resumed."""

    pass_rates: PassRates
    extra = 0
    """Rollouts that screening has cost and that no step has trained on."""


class Oracle(Told):
    """n prompts, each in proportion to its reward variance p(1 − p)."""

    name = "oracle"

    def race(self, n: int) -> Floats:
        """(M,) exponential arrival times with the variances as rates."""
        rates = self.pass_rates()
        times: Floats = self.rng.standard_exponential(len(rates)) / np.maximum(rates * (1 - rates), 1e-12)
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


class Speed(Told):
    """SPEED-RL (Zhang et al. 2025, arXiv 2506.09016): prompts are screened, those with both outcomes are trained on.

    The screening of a prompt that is trained on is part of its group and costs nothing more.  Groups are generated
    anew, not given that the screening had both outcomes: a handicap where pass rates are near 0 or 1.
    """

    name = "speed"
    Settings: type = ScreenSettings
    settings: ScreenSettings

    def race(self, n: int) -> Floats:
        """(M,) places in a uniform order in which the first n that pass the screening stand first."""
        rates = self.pass_rates()
        order = self.rng.permutation(len(rates))
        right = self.rng.binomial(self.settings.screen, rates[order])
        passed = (right > 0) & (right < self.settings.screen)
        last = int(np.flatnonzero(np.cumsum(passed) >= n)[0]) if passed.sum() >= n else len(order) - 1
        self.extra += int((~passed[: last + 1]).sum()) * self.settings.screen
        times = np.empty(len(order))
        times[order] = np.arange(len(order)) + np.where(passed, 0.0, len(order))
        return times


class Greso(Told):
    """GRESO (Zheng et al. 2025, arXiv 2506.02177): prompts that were alike z times are skipped with 1 − e^z.

    Groups that turn out alike are thrown away and others generated until the batch is full (dynamic sampling); they
    count.  The share of exploration e starts at one half and follows the share of alike groups (a quarter is wanted).
    """

    name = "greso"
    Settings: type = ScreenSettings
    settings: ScreenSettings
    TARGET, STEP = 0.25, 0.01

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alike = np.zeros(len(self.prompts))
        self.explore = 0.5

    def race(self, n: int) -> Floats:
        """(M,) places in a uniform order of the prompts that pass filter and dynamic sampling, then all others."""
        rates, group = self.pass_rates(), self.settings.group
        order = self.rng.permutation(len(rates))
        tried = self.rng.random(len(order)) < self.explore ** self.alike[order]
        right = self.rng.binomial(group, rates[order])
        mixed = tried & (right > 0) & (right < group)
        last = int(np.flatnonzero(np.cumsum(mixed) >= n)[0]) if mixed.sum() >= n else len(order) - 1
        thrown = order[: last + 1][(tried & ~mixed)[: last + 1]]
        self.alike[thrown] += 1
        self.alike[order[: last + 1][mixed[: last + 1]]] = 0
        self.extra += len(thrown) * group
        share = len(thrown) / max(1, int(tried[: last + 1].sum()))
        self.explore = float(np.clip(self.explore + (self.STEP if share < self.TARGET else -self.STEP), 0.05, 1.0))
        times = np.empty(len(order))
        times[order] = np.arange(len(order)) + np.where(mixed, 0.0, len(order))
        return times


def register() -> None:
    """Make them known to gainrl's trainer, for this process."""
    for kind in (Oracle, Pools, SPO, Speed, Greso):
        NAVIGATORS[kind.name] = kind
