"""GAIN-RL on TRL: configs, the mixin, and the trainer.

    from gainrl.integrations.trl import GainRLConfig, GainRLTrainer

    config = GainRLConfig(output_dir="run", scores="scores.parquet", num_train_epochs=64, ...)
    GainRLTrainer(model, reward_funcs=reward, args=config, train_dataset=dataset).train()

For another trainer or config class of TRL put `GainRLMixin` and `CurriculumArguments` in front of it.  The names are
loaded on first use: TRL takes seconds to import, and a mistake in a config file need not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig
    from gainrl.integrations.trl.mixin import GainRLMixin
    from gainrl.integrations.trl.trainer import GainRLTrainer

__all__ = ["CurriculumArguments", "GainRLConfig", "GainRLMixin", "GainRLTrainer"]

_HOMES = {"CurriculumArguments": "config", "GainRLConfig": "config", "GainRLMixin": "mixin", "GainRLTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
