"""The curriculum on TRL: configs and trainers.

    config = GainRLConfig(output_dir="run", scores="scores.parquet", ...)
    GainRLTrainer(model, reward_funcs=reward, args=config, train_dataset=dataset).train()

For another trainer or config class of TRL put `GainRLMixin` and `CurriculumArguments` in front of it.
"""

from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig, GainRLRLOOConfig
from gainrl.integrations.trl.trainer import GainRLMixin, GainRLRLOOTrainer, GainRLTrainer

__all__ = [
    "CurriculumArguments", "GainRLConfig", "GainRLMixin", "GainRLRLOOConfig", "GainRLRLOOTrainer", "GainRLTrainer",
]  # fmt: skip
