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
from gainrl.curriculum.controller import PUBLISHED_SIGMA_FRACTION, WindowSettings
from gainrl.curriculum.features import MAX_COMPONENTS, PromptFeatures
from gainrl.curriculum.navigators import NAVIGATORS, shortest_first_ranking
from gainrl.curriculum.ranking import Ranking
from gainrl.errors import UserError

DEFAULT = "probe"
"""The navigator where none is named: what docs/evidence.md supports."""
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
_AS_GOOD_AS_UNSET = {"sigma_fraction": PUBLISHED_SIGMA_FRACTION}
"""Values that say what the default means."""

Called = Callable[[str], str]


@dataclass(frozen=True)
class NavigatorSettings:
    """Everything that navigators can be told; a kind looks at those that `settings_of` names, and refuses others."""

    navigator: str = DEFAULT
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
        looked = settings_of(self.navigator) | {"navigator"}
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if name not in looked and value not in (item.default, _AS_GOOD_AS_UNSET.get(name, item.default)):
                able = [kind for kind, names in _USED.items() if name in names]
                raise meant_for_others(f"{called(name)}={value!r}", able, self.navigator, called)


def meant_for_others(setting: str, able: Sequence[str], navigator: str, called: Called = str) -> UserError:
    """What to raise for a `setting`, as `sigma=3`, that the navigators `able` look at and `navigator` does not.

    Nobody who sets it expects to be served by a navigator that ignores it, least of all by one that was not named.
    """
    others = f"navigator{'s' * (len(able) > 1)} {', '.join(able)}"
    return UserError(
        f"{setting} works with the {others}, not with {in_force(navigator)}: leave it out, or choose "
        f"{called('navigator')}={able[0]!r}"
    )


def in_force(navigator: str) -> str:
    """A navigator's name for messages; the user may not have given it."""
    return f"{navigator!r} (the default)" if navigator == DEFAULT else repr(navigator)


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
    directions: Callable[[], npt.NDArray[np.float32] | None],
    called: Called = str,
) -> Navigator:
    """The navigator that `settings.navigator` names, drawing n prompts an epoch from `ranking`.

    ids: the ranking's prompts in the order of `question_tokens` (N,) integer, which shortest-first and probe look at,
    and of what `directions` returns, (N, D) floating with NaN rows where a prompt has none, or None where no prompt has
    one (probe then goes by ranking and length); it is called for probe alone.  Raises UserError where a setting does
    not fit the ranking or is another navigator's.
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
