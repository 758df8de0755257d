"""The curriculum on TRL: configs and trainers.

For another trainer or config class of TRL put `GainRLMixin` and `CurriculumArguments` in front of it.
"""

import warnings

from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig, GainRLRLOOConfig
from gainrl.integrations.trl.trainer import GainRLMixin, GainRLRLOOTrainer, GainRLTrainer

# TRL sets gradient_checkpointing in every run, and newer transformers warn of the name four times.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)

__all__ = [
    "CurriculumArguments", "GainRLConfig", "GainRLMixin", "GainRLRLOOConfig", "GainRLRLOOTrainer", "GainRLTrainer",
]  # fmt: skip
