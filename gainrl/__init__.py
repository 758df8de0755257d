"""gainrl: scoring and curricula for reinforcement fine-tuning of language models (GAIN-RL, arXiv 2506.02281).

The public names are loaded on first use, so that `import gainrl` costs nothing and the curriculum works
without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gainrl.angle import (
        AngleConcentration,
        SharedPrefix,
        Status,
        angle_concentration,
        available_backends,
        shared_prefix,
    )
    from gainrl.errors import UserError
    from gainrl.integrations.trl import GainRLConfig, GainRLTrainer
    from gainrl.scoring import AngleScorer
    from gainrl.table import ScoreTable

_HOMES = {
    "AngleConcentration": "gainrl.angle",
    "AngleScorer": "gainrl.scoring",
    "GainRLConfig": "gainrl.integrations.trl",
    "GainRLTrainer": "gainrl.integrations.trl",
    "ScoreTable": "gainrl.table",
    "SharedPrefix": "gainrl.angle",
    "Status": "gainrl.angle",
    "UserError": "gainrl.errors",
    "angle_concentration": "gainrl.angle",
    "available_backends": "gainrl.angle",
    "shared_prefix": "gainrl.angle",
}

__all__ = [
    "AngleConcentration",
    "AngleScorer",
    "GainRLConfig",
    "GainRLTrainer",
    "ScoreTable",
    "SharedPrefix",
    "Status",
    "UserError",
    "__version__",
    "angle_concentration",
    "available_backends",
    "shared_prefix",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gainrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
