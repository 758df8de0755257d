"""What the tests of the verl integration replace of verl, which is little.

Real: Ray, TransferQueue, Hydra's composition of verl's own configuration, verl's trainers (V0 and V1, `fit` and all),
datasets, data loaders, replay buffers, checkpoints, advantages and metrics.

Replaced, and only this (REPLACED and REPLACED_V0 name the places, and tests hold the trainers to them):

    actor worker group    `Workers`: log-probabilities are zero, an update changes nothing, a checkpoint is one file.
                          Where angles are asked for, they are left in the TransferQueue by the function the hook uses
                          (the hook itself runs in verl's real FSDP engine in test_actor.py)
    agent loop            `Agents`: completions are three tokens, graded by `reward_of`; what it puts into the
                          TransferQueue, and its keys and tags, are those of AgentLoopWorkerTQ
    weight syncing        `Nothing` for the checkpoint-engine manager
    inference servers     `Nothing` for their manager: there are none
    resource pool         `Nothing`, reporting one device
    reward-loop manager   an object without workers: `Agents` grades
    set-up                what makes the six above, from `_setup` of the V1 trainer
    V0                    `_compute_old_log_prob` returns zeros and `_update_actor` no more than a metric; its
                          `async_rollout_manager` hands back three tokens graded by `reward_of` (verl_v0)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPLACED = {
    "actor_rollout_wg": "actor worker group",
    "agent_loop_manager": "agent loop",
    "checkpoint_manager": "weight syncing",
    "llm_server_manager": "inference servers",
    "resource_pool_manager": "resource pool",
    "reward_loop_manager": "reward-loop manager",
    "_setup": "set-up",
}
REPLACED_V0 = {
    "actor_rollout_wg": "actor worker group",
    "async_rollout_manager": "agent loop",
    "checkpoint_manager": "weight syncing",
    "llm_server_manager": "inference servers",
    "resource_pool_manager": "resource pool",
    "_compute_old_log_prob": "old log-probabilities",
    "_update_actor": "update",
}
"""Attributes and methods of verl's trainers that are not verl's in these tests."""
RESPONSE = 3
Reward = Callable[[str, int], float]


class NoRewardWorkers:
    """The reward-loop manager of a run whose agent loop grades."""

    reward_loop_worker_handles: tuple[Any, ...] = ()


class Nothing:
    """Stands for the managers of devices and inference servers: takes every call and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None

    def get_n_gpus(self) -> int:
        return 1


def replaced_in(trainer: Any) -> set[str]:
    """Attributes and methods of a trainer that come from these tests."""
    own = {"verl_replaced", "verl_v0"}
    values = {name for name, value in vars(trainer).items() if type(value).__module__ in own}
    return values | {name for name, value in vars(type(trainer)).items() if callable(value)}


def reward_of(prompt_id: str, session: int) -> float:
    """Correct or not, from the prompt's id: the same in every run, whatever was trained before."""
    return float((int(prompt_id[:8], 16) + session) % 3 > 0)


def angle_of(prompt_id: str, session: int) -> float:
    """An angle in (0, 1) from the prompt's id, as the actor would measure it."""
    return ((int(prompt_id[8:14], 16) + session) % 97 + 1) / 100


def tokens_of(prompt_id: str, session: int) -> list[int]:
    """Prompt and response as token ids, of a length of its own; the last RESPONSE are the response."""
    digits = [int(prompt_id[place : place + 2], 16) % 200 + 5 for place in range(0, 16, 2)]
    return [*digits[: 3 + digits[0] % 5], *(token + session for token in digits[:RESPONSE])]


class Agents:
    """The agent loop: answers at once, and leaves in the TransferQueue what verl's own does."""

    def __init__(
        self,
        rollouts: int,
        reward: Reward = reward_of,
        *,
        fails: Callable[[str], bool] = lambda _: False,
        silent: Callable[[str, int], bool] = lambda name, session: False,
    ) -> None:
        self.rollouts, self.reward, self.fails, self.silent = rollouts, reward, fails, silent
        self.prompts: list[str] = []
        """Ids of the prompts in the order in which verl asked for them."""
        self.held: list[dict[str, Any]] | None = None
        """Prompts that have not been answered yet, where answers are held back."""

    def generate_sequences(self, batch: Any) -> None:
        rows = [{key: _plain(values, index) for key, values in batch.items()} for index in range(len(batch))]
        for row in rows:
            mark = row["extra_info"].get("gainrl")
            if mark is not None:
                self.prompts.append(mark["id"])
        if self.held is not None:
            self.held.extend(rows)
            return
        for row in rows:
            self.answer(row)

    def answer(self, row: dict[str, Any]) -> None:
        """Put the group's trajectories and its status into the TransferQueue."""
        import transfer_queue as tq
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        mark, uid = row["extra_info"]["gainrl"], row["uid"]
        if self.fails(mark["id"]):
            tq.kv_put(key=uid, partition_id="train", tag={"status": "failure"})
            return
        keys, fields, tags = [], [], []
        for session in range(self.rollouts):
            score = self.reward(mark["id"], session)
            output = AgentLoopOutput(
                prompt_ids=tokens_of(mark["id"], session)[:-RESPONSE],
                response_ids=tokens_of(mark["id"], session)[-RESPONSE:],
                response_mask=[1] * RESPONSE,
                response_logprobs=[0.0] * RESPONSE,
                reward_score=score,
                num_turns=2,
                metrics=AgentLoopMetrics(),
                extra_fields={
                    "reward_extra_info": {} if self.silent(mark["id"], session) else {"acc": bool(score)},
                    "min_global_steps": 0,
                    "max_global_steps": 0,
                },
            )
            field = output.as_dict()
            field.update(row, session_id=session)
            field["loss_mask"] = field["response_mask"]
            field["input_ids"] = torch.cat([field["prompts"], field["responses"]])
            field["position_ids"] = torch.arange(len(field["input_ids"]))
            field["multi_modal_inputs"] = {}
            steps, length = int(row["global_steps"]), len(field["input_ids"])
            keys.append(f"{uid}_{session}_0")
            fields.append(field)
            tags.append(
                {"status": "success", "prompt_len": length - RESPONSE, "response_len": RESPONSE, "seq_len": length}
                | {"global_steps": steps, "min_global_steps": steps, "max_global_steps": steps}
            )
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id="train")
        tq.kv_put(key=uid, partition_id="train", tag={"status": "finished"})


def _plain(values: Any, index: int) -> Any:
    """One prompt's value, as AgentLoopWorkerTQ takes it out of a batch."""
    from tensordict import NonTensorStack

    if isinstance(values, torch.Tensor):
        return values[index]
    return values[index].data if isinstance(values, NonTensorStack) else getattr(values, "data", values)


class Workers:
    """The actor worker group of the V1 trainer, over the real TransferQueue."""

    def __init__(self, *, measures: bool | Callable[[str, int], bool]) -> None:
        self.measures = measures if callable(measures) else lambda name, session: bool(measures)
        self._dispatch_info = {"actor": [0]}
        self.saved: list[str] = []

    def compute_log_prob(self, batch: Any) -> Any:
        import transfer_queue as tq
        from tensordict import TensorDict

        from gainrl.integrations.verl.actor import _publish
        from gainrl.integrations.verl.extension import listed

        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["input_ids", "uid", "session_id", "extra_info"],
        )
        zeros = torch.nested.nested_tensor_from_jagged(
            torch.zeros(len(data["input_ids"].values())), data["input_ids"].offsets()
        )
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"log_probs": zeros, "entropy": zeros.clone()}, batch_size=len(batch)),
        )
        marks = [info["gainrl"] for info in listed(data["extra_info"])]
        if marks[0]["angle"]:
            sessions = [int(session) for session in listed(data["session_id"])]
            found = {
                f"{uid}_{session}": angle_of(mark["id"], session)
                for uid, session, mark in zip(listed(data["uid"]), sessions, marks, strict=True)
                if self.measures(mark["id"], session)
            }
            _publish([(list(found), torch.tensor(list(found.values())))])
        return batch

    def update_actor(self, batch: Any) -> Any:
        return {"metrics": {"mfu": [0.0], "grad_norm": [1.0], "pg_loss": [0.0]}}

    def save_checkpoint(self, path: str, *args: Any, **kwargs: Any) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "weights").write_text("trained")
        self.saved.append(path)

    def load_checkpoint(self, local_path: str, **kwargs: Any) -> None:
        assert (Path(local_path) / "weights").read_text() == "trained"
