"""What the tests of the verl integration share: a dataset in verl's format, its score table, configurations, trainers.

`verl_replaced` has what is not verl's in them.
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
import yaml
from verl_replaced import RESPONSE, Agents, NoRewardWorkers, Nothing, Workers, reward_of

if find_spec("verl") is None:  # skips the test module that imports this one
    pytest.skip("verl is not installed: scripts/verl_environment.sh makes its environment", allow_module_level=True)

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

THREE_LINES = (
    "hydra.searchpath=[pkg://gainrl.integrations.verl.config]",
    "+curriculum=gainrl",
    "data.gainrl.scores={scores}",
)


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
