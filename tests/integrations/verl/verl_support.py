"""What the tests of the verl integration share: a dataset in verl's format, its score table, configurations, trainers.

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

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

if find_spec("verl") is None:  # skips the test module that imports this one
    pytest.skip("verl is not installed: scripts/verl_environment.sh makes its environment", allow_module_level=True)

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

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
THREE_LINES = (
    "hydra.searchpath=[pkg://gainrl.integrations.verl.config]",
    "+curriculum=gainrl",
    "data.gainrl.scores={scores}",
)
RESPONSE = 3
Reward = Callable[[str, int], float]


def write_dataset(path: Path, count: int = 24, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """Problems in verl's Parquet format; returns their prompts."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        left, right = rng.randrange(10 ** rng.randrange(1, 6)), rng.randrange(100)
        prompt = [{"role": "system", "content": "Add."}, {"role": "user", "content": f"What is {left} + {right}?"}]
        rows.append(
            {
                "data_source": "sums",
                "prompt": prompt,
                "reward_model": {"style": "rule", "ground_truth": str(left + right)},
                "extra_info": {"index": index, "split": "train"},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return [row["prompt"] for row in rows]


@cache
def _composed() -> Any:
    """verl's configuration as Hydra composes it with the three lines; seconds of work, done once."""
    lines = [line.format(scores="to-be-set") for line in THREE_LINES]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(config_name="ppo_trainer", overrides=lines)


def make_config(directory: Path, model: str, train: Path, scores: Path, *overrides: str) -> Any:
    """verl's configuration with the curriculum on, a small run, and these overrides `key=value`."""
    settings = [
        f"data.gainrl.scores={scores}",
        f"data.train_files={train}",
        f"data.val_files={train}",
        "data.train_batch_size=4",
        "data.max_prompt_length=64",
        f"data.max_response_length={RESPONSE}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        f"actor_rollout_ref.model.path={model}",
        "algorithm.adv_estimator=grpo",
        "data.gainrl.prompts_per_epoch=8",
        "data.gainrl.navigator=gaussian",
        f"trainer.default_local_dir={directory}",
        "trainer.logger=[]",
        "trainer.val_before_train=false",
        "trainer.device=cpu",
        "trainer.nnodes=1",
        "trainer.n_gpus_per_node=1",
        "trainer.total_epochs=100",
    ]
    config = copy.deepcopy(_composed())
    for override in (*settings, *overrides):
        key, _, value = override.partition("=")
        OmegaConf.update(config, key.removeprefix("+"), yaml.safe_load(value), force_add=key.startswith("+"))
    OmegaConf.resolve(config)
    return config


def rank(model: str, datasets: Sequence[Path], path: Path, *options: str) -> Path:
    """Run `gainrl score` over these files as one dataset; returns the table's path."""
    from gainrl.cli import main

    files = [word for dataset in datasets for word in ("--dataset", str(dataset))]
    before, sys.argv = sys.argv, ["gainrl", "score", "--model", model, *files, "--output", str(path)]
    sys.argv += ["--device", "cpu", *options]
    try:
        with contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv = before
    assert path.exists()
    return path


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
    own = {"verl_support", "verl_v0"}
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


def v1_trainer(
    config: Any, *, measures: bool | Callable[[str, int], bool] = True, workers: Workers | None = None
) -> Any:
    """verl's V1 trainer for `trainer.v1.trainer_mode`, with REPLACED replaced, set up to a loaded checkpoint."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    class Trainer(get_trainer_cls(config.trainer.v1.trainer_mode)):  # type: ignore[misc]
        def _setup(self) -> None:
            self._init_tokenizer()
            self._init_dataloader()
            self._init_dump_executor()
            self.ref_in_actor = False
            self.actor_rollout_wg = workers or Workers(measures=measures)
            self.resource_pool_manager = Nothing()
            self.checkpoint_manager = Nothing()
            self.llm_server_manager = Nothing()
            self.reward_loop_manager = NoRewardWorkers()
            self.distillation_config = None
            self.seen: list[dict[str, Any]] = []
            self._load_checkpoint()

    trainer = Trainer(config=config)
    trainer.replay_buffer.poll_interval = 0.05
    trainer.init()
    return trainer


def run_v1(
    config: Any,
    agents: Agents | None = None,
    *,
    measures: bool | Callable[[str, int], bool] = True,
    workers: Workers | None = None,
) -> tuple[Any, Agents]:
    """Train with verl's real `fit`; returns the trainer, whose `seen` are the logged metrics, and the agent loop."""
    trainer = v1_trainer(config, measures=measures, workers=workers)
    agents = agents or Agents(int(config.actor_rollout_ref.rollout.n))
    computed = trainer._compute_metrics

    def compute(batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        computed(batch, metrics, *args, **kwargs)
        trainer.seen.append(dict(metrics))

    trainer._compute_metrics = compute
    trainer.fit(agents)
    return trainer, agents


def epochs_of(prompts: Sequence[str], n: int) -> list[list[str]]:
    """Prompts in the order of their generation, cut into epochs of n."""
    return [list(prompts[start : start + n]) for start in range(0, len(prompts), n)]


def expected_epochs(
    scores: Path, n: int, epochs: int, angle: Callable[[str, int], float], **window: Any
) -> list[list[str]]:
    """Ids of the first epochs, by a navigator of its own fed with what `reward_of` and `angle` say."""
    from gainrl.curriculum import GaussianNavigator, Ranking, WindowSettings
    from gainrl.table import ScoreTable

    table = ScoreTable.read(scores)
    ranking = Ranking(table.ids, table.scores, table.metadata.fingerprint)
    navigator = GaussianNavigator(ranking, n, WindowSettings(**window))
    drawn = []
    for _ in range(epochs):
        drawn.append(navigator.draw())
        navigator.observe(
            {
                "id": name,
                "correct": reward_of(name, s),
                "scored": True,
                "angle": angle(name, s),
                "reward": 0.0,
                "tokens": 3,
            }
            for name in drawn[-1]
            for s in range(2)
        )
    return drawn


def table_angle(scores: Path) -> Callable[[str, int], float]:
    """The prompt's score, as `data.gainrl.angle=table` takes it."""
    from gainrl.table import ScoreTable

    table = ScoreTable.read(scores)
    score = dict(zip(table.ids, table.scores.tolist(), strict=True))
    return lambda name, session: score[name]


def records_of(directory: Path) -> list[dict[str, Any]]:
    """The lines of `epochs.jsonl`, without the seconds."""
    import json

    lines = (directory / "epochs.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
