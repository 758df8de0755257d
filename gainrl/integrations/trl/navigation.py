"""From a trainer's settings and a scored dataset to a navigator."""

from __future__ import annotations

import logging
from typing import Any

from gainrl.curriculum import Navigator, Ranking
from gainrl.errors import UserError
from gainrl.integrations import navigation
from gainrl.integrations.trl.config import CurriculumArguments, called
from gainrl.integrations.trl.data import ScoredDataset
from gainrl.integrations.trl.reranking import require_rerankable

logger = logging.getLogger(__name__)


def build_navigator(
    config: CurriculumArguments, data: ScoredDataset, ranking: Ranking | None = None, *, directions: bool = True
) -> Navigator:
    """The navigator that `config.curriculum_navigator` names; UserError if a setting does not fit the dataset.

    It draws from `ranking`, or from that of the score table.  directions: False for one that nothing is drawn from.
    """
    settings = config.navigation
    settings.check(called)
    size, n = len(data.usable), config.epoch_size
    if n > size:
        held = config.prompts_per_generation
        fits = size // held * held
        remedy = f"at most {fits} fit" if fits else f"one generation batch alone holds {held}"
        raise UserError(f"prompts_per_epoch={n}, but {size} prompts of the dataset can be drawn: {remedy}")
    ranking = data.ranking if ranking is None else ranking
    navigator = navigation.build_navigator(
        settings, data.table, data.usable, n, ranking=ranking, called=called, directions=directions
    )
    if config.rerank_every is not None:
        require_rerankable(data, config.rerank_every)
    if config.backfill and navigator.n == size:
        raise UserError(
            f"backfill: true needs prompts beyond the epoch's own, but prompts_per_epoch={navigator.n} are all there "
            "are: lower it, or leave backfill out"
        )
    return navigator


def warn_of_a_short_run(config: CurriculumArguments, prompts: int) -> None:
    """Log a warning where a run that says nothing of the size of an epoch draws less than the dataset's `prompts` once.

    Elsewhere an epoch is a pass over the dataset, and three of them are a whole training.
    """
    args: Any = config
    drawn = round(args.num_train_epochs * config.epoch_size)
    if config.epoch_not_given and args.max_steps <= 0 and drawn < prompts and args.process_index == 0:
        logger.warning(
            "num_train_epochs=%g counts draws of %d prompts (one generation batch, as prompts_per_epoch is not given): "
            "this run draws %d prompts in all, and the dataset has %d; raise num_train_epochs, or set max_steps or "
            "prompts_per_epoch",
            args.num_train_epochs, config.epoch_size, drawn, prompts,
        )  # fmt: skip
