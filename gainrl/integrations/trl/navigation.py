"""From a trainer's settings and a scored dataset to a navigator."""

from __future__ import annotations

from gainrl.curriculum import Navigator, Ranking
from gainrl.curriculum.building import NavigatorSettings
from gainrl.errors import UserError
from gainrl.integrations import navigation
from gainrl.integrations.trl.config import CurriculumArguments
from gainrl.integrations.trl.data import ScoredDataset
from gainrl.integrations.trl.reranking import require_rerankable

_PLAIN = ("skip_mastered", "mastered_rest")
"""Names that TRL has no meaning of its own for."""


def build_navigator(config: CurriculumArguments, data: ScoredDataset, ranking: Ranking | None = None) -> Navigator:
    """The navigator that `config.curriculum_navigator` names; UserError if a setting does not fit the dataset.

    It draws from `ranking`, or from that of the score table.
    """
    settings = navigator_settings(config)
    settings.check(called)
    size, n = len(data.usable), config.prompts_per_epoch
    if n > size:
        held = config.prompts_per_generation
        fits = size // held * held
        remedy = f"at most {fits} fit" if fits else f"one generation batch alone holds {held}"
        raise UserError(f"prompts_per_epoch={n}, but {size} prompts of the dataset can be drawn: {remedy}")
    ranking = data.ranking if ranking is None else ranking
    navigator = navigation.build_navigator(settings, data.table, data.usable, n, ranking=ranking, called=called)
    if config.rerank_every is not None:
        require_rerankable(data, navigator, config.rerank_every)
    if config.backfill and navigator.n == size:
        raise UserError(
            f"backfill: true needs prompts beyond the epoch's own, but prompts_per_epoch={navigator.n} are all there "
            "are: lower it, or leave backfill out"
        )
    return navigator


def called(name: str) -> str:
    """What a field of `NavigatorSettings` is called in the config."""
    return name if name in _PLAIN else f"curriculum_{name}"


def navigator_settings(config: CurriculumArguments) -> NavigatorSettings:
    """The navigator's part of the config."""
    seed = config.seed if config.curriculum_seed is None else config.curriculum_seed  # type: ignore[attr-defined]
    names = [name for name in NavigatorSettings.__dataclass_fields__ if name != "seed"]
    return NavigatorSettings(seed=int(seed), **{name: getattr(config, called(name)) for name in names})
