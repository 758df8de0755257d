"""GAIN-RL on verl's V1 trainer (verl 0.9.1), without Python of the user's: three lines of Hydra.

    python -m verl.trainer.main_ppo 'hydra.searchpath=[pkg://gainrl.integrations.verl.config]' \\
        +curriculum=gainrl data.gainrl.scores=scores.parquet ...

The packaged group `curriculum/gainrl.yaml` sets the keys that name the classes below, which load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gainrl.integrations.verl.dataset import CurriculumDataset
    from gainrl.integrations.verl.replay import replay_buffer

__all__ = ["CurriculumDataset", "replay_buffer"]

_HOMES = {"CurriculumDataset": "dataset", "replay_buffer": "replay"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
