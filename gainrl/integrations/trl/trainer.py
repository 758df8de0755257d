"""`GainRLTrainer`: TRL's `GRPOTrainer` with the curriculum."""

from __future__ import annotations

from trl.trainer.grpo_trainer import GRPOTrainer

from gainrl.integrations.trl.mixin import GainRLMixin


class GainRLTrainer(GainRLMixin, GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` that draws each epoch's prompts from the ranking and measures as it trains (see `GainRLMixin`).

        GainRLTrainer(model, reward_funcs=..., args=GainRLConfig(scores="scores.parquet", ...), train_dataset=...)

    Takes everything that `GRPOTrainer` takes, and `scores`: the score table, if it is not in `args`.
    """
