"""GAIN-RL on TRL: configs, the mixin, and the trainer.

    from gainrl.integrations.trl import GainRLConfig, GainRLTrainer

    config = GainRLConfig(output_dir="run", scores="scores.parquet", prompts_per_epoch=1024, ...)
    GainRLTrainer(model, reward_funcs=reward, args=config, train_dataset=dataset).train()

For another trainer or config class of TRL put `GainRLMixin` and `CurriculumArguments` in front of it.
"""

from gainrl.integrations.trl.config import CurriculumArguments, GainRLConfig
from gainrl.integrations.trl.mixin import GainRLMixin
from gainrl.integrations.trl.trainer import GainRLTrainer

__all__ = ["CurriculumArguments", "GainRLConfig", "GainRLMixin", "GainRLTrainer"]
