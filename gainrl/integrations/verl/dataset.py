"""verl's training dataset with the curriculum behind it: named in `data.custom_cls` by the packaged Hydra group.

verl makes the training and the validation dataset from one class and one section of the configuration, and reads the
training one in order (data.shuffle=false, no workers).  Its length is the number of prompts of one epoch; which prompt
stands at a position is the curriculum's choice, made when position 0 is read.  The state goes where verl keeps its
loader's: `data.pt` of each checkpoint (StatefulDataLoader asks the dataset for it), and comes back with it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from gainrl.errors import UserError
from gainrl.integrations.verl.curriculum import Curriculum, Rollout
from gainrl.integrations.verl.extension import CUSTOM_DATASET, extension_point, require
from gainrl.integrations.verl.journal import DATA, resumed_from, state_in
from gainrl.integrations.verl.settings import SECTION, Settings
from gainrl.table import ScoreTable, content_ids

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

MARK = "gainrl"
"""Key of `extra_info` under which a prompt's id and epoch travel with it through verl."""
_ROW = "gainrl_row"

RLHFDataset: Any = extension_point("verl.utils.dataset.rl_dataset", "RLHFDataset")

_training: weakref.WeakValueDictionary[int, CurriculumDataset] = weakref.WeakValueDictionary()
_latest: weakref.ReferenceType[CurriculumDataset] | None = None


def current() -> CurriculumDataset:
    """The training dataset of the trainer in this process; UserError if there is none."""
    dataset = None if _latest is None else _latest()
    if dataset is None:
        raise UserError(
            "the curriculum's replay buffer found no training dataset of gainrl: data.custom_cls must be "
            "{path: pkg://gainrl.integrations.verl, name: CurriculumDataset}, as the group curriculum=gainrl sets it"
        )
    return dataset


class CurriculumDataset(RLHFDataset):  # type: ignore[misc]
    """verl's RLHFDataset; as the training dataset it holds the curriculum, for validation it is no more than that.

    Raises UserError, before a model is loaded, for a score table that belongs to another dataset and for settings
    that do not fit.
    """

    curriculum: Curriculum | None = None

    def __init__(
        self, data_files: Any, tokenizer: Any, config: DictConfig, processor: Any = None, max_samples: int = -1
    ) -> None:
        require(CUSTOM_DATASET)
        self._trains = _files(data_files) == _files(config.train_files) and id(config) not in _training
        self._content_ids: list[str] = []
        self._rows: list[int] = []
        self._loaded = False
        settings = None
        if self._trains:
            settings = _settings(config)
        super().__init__(
            data_files=data_files, tokenizer=tokenizer, config=config, processor=processor, max_samples=max_samples
        )
        if settings is None:
            return
        self.curriculum = Curriculum(
            settings,
            self._content_ids,
            self._rows,
            ScoreTable.read(
                os.path.expanduser(settings.scores),
                leave=("prompt",) if settings.navigator == "probe" else ("prompt", "direction"),
            ),
            int(config.train_batch_size),
            _source(config, max_samples),
        )
        _require_whole_fetches(config, self.curriculum)
        global _latest
        _training[id(config)] = self
        _latest = weakref.ref(self)

    def maybe_filter_out_long_prompts(self, dataframe: Any = None) -> Any:
        """verl's filter; the rows' ids are those of the whole dataset, as it was scored."""
        if not self._trains:
            return super().maybe_filter_out_long_prompts(dataframe)
        self._content_ids = content_ids(dataframe[self.prompt_key])
        numbered = dataframe.add_column(_ROW, list(range(len(dataframe))))
        kept = super().maybe_filter_out_long_prompts(numbered)
        self._rows = list(kept[_ROW])
        return kept.remove_columns(_ROW)

    def __len__(self) -> int:
        return len(self.dataframe) if self.curriculum is None else self.curriculum.n

    def __getitem__(self, item: int) -> dict[str, Any]:
        if self.curriculum is None:
            row: dict[str, Any] = super().__getitem__(item)
            return row
        self._restore_what_verl_skips()
        row = super().__getitem__(self.curriculum.place(int(item)))
        row["extra_info"] = {**row["extra_info"], MARK: self.curriculum.mark(int(item))}
        return row

    def on_batch_end(self, batch: Any) -> None:
        """Observe a trained batch (verl's V0 trainer and those of `experimental.separation`).

        batch: DataProto with `token_level_scores` and `response_mask` (B, L), and `extra_info` and `uid` per row.
        """
        curriculum = self.curriculum
        assert curriculum is not None
        rewards = batch.batch["token_level_scores"].sum(dim=-1).tolist()
        tokens = batch.batch["response_mask"].sum(dim=-1).tolist()
        columns = batch.non_tensor_batch
        reported = [name for name in batch.meta_info.get("reward_extra_keys", []) if name in columns]
        extras = [{name: columns[name][index] for name in reported} for index in range(len(rewards))]
        credits = curriculum.credits(rewards, extras, whole=True)
        rollouts = []
        for index, (reward, count) in enumerate(zip(rewards, tokens, strict=True)):
            mark = columns["extra_info"][index][MARK]
            rollouts.append(
                Rollout(
                    id=mark["id"],
                    epoch=mark["epoch"],
                    group=str(columns["uid"][index]),
                    session=str(index),
                    correct=credits[index],
                    reward=reward,
                    tokens=int(count),
                )
            )
        curriculum.end_batch(rollouts)
        logger.info("%s", curriculum.metrics())

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's state, for the checkpoint's `data.pt`; empty for a validation dataset."""
        return {} if self.curriculum is None else self.curriculum.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; UserError if it belongs to another dataset, ranking or setting."""
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state)
            self._loaded = True

    def _restore_what_verl_skips(self) -> None:
        """Load the state that verl did not: its V0 trainer leaves `data.pt` alone at the end of an epoch."""
        if self._loaded:
            return
        self._loaded = True
        assert self.curriculum is not None
        folder = resumed_from(self.curriculum.settings.run)
        if folder is None or not (folder / DATA).exists():
            return
        state = state_in(folder)
        if state is None:
            logger.warning("%s has no state of a curriculum: it begins here", folder / DATA)
            return
        logger.info("curriculum: state from %s, which verl passes over at the end of an epoch", folder / DATA)
        self.curriculum.load_state_dict(state)


def _settings(config: DictConfig) -> Settings:
    section = config.get(MARK)
    settings = Settings.from_config(None if section is None else OmegaConf.to_container(section, resolve=True))
    if settings.seed is None and config.get("seed") is not None:
        settings = dataclasses.replace(settings, seed=int(config.seed))
    if config.shuffle:
        raise UserError(f"data.shuffle=true would undo the curriculum's order: leave it false, and set {SECTION}.order")
    if config.dataloader_num_workers:
        raise UserError(
            f"data.dataloader_num_workers={config.dataloader_num_workers}: a worker process would choose prompts "
            "before those under way have been observed; set it to 0 (rows are read from memory)"
        )
    run = settings.run
    if run.v1 and run.colocated_reward_model and not run.reward_model_pool:
        raise UserError(
            "reward.reward_model.enable=true without a resource pool computes rewards after the replay buffer has "
            "sampled, which the curriculum observes: set reward.reward_model.enable_resource_pool=true"
        )
    return settings


def _require_whole_fetches(config: DictConfig, curriculum: Curriculum) -> None:
    if curriculum.settings.fetches_single_prompts:  # which verl sets after the dataset is made
        return
    fetch = config.get("gen_batch_size", None) or config.train_batch_size
    if curriculum.n % fetch:
        raise UserError(
            f"{SECTION}.prompts_per_epoch={curriculum.n} is no multiple of data.gen_batch_size={fetch}, and verl would "
            "drop the rest of each epoch"
        )


def _source(config: DictConfig, max_samples: int) -> str:
    """What the dataset is called in messages."""
    files = f"data.train_files={_files(config.train_files)}"
    if max_samples <= 0:
        return files
    return f"{files} (data.train_max_samples={max_samples} takes the first: score with --limit {max_samples})"


def _files(files: Any) -> list[str]:
    return [str(name) for name in files] if isinstance(files, list | tuple | ListConfig) else [str(files)]
