"""The curriculum on TRL: configs and trainers.

    from gainrl import GainRLConfig, GainRLTrainer

    config = GainRLConfig(output_dir="run", scores="scores.parquet", ...)
    GainRLTrainer(model, reward_funcs=reward, args=config, train_dataset=dataset).train()

For another trainer or config class of TRL put `GainRLMixin` and `CurriculumArguments` in front of it.  The names are
loaded on first use, because TRL takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig, GainRLRLOOConfig
    from gainrl.integrations.trl.trainer import GainRLMixin, GainRLRLOOTrainer, GainRLTrainer

__all__ = [
    "CurriculumArguments",
    "GainRLConfig",
    "GainRLMixin",
    "GainRLRLOOConfig",
    "GainRLRLOOTrainer",
    "GainRLTrainer",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "trainer" if name in ("GainRLMixin", "GainRLRLOOTrainer", "GainRLTrainer") else "config"
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
