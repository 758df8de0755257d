"""From settings by name to a navigator: the one place where a kind's name, its settings and its prompts meet.

Configurations give the same settings names of their own (`curriculum_beta`, `data.gainrl.beta`); `called` translates a
name of `NavigatorSettings` for the messages.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum.base import ORDERS, Navigator
from gainrl.curriculum.controller import WindowSettings
from gainrl.curriculum.features import MAX_COMPONENTS, PromptFeatures
from gainrl.curriculum.navigators import NAVIGATORS, shortest_first_ranking
from gainrl.curriculum.ranking import Ranking
from gainrl.errors import UserError

_WINDOW = tuple(field.name for field in fields(WindowSettings))
_REST = ("skip_mastered", "mastered_rest")
_USED: dict[str, tuple[str, ...]] = {
    "gaussian": (*_WINDOW, *_REST),
    "target": (*_WINDOW, *_REST),
    "uniform": _REST,
    "posterior": ("beta", "prior_strength", "memory"),
    "probe": ("components", "explore"),
    "fixed": (),
    "shortest-first": (),
}

Called = Callable[[str], str]


@dataclass(frozen=True)
class NavigatorSettings:
    """Everything that navigators can be told; a kind looks at those that `settings_of` names, and no others."""

    navigator: str = "gaussian"
    """A name in `NAVIGATORS`."""
    order: str = "rank"
    """How an epoch's prompts follow one another (`ORDERS`)."""
    seed: int = 0
    sigma: float | None = None
    sigma_fraction: float | None = None
    alpha: float = 2.0
    beta: float = 0.5
    """The accuracy at which the window's step turns; the one that target and posterior look for."""
    mean: float = 0.0
    at_end: str = "stay"
    prior_strength: float = 4.0
    memory: int = 64
    components: int = 32
    explore: float = 0.1
    skip_mastered: int | None = None
    mastered_rest: int = 10

    def window(self) -> WindowSettings:
        """Those of the window; UserError for values outside their range, whatever the navigator."""
        return WindowSettings(**{name: getattr(self, name) for name in _WINDOW})

    def check(self, called: Called = str) -> None:
        """What can be seen without a dataset; raises UserError."""
        if self.navigator not in NAVIGATORS:
            near = difflib.get_close_matches(str(self.navigator), NAVIGATORS, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{called('navigator')}={self.navigator!r}: the nearest name is {near!r} (of {', '.join(NAVIGATORS)})"
            )
        if self.order not in ORDERS:
            raise UserError(f"{called('order')}={self.order!r}: choose one of {', '.join(ORDERS)}")
        self.window()
        kept, explore = self.components, self.explore
        if isinstance(kept, bool) or not isinstance(kept, int) or not 1 <= kept <= MAX_COMPONENTS:
            raise UserError(f"{called('components')}={kept!r}: give an integer from 1 to {MAX_COMPONENTS}")
        if isinstance(explore, bool) or not isinstance(explore, int | float) or not 0 <= explore <= 1:
            raise UserError(f"{called('explore')}={explore!r}: give a share of the epoch, from 0 to 1")
        if self.skip_mastered is not None and "skip_mastered" not in _USED.get(self.navigator, ()):
            able = [kind for kind, names in _USED.items() if "skip_mastered" in names]
            raise UserError(
                f"{called('skip_mastered')}={self.skip_mastered} works with the navigators {', '.join(able)}, not with "
                f"{self.navigator!r}: leave it out or choose one of them"
            )


def settings_of(navigator: str) -> frozenset[str]:
    """Names of the `NavigatorSettings` that this kind looks at (`navigator` itself aside)."""
    return frozenset(("order", "seed", *_USED.get(navigator, ())))


def build_navigator(
    settings: NavigatorSettings,
    ranking: Ranking,
    n: int,
    *,
    ids: Sequence[str],
    question_tokens: npt.ArrayLike,
    directions: Callable[[], npt.NDArray[np.float32]],
    called: Called = str,
) -> Navigator:
    """The navigator that `settings.navigator` names, drawing n prompts an epoch from `ranking`.

    ids: the ranking's prompts in the order of `question_tokens` (N,) integer, which shortest-first and probe look at,
    and of what `directions` returns, (N, D) floating with NaN rows where a prompt has none; it is called for probe
    alone.  Raises UserError where a setting does not fit the ranking.
    """
    settings.check(called)
    kind = settings.navigator
    lengths = np.asarray(question_tokens)
    options: dict[str, Any] = {"order": settings.order, "seed": settings.seed}
    used = _USED.get(kind, ())  # a kind that somebody added to NAVIGATORS takes order and seed
    if "sigma" in used:
        options["window"] = settings.window()
    options.update((name, getattr(settings, name)) for name in used if name not in (*_WINDOW, "components"))
    if "beta" in used and "sigma" not in used:
        options["target"] = settings.beta
    if kind == "probe":
        options["features"] = PromptFeatures(ranking, ids, directions(), lengths, components=settings.components)
    if kind == "shortest-first":
        ranking = shortest_first_ranking(list(ids), lengths.tolist(), ranking.fingerprint)
    return NAVIGATORS[kind](ranking, n, **options)
