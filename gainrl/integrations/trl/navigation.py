"""From a trainer's settings and a scored dataset to a navigator."""

from __future__ import annotations

import difflib
from typing import Any

from gainrl.curriculum import (
    NAVIGATORS,
    GaussianNavigator,
    Navigator,
    PosteriorNavigator,
    ProbeNavigator,
    PromptFeatures,
    Ranking,
    ShortestFirstNavigator,
    TargetNavigator,
    UniformNavigator,
    shortest_first_ranking,
)
from gainrl.errors import UserError
from gainrl.integrations.trl.config import CurriculumArguments
from gainrl.integrations.trl.data import ScoredDataset
from gainrl.integrations.trl.reranking import require_rerankable


def build_navigator(config: CurriculumArguments, data: ScoredDataset, ranking: Ranking | None = None) -> Navigator:
    """The navigator that `config.curriculum_navigator` names; UserError if a setting does not fit the dataset.

    It draws from `ranking`, or from that of the score table.
    """
    ranking = data.ranking if ranking is None else ranking
    navigator = _of_kind(config, data, ranking)
    if config.rerank_every is not None:
        require_rerankable(data, navigator, config.rerank_every)
    if config.backfill and navigator.n == len(ranking):
        raise UserError(
            f"backfill: true needs prompts beyond the epoch's own, but prompts_per_epoch={navigator.n} are all there "
            "are: lower it, or leave backfill out"
        )
    return navigator


def _of_kind(config: CurriculumArguments, data: ScoredDataset, ranking: Ranking) -> Navigator:
    kind = config.curriculum_navigator
    if kind not in NAVIGATORS:
        near = difflib.get_close_matches(kind, NAVIGATORS, n=1, cutoff=0.0)[0]
        raise UserError(f"curriculum_navigator={kind!r}: the nearest name is {near!r} (of {', '.join(NAVIGATORS)})")
    size, n = len(ranking), config.prompts_per_epoch
    if n > size:
        held = config.prompts_per_generation
        fits = size // held * held
        remedy = f"at most {fits} fit" if fits else f"one generation batch alone holds {held}"
        raise UserError(f"prompts_per_epoch={n}, but {size} prompts of the dataset can be drawn: {remedy}")
    seed = int(config.seed if config.curriculum_seed is None else config.curriculum_seed)  # type: ignore[attr-defined]
    order = config.curriculum_order
    windows = (GaussianNavigator.kind, TargetNavigator.kind, UniformNavigator.kind)
    if config.skip_mastered is not None and kind not in windows:
        raise UserError(
            f"skip_mastered={config.skip_mastered} works with the navigators {', '.join(windows)}, not with {kind!r}: "
            "leave it out or choose one of them"
        )
    rest: dict[str, Any] = {"skip_mastered": config.skip_mastered, "mastered_rest": config.mastered_rest}
    if kind in (GaussianNavigator.kind, TargetNavigator.kind):
        window = GaussianNavigator if kind == GaussianNavigator.kind else TargetNavigator
        return window(ranking, n, config.window(), order=order, seed=seed, **rest)
    if kind == UniformNavigator.kind:
        return UniformNavigator(ranking, n, order=order, seed=seed, **rest)
    if kind == PosteriorNavigator.kind:
        return PosteriorNavigator(
            ranking,
            n,
            target=config.curriculum_beta,
            prior_strength=config.curriculum_prior_strength,
            memory=config.curriculum_memory,
            order=order,
            seed=seed,
        )
    if kind == ProbeNavigator.kind:
        features = PromptFeatures(
            ranking,
            [data.ids[row] for row in data.usable],
            data.directions(),
            data.table.column("question_tokens")[data.usable],
            components=config.curriculum_components,
        )
        return ProbeNavigator(
            ranking,
            n,
            features,
            target=config.curriculum_beta,
            explore=config.curriculum_explore,
            order=order,
            seed=seed,
        )
    if kind == ShortestFirstNavigator.kind:
        tokens = data.table.column("question_tokens")[data.usable].tolist()
        ids = [data.ids[row] for row in data.usable]
        by_length = shortest_first_ranking(ids, tokens, ranking.fingerprint)
        return ShortestFirstNavigator(by_length, n, order=order, seed=seed)
    return NAVIGATORS[kind](ranking, n, order=order, seed=seed)
