"""verl's training dataset with the curriculum behind it: named in `data.custom_cls` by the packaged Hydra group.

verl makes the training and the validation dataset from one class and one section of the configuration.  The training
one has the length of verl's own, so that verl's epochs keep their meaning; whatever index the loader asks for, it hands
out the next prompt that the navigator drew.  Its state goes where verl keeps its loader's: `data.pt` of each checkpoint
(StatefulDataLoader asks the dataset for it), as JSON types.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from gainrl.errors import UserError
from gainrl.integrations.verl.curriculum import MARK, Curriculum
from gainrl.integrations.verl.doors import door, require
from gainrl.integrations.verl.settings import SECTION, Settings
from gainrl.table import ScoreTable

RLHFDataset: Any = door("verl.utils.dataset.rl_dataset", "RLHFDataset")

_training: weakref.ReferenceType[CurriculumDataset] | None = None
"""The training dataset of the trainer in this process."""


def current_curriculum() -> Curriculum:
    """That of the trainer in this process; UserError if there is none."""
    dataset = None if _training is None else _training()
    if dataset is None or dataset.curriculum is None:
        raise UserError(
            "gainrl's replay buffer found no training dataset of gainrl: data.custom_cls must be "
            "{path: pkg://gainrl.integrations.verl, name: CurriculumDataset}, as the group curriculum=gainrl sets it"
        )
    return dataset.curriculum


class CurriculumDataset(RLHFDataset):  # type: ignore[misc]
    """verl's RLHFDataset; the first of a configuration is for training and holds the curriculum.

    Raises UserError, before a model is loaded, for a score table of another dataset and for settings that do not fit.
    """

    curriculum: Curriculum | None = None

    def __init__(
        self, data_files: Any, tokenizer: Any, config: DictConfig, processor: Any = None, max_samples: int = -1
    ) -> None:
        global _training
        require(())
        latest = None if _training is None else _training()
        trains = _files(data_files) == _files(config.train_files) and (latest is None or latest.config is not config)
        settings = _settings(config) if trains else None
        super().__init__(
            data_files=data_files, tokenizer=tokenizer, config=config, processor=processor, max_samples=max_samples
        )
        if settings is not None:
            table = ScoreTable.read(os.path.expanduser(settings.scores))
            rows = table.join(self.dataframe[self.prompt_key], subset=True)  # verl leaves out what is too long
            if (column := settings.group_by) not in (None, *self.dataframe.column_names):
                there = ", ".join(self.dataframe.column_names)
                raise UserError(f"{SECTION}.group_by={column!r} is no column of data.train_files, which has {there}")
            sources = None if column is None else [str(name) for name in self.dataframe[column]]
            self.curriculum = Curriculum(settings, table, rows, sources, int(config.train_batch_size))
            _training = weakref.ref(self)

    def __getitem__(self, item: int) -> dict[str, Any]:
        if self.curriculum is None:
            row: dict[str, Any] = super().__getitem__(item)
            return row
        index, mark = self.curriculum.next_prompt()
        row = super().__getitem__(index)
        row["extra_info"] = {**row["extra_info"], MARK: mark}
        return row

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's state, for the checkpoint's `data.pt`; empty for a validation dataset."""
        return {} if self.curriculum is None else self.curriculum.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; UserError if it belongs to another dataset, ranking or setting."""
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state)


def _settings(config: DictConfig) -> Settings:
    section = config.get(MARK)
    given = None if section is None else OmegaConf.to_container(section, resolve=True)
    if isinstance(given, dict) and given.get("seed") is None:
        given["seed"] = config.get("seed")
    if config.shuffle:
        raise UserError("data.shuffle=true: the navigator chooses the order; leave it false")
    if config.dataloader_num_workers:
        raise UserError(
            f"data.dataloader_num_workers={config.dataloader_num_workers}: a worker process would draw prompts before "
            "those under way have been observed; set it to 0 (rows are read from memory)"
        )
    return Settings.from_config(given)


def _files(files: Any) -> list[str]:
    return [str(name) for name in files] if isinstance(files, list | tuple | ListConfig) else [str(files)]
