"""From the section `data.gainrl` and a ranking to a navigator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainrl.curriculum import (
    FixedNavigator,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    UniformNavigator,
    shortest_first_ranking,
)
from gainrl.errors import UserError
from gainrl.integrations.verl.settings import SECTION, Settings


def build_navigator(settings: Settings, ranking: Ranking, n: int, question_tokens: Mapping[str, int]) -> Navigator:
    """The navigator that `settings.navigator` names, with n prompts an epoch.

    question_tokens: length of each id's question.  UserError where a setting does not fit the ranking.
    """
    kind = settings.navigator
    common: dict[str, Any] = {"order": settings.order, "seed": 0 if settings.seed is None else int(settings.seed)}
    windows = (GaussianNavigator.kind, TargetNavigator.kind, UniformNavigator.kind)
    if settings.skip_mastered is not None and kind not in windows:
        raise UserError(
            f"{SECTION}.skip_mastered={settings.skip_mastered} works with the navigators {', '.join(windows)}, "
            f"not with {kind!r}"
        )
    rest: dict[str, Any] = {"skip_mastered": settings.skip_mastered, "mastered_rest": settings.mastered_rest}
    if kind == GaussianNavigator.kind:
        return GaussianNavigator(ranking, n, settings.window, **common, **rest)
    if kind == TargetNavigator.kind:
        return TargetNavigator(ranking, n, settings.window, **common, **rest)
    if kind == UniformNavigator.kind:
        return UniformNavigator(ranking, n, **common, **rest)
    if kind == PosteriorNavigator.kind:
        return PosteriorNavigator(
            ranking,
            n,
            target=settings.beta,
            prior_strength=settings.prior_strength,
            memory=settings.memory,
            **common,
        )
    if kind == ShortestFirstNavigator.kind:
        lengths = [question_tokens[name] for name in ranking.ids]
        return ShortestFirstNavigator(shortest_first_ranking(ranking.ids, lengths, ranking.fingerprint), n, **common)
    return FixedNavigator(ranking, n, **common)
