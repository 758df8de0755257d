"""The examples for SkyRL and prime-rl over stand-ins (PyPI has neither for this Python), and the docs' own loop.

Real: the examples' classes, the samplers, torchdata's loader.  Standing in for SkyRL: `RayPPOTrainer.train`, reduced to
the order in which it calls what the example overrides, with its rule for groups that dynamic sampling leaves out.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gainrl.integrations.torch_data import load_curriculum
from tests.learners import table_of

ROOT = Path(__file__).parents[3]
ROWS, BATCH, SAMPLES, EPOCHS = 60, 4, 2, 6
PROMPTS = [[{"role": "user", "content": f"question {n}"}] for n in range(ROWS)]

if not (ROOT / "examples").is_dir():
    pytest.skip("examples are not beside these tests (they run on an installed wheel)", allow_module_level=True)


@pytest.fixture
def example(monkeypatch, tmp_path):
    """`example(path, modules)`: the names of an example, with these modules standing in, in a folder with scores."""

    def load(path, modules):
        for name, contents in modules.items():
            module = types.ModuleType(name)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, name, module)
        table_of(PROMPTS).write(tmp_path / "scores.parquet")
        monkeypatch.chdir(tmp_path)
        return runpy.run_path(str(ROOT / "examples" / path), run_name="example")

    return load


def rewards_of(row):
    """One right and one wrong for every other prompt; the others all right, or all wrong."""
    return [1.0, 0.0] if row % 2 else [float(row % 4 == 0)] * 2


class PromptDataset:
    prompt_key = "prompt"
    dataframe = {"prompt": PROMPTS}  # noqa: RUF012
    collate_fn = staticmethod(list)

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return {"uid": str(row)}


class RayPPOTrainer:
    def __init__(self, cfg, checkpoint=None):
        self.cfg, self.checkpoint, self.train_dataset = cfg, checkpoint, PromptDataset()
        self.collected, self.generated, self.saved = [], [], []
        self._build_train_dataloader_and_compute_training_steps()

    async def generate(self, input_batch):
        rows = [int(trajectory.instance_id) for trajectory in input_batch["trajectory_ids"]]
        self.generated.append(rows[::SAMPLES])
        rewards = [reward for row in rows[::SAMPLES] for reward in rewards_of(row)]
        return {"rewards": rewards, "response_ids": [[7, 8]] * len(rows)}

    def load_checkpoints(self):
        if self.checkpoint is None:
            return 0, None
        self.train_dataloader.load_state_dict(self.checkpoint["loader"])
        return self.checkpoint["step"], "checkpoint"

    async def train(self):
        step, _ = self.load_checkpoints()
        for _ in range(step // len(self.train_dataloader), self.cfg.trainer.epochs):
            for prompts in self.train_dataloader:
                uids = [prompt["uid"] for prompt in prompts for _ in range(SAMPLES)]
                await self.generate({"trajectory_ids": [SimpleNamespace(instance_id=uid) for uid in uids]})
                if self.cfg.trainer.algorithm.dynamic_sampling.type is not None:
                    self.collected += [uid for uid in uids[::SAMPLES] if len(set(rewards_of(int(uid)))) > 1]
                    if len(self.collected) < BATCH:
                        continue
                    self.collected = []
                step += 1
                state = {"loader": self.train_dataloader.state_dict(), "step": step}
                self.saved.append((copy.deepcopy(state), len(self.generated)))


@pytest.fixture
def skyrl(example):
    pytest.importorskip("torchdata", reason="torchdata: not installed")
    pytest.importorskip("ray", reason="ray: not installed")
    packages = ("skyrl", "skyrl.train", "skyrl.train.entrypoints")
    modules = {
        "skyrl.train.config": {"SkyRLTrainConfig": object},
        "skyrl.train.entrypoints.main_base": {"BasePPOExp": object},
        "skyrl.train.trainer": {"RayPPOTrainer": RayPPOTrainer},
        "skyrl.train.utils": {"validate_cfg": None},
        "skyrl.train.utils.utils": {"initialize_ray": None},
    }
    kind = example("skyrl/main_curriculum.py", {name: {} for name in packages} | modules)["CurriculumTrainer"]

    def run(sampling, checkpoint=None):
        algorithm = SimpleNamespace(dynamic_sampling=SimpleNamespace(type=sampling))
        settings = SimpleNamespace(train_batch_size=BATCH, epochs=EPOCHS, algorithm=algorithm)
        generator = SimpleNamespace(step_wise_trajectories=False)
        trainer = kind(SimpleNamespace(trainer=settings, generator=generator), checkpoint)
        asyncio.run(trainer.train())
        return trainer

    return run


def test_skyrl_trains_on_the_draws_and_resumes_them(skyrl):
    trainer = skyrl(None)
    navigator = load_curriculum("scores.parquet", PROMPTS, BATCH).navigator
    assert trainer.generated[0] == navigator.draw(BATCH).tolist()
    assert len(trainer.generated) == EPOCHS
    for state, done in trainer.saved[:-1]:
        assert skyrl(None, state).generated == trainer.generated[done:]


def test_skyrls_dynamic_sampling_keeps_no_rollout_from_the_curriculum(skyrl):
    trainer = skyrl("filter")
    assert 0 < len(trainer.saved) < EPOCHS
    observed = trainer.sampler.curriculum.navigator.state_dict()["pending"]
    assert sorted(observed[-BATCH:, 0].astype(int)) == sorted(trainer.generated[-1])


def test_prime_rls_sampler_hands_out_observes_late_and_goes_on_with_what_was_in_flight(example):
    curriculum = {"samplers": SimpleNamespace(TaskSampler=Iterator)}
    modules = {
        "prime_rl": {}, "prime_rl.entrypoints": {}, "prime_rl.entrypoints.orchestrator": {"main": None},
        "prime_rl.orchestrator": {}, "prime_rl.orchestrator.curriculum": curriculum,
    }  # fmt: skip
    names = example("prime_rl/orchestrator_curriculum.py", modules)
    names["AngleSampler"].__init__.__globals__["PROMPTS_PER_DRAW"] = 40
    tasks = [SimpleNamespace(key=f"t{row}", data=SimpleNamespace(prompt=prompt)) for row, prompt in enumerate(PROMPTS)]

    def group(task):
        agent = SimpleNamespace(trainable=True)
        traces = [SimpleNamespace(agent=agent, has_error=False, reward=float(k)) for k in range(2)]
        return [SimpleNamespace(task=task, traces=traces[k : k + 1]) for k in range(2)]

    sampler = names["AngleSampler"](tasks)
    first = [next(sampler) for _ in range(40)]
    for task in first[:30]:
        sampler.observe(group(task))
    second = [next(sampler) for _ in range(4)]  # drawn while ten groups of the first draw are under way
    waiting = [task for task in first[30:] if task not in second]
    for task in (*waiting, second[1]):
        sampler.observe(group(task))
    again = names["AngleSampler"](tasks)
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    owed = sampler.sampler.unfinished
    assert len(owed) == 39  # late groups, also of tasks that are drawn again, finished none of the second draw
    assert [again.row_of[next(again).key] for _ in owed] == owed
    assert again.metrics()["draws"] == 2


def test_the_loop_of_the_docs_runs_as_it_stands(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from torch.*?)```", page, flags=re.DOTALL)
    table_of(PROMPTS).write(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    seen = []

    def roll_out_and_train(rows):
        seen.append([row["row"] for row in rows])
        return [row["row"] for row in rows], [float(row["row"] % 3 == 0) for row in rows]

    class Dataset(list):
        def __getitem__(self, item):
            return [row["prompt"] for row in self] if item == "prompt" else super().__getitem__(item)

    dataset = Dataset({"prompt": prompt, "row": row} for row, prompt in enumerate(PROMPTS))
    names = {"dataset": dataset, "roll_out_and_train": roll_out_and_train}
    exec(compile(block, "docs/integrations.md", "exec"), names)
    assert len(seen) == 12
    assert all(batch[::2] == batch[1::2] for batch in seen)
    assert names["state"]["version"]


def test_the_verl_script_turns_the_curriculum_on_with_the_three_lines():
    script = (ROOT / "examples" / "verl" / "gsm8k.sh").read_text(encoding="utf-8")
    for line in ("searchpath=[pkg://gainrl.integrations.verl.config]", "+curriculum=gainrl", "data.gainrl.scores="):
        assert line in script
