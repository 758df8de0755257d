"""verl's V0 trainer for the tests, with what `verl_replaced` lists replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl_replaced import RESPONSE, Nothing, Reward, Workers, reward_of


def v0_rollouts(gen_batch: Any, reward: Reward) -> Any:
    """What verl's V0 agent loop hands back for a (repeated) generation batch."""
    from tensordict import TensorDict
    from verl import DataProto

    rows = len(gen_batch)
    marks = [info["gainrl"] for info in gen_batch.non_tensor_batch["extra_info"]]
    sessions = [index % 2 for index in range(rows)]
    scores = torch.zeros(rows, RESPONSE)
    scores[:, -1] = torch.tensor([reward(mark["id"], s) for mark, s in zip(marks, sessions, strict=True)])
    prompts = torch.tensor([[5, 6, 7, 8]]).repeat(rows, 1)
    responses = torch.tensor([[9, 10, 11][:RESPONSE]]).repeat(rows, 1)
    ids = torch.cat([prompts, responses], dim=1)
    return DataProto(
        batch=TensorDict(
            {
                "prompts": prompts,
                "responses": responses,
                "response_mask": torch.ones_like(responses),
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "position_ids": torch.arange(ids.shape[1]).repeat(rows, 1),
                "rm_scores": scores,
            },
            batch_size=rows,
        ),
        non_tensor_batch={
            "__num_turns__": np.full(rows, 2, dtype=np.int32),
            "multi_modal_inputs": np.array([{} for _ in range(rows)], dtype=object),
            "acc": scores.sum(dim=1).numpy() > 0,
        },
        meta_info={"reward_extra_keys": ["acc"], "timing": {}},
    )


class Killed(Exception):
    """A run that is cut short."""


def v0_trainer(config: Any, *, kill_after: int | None = None) -> tuple[Any, list[str]]:
    """verl's V0 trainer with REPLACED replaced, and the ids of the prompts that it generates for, as they come.

    kill_after: the run is cut short as it begins to generate for the step after this many.
    """
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.trainer.ppo.utils import Role
    from verl.utils import hf_tokenizer

    prompts: list[str] = []

    class Generates:
        steps = 0

        def generate_sequences(self, batch: Any) -> Any:
            if self.steps == kill_after:
                raise Killed
            self.steps += 1
            prompts.extend(info["gainrl"]["id"] for info in batch.non_tensor_batch["extra_info"][::2])
            return v0_rollouts(batch, reward_of)

    class Trainer(RayPPOTrainer):  # type: ignore[misc]
        def _compute_old_log_prob(self, batch: Any) -> Any:
            zeros = torch.zeros(batch.batch["responses"].shape)
            return DataProto.from_single_dict({"old_log_probs": zeros, "entropys": zeros.clone()}), 0.0

        def _update_actor(self, batch: Any) -> Any:
            return DataProto.from_single_dict({}, meta_info={"metrics": {"actor/pg_loss": [0.0]}})

    trainer = Trainer(
        config=config,
        tokenizer=hf_tokenizer(config.actor_rollout_ref.model.path),
        role_worker_mapping={Role.ActorRollout: None},
        resource_pool_manager=Nothing(),
    )
    trainer.actor_rollout_wg = Workers(measures=False)
    trainer.async_rollout_manager = Generates()
    trainer.checkpoint_manager = Nothing()
    trainer.llm_server_manager = Nothing()
    return trainer, prompts
