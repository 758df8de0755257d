"""What the tests of verl share: a dataset in its format, configurations, and its V1 trainer with few parts replaced.

Real: Ray, TransferQueue, Hydra's composition of verl's own configuration, verl's V1 trainers (`fit` and all), datasets,
loaders, replay buffers, checkpoints, advantages and metrics.  Replaced (REPLACED names the places):

    actor worker group    `Workers`: log-probabilities are zero, an update changes nothing, a checkpoint is one file;
                          angles are left in the TransferQueue by the function that the engine uses
    agent loop            `Agents`: three tokens, graded by `reward_of`, put where AgentLoopWorkerTQ puts them
    others                weight syncing, inference servers, resource pool, reward-loop manager, and the set-up of these
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

if find_spec("verl") is None:  # skips the test module that imports this one
    pytest.skip("verl is not installed: scripts/verl_environment.sh makes its environment", allow_module_level=True)

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from tests.learners import table_of

THREE_LINES = ("hydra.searchpath=[pkg://gainrl.integrations.verl.config]", "+curriculum=gainrl", "data.gainrl.scores=S")
REPLACED = {
    "actor_rollout_wg", "agent_loop_manager", "checkpoint_manager", "llm_server_manager", "resource_pool_manager",
    "reward_loop_manager", "_setup",
}  # fmt: skip
RESPONSE = 3


def write_dataset(path: Path, count: int = 24) -> None:
    """Problems in verl's Parquet format, the last of them too long for a run; their score table lies beside them."""
    rng, rows = random.Random(0), []
    for index in range(count):
        left, right = rng.randrange(10 ** rng.randrange(1, 6)), rng.randrange(100)
        question = f"What is {left} + {right}?" * (1 + 20 * (index == count - 1))
        rows.append(
            {
                "data_source": ("sums", "totals")[index % 2],
                "prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": question}],
                "reward_model": {"style": "rule", "ground_truth": str(left + right)},
                "extra_info": {"index": index, "split": "train"},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    table_of([row["prompt"] for row in rows]).write(path.with_name("scores.parquet"))


@cache
def _composed() -> Any:
    """verl's configuration as Hydra composes it with the three lines; seconds of work, done once."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(config_name="ppo_trainer", overrides=list(THREE_LINES))


def make_config(directory: Path, model: str, train: Path, *overrides: str) -> Any:
    """verl's configuration with the curriculum on, a small run, and these overrides `key=value`."""
    settings = f"""
        data.gainrl.scores={train.with_name("scores.parquet")} data.gainrl.navigator=learner
        data.train_files={train} data.val_files={train} data.train_batch_size=4 data.max_prompt_length=128
        data.filter_overlong_prompts=true data.max_response_length={RESPONSE}
        actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=2 actor_rollout_ref.model.path={model}
        actor_rollout_ref.actor.ppo_mini_batch_size=4 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4
        algorithm.adv_estimator=grpo trainer.default_local_dir={directory} trainer.logger=[] trainer.device=cpu
        trainer.val_before_train=false trainer.nnodes=1 trainer.n_gpus_per_node=1 trainer.total_epochs=100
    """.split()
    config = copy.deepcopy(_composed())
    for override in (*settings, *overrides):
        key, _, value = override.partition("=")
        OmegaConf.update(config, key.removeprefix("+"), yaml.safe_load(value), force_add=key.startswith("+"))
    OmegaConf.resolve(config)
    return config


def reward_of(row: int, session: int) -> float:
    """Correct or not, from the prompt's row: the same in every run, whatever was trained before."""
    return float((row * 7 + session) % 5 > 1)


def angle_of(row: int, session: int) -> float:
    """An angle in (0, 1), as the actor would measure it."""
    return ((row * 31 + session) % 97 + 1) / 100


def tokens_of(row: int, session: int) -> list[int]:
    """Prompt and response as token ids; the last RESPONSE are the response."""
    return [*range(10 + row, 13 + row + row % 5), *range(100 + session, 100 + session + RESPONSE)]


class Nothing:
    """Stands for the managers of devices and inference servers: takes every call and does nothing."""

    reward_loop_worker_handles: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None

    def get_n_gpus(self) -> int:
        return 1


class Agents:
    """The agent loop: answers at once, and leaves in the TransferQueue what verl's own does."""

    def __init__(self, *, fails: Callable[[int], bool] = lambda row: False) -> None:
        self.fails = fails
        self.rows: list[int] = []
        """Rows of the score table, in the order in which verl asked for their prompts."""

    def generate_sequences(self, batch: Any) -> None:
        for index in range(len(batch)):
            row = {key: _plain(values, index) for key, values in batch.items()}
            self.rows.append(row["extra_info"]["gainrl"]["row"])
            self._answer(row)

    def _answer(self, prompt: dict[str, Any]) -> None:
        import transfer_queue as tq
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        row, uid = prompt["extra_info"]["gainrl"]["row"], prompt["uid"]
        if self.fails(row):
            tq.kv_put(key=uid, partition_id="train", tag={"status": "failure"})
            return
        keys, fields, tags = [], [], []
        for session in range(2):
            score, tokens = reward_of(row, session), tokens_of(row, session)
            output = AgentLoopOutput(
                prompt_ids=tokens[:-RESPONSE],
                response_ids=tokens[-RESPONSE:],
                response_mask=[1] * RESPONSE,
                response_logprobs=[0.0] * RESPONSE,
                reward_score=score,
                num_turns=2,
                metrics=AgentLoopMetrics(),
                extra_fields={"reward_extra_info": {"acc": bool(score)}, "min_global_steps": 0, "max_global_steps": 0},
            )
            field = output.as_dict()
            field.update(prompt, session_id=session)
            field["loss_mask"] = field["response_mask"]
            field["input_ids"] = torch.cat([field["prompts"], field["responses"]])
            field["position_ids"] = torch.arange(len(field["input_ids"]))
            field["multi_modal_inputs"] = {}
            steps, length = int(prompt["global_steps"]), len(field["input_ids"])
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

    def __init__(self) -> None:
        self._dispatch_info = {"actor": [0]}

    def compute_log_prob(self, batch: Any) -> Any:
        import transfer_queue as tq
        from tensordict import TensorDict

        from gainrl.integrations.verl.doors import listed

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
            from gainrl.integrations.verl.actor import publish

            sessions = [int(session) for session in listed(data["session_id"])]
            keys = [f"{uid}_{session}" for uid, session in zip(listed(data["uid"]), sessions, strict=True)]
            angles = [angle_of(mark["row"], session) for mark, session in zip(marks, sessions, strict=True)]
            publish([(keys, torch.tensor(angles))])
        return batch

    def update_actor(self, batch: Any) -> Any:
        return {"metrics": {"mfu": [0.0], "grad_norm": [1.0], "pg_loss": [0.0]}}

    def save_checkpoint(self, path: str, *args: Any, **kwargs: Any) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "weights").write_text("trained")

    def load_checkpoint(self, local_path: str, **kwargs: Any) -> None:
        assert (Path(local_path) / "weights").read_text() == "trained"


def run_v1(config: Any, agents: Agents | None = None, workers: Any = None) -> tuple[Any, Agents]:
    """Train with verl's real `fit`; returns the trainer, whose `seen` are the logged metrics, and the agent loop."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    class Trainer(get_trainer_cls(config.trainer.v1.trainer_mode)):  # type: ignore[misc]
        def _setup(self) -> None:
            self._init_tokenizer()
            self._init_dataloader()
            self._init_dump_executor()
            self.ref_in_actor = False
            self.actor_rollout_wg = workers or Workers()
            self.resource_pool_manager = self.checkpoint_manager = self.llm_server_manager = Nothing()
            self.reward_loop_manager = Nothing()
            self.distillation_config = None
            self._load_checkpoint()

    trainer = Trainer(config=config)
    trainer.replay_buffer.poll_interval = 0.05
    trainer.init()
    agents = agents or Agents()
    seen: list[dict[str, Any]] = []
    computed = trainer._compute_metrics

    def compute(batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        computed(batch, metrics, *args, **kwargs)
        seen.append(dict(metrics))

    trainer._compute_metrics = compute
    trainer.fit(agents)
    trainer.seen = seen
    return trainer, agents
