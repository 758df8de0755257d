"""The script of docs/frameworks.md over a stand-in for SkyRL (a956457), which PyPI does not have.

Real: the page's class, the sampler, torchdata's loader.  Standing in: `RayPPOTrainer.train`, reduced to the order in
which it calls what the class overrides (start epoch by steps, generate, dynamic sampling, postprocess, save), with
SkyRL's own rule for filtered groups: collected until they are a whole training batch, across epochs, too.
"""

from __future__ import annotations

import asyncio
import copy
import sys
import types
from types import SimpleNamespace

import pytest
from tables import score_table

pytest.importorskip("torchdata", reason="torchdata: not installed")
pytest.importorskip("ray", reason="ray: not installed")

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13

ROWS, BATCH, SAMPLES, EPOCHS = 60, 4, 2, 3
PROMPTS = [[{"role": "user", "content": f"question {n}"}] for n in range(ROWS)]


def rewards_of(row: int) -> list[float]:
    """One right and one wrong for every other prompt; the others all right, or all wrong."""
    return [1.0, 0.0] if row % 2 else [float(row % 4 == 0)] * 2


class PromptDataset:
    prompt_key = "prompt"
    dataframe = {"prompt": PROMPTS}  # noqa: RUF012

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return {"uid": str(row)}

    collate_fn = staticmethod(list)


class RayPPOTrainer:
    def __init__(self, cfg, checkpoint=None):
        self.cfg, self.checkpoint, self.train_dataset = cfg, checkpoint, PromptDataset()
        self.global_step, self.collected, self.generated, self.saved, self.drawn = 0, [], [], [], []
        self._build_train_dataloader_and_compute_training_steps()

    async def generate(self, input_batch):
        rows = [int(trajectory.instance_id) for trajectory in input_batch["trajectory_ids"]]
        self.generated.append(rows[::SAMPLES])
        rewards = [reward for row in rows[::SAMPLES] for reward in rewards_of(row)]
        return {"rewards": rewards, "response_ids": [[7, 8]] * len(rows)}

    def handle_dynamic_sampling(self, output, uids):
        self.collected += [uid for uid in uids[::SAMPLES] if len(set(rewards_of(int(uid)))) > 1]
        if len(self.collected) < BATCH:
            return output, uids, True
        kept, self.collected = self.collected[:BATCH], []
        kept_rewards = [reward for uid in kept for reward in rewards_of(int(uid))]
        return {**output, "rewards": kept_rewards}, [uid for uid in kept for _ in range(SAMPLES)], False

    def postprocess_generator_output(self, output, uids, *arguments, **options):
        return output, uids

    def load_checkpoints(self):
        if self.checkpoint is None:
            return 0, None
        self.train_dataloader.load_state_dict(self.checkpoint["loader"])
        return self.checkpoint["step"], "checkpoint"

    async def train(self):
        self.global_step, _ = self.load_checkpoints()
        for _ in range(self.global_step // len(self.train_dataloader), self.cfg.trainer.epochs):
            for prompts in self.train_dataloader:
                uids = [prompt["uid"] for prompt in prompts for _ in range(SAMPLES)]
                output = await self.generate({"trajectory_ids": [SimpleNamespace(instance_id=uid) for uid in uids]})
                if self.cfg.trainer.algorithm.dynamic_sampling.type is not None:
                    output, uids, again = self.handle_dynamic_sampling(output, uids)
                    if again:
                        continue
                self.postprocess_generator_output(output, uids)
                self.global_step += 1
                state = {"loader": self.train_dataloader.state_dict(), "step": self.global_step}
                self.saved.append((copy.deepcopy(state), len(self.generated)))


@pytest.fixture
def trainer_class(page_blocks, monkeypatch, tmp_path):
    """The page's class, in a folder with the score table."""
    names = {
        "skyrl.train.config": {"SkyRLTrainConfig": object},
        "skyrl.train.entrypoints.main_base": {"BasePPOExp": object},
        "skyrl.train.trainer": {"RayPPOTrainer": RayPPOTrainer},
        "skyrl.train.utils": {"validate_cfg": None},
        "skyrl.train.utils.utils": {"initialize_ray": None},
    }
    for package in ("skyrl", "skyrl.train", "skyrl.train.entrypoints"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for name, contents in names.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    score_table(PROMPTS, directions=True).write(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    (block,) = page_blocks["SkyRL"]
    found = {"__name__": "main_curriculum"}
    # 1024 prompts an epoch would be more than this dataset has; 15 are no multiple of a batch, so 12 are drawn.
    exec(compile(block.replace("1024", "15"), "main_curriculum.py", "exec"), found)
    return found["CurriculumTrainer"]


def run(trainer_class, sampling, checkpoint=None):
    cfg = SimpleNamespace(
        trainer=SimpleNamespace(
            train_batch_size=BATCH, epochs=EPOCHS,
            algorithm=SimpleNamespace(dynamic_sampling=SimpleNamespace(type=sampling)),
        ),
        generator=SimpleNamespace(step_wise_trajectories=False),
    )  # fmt: skip
    trainer = trainer_class(cfg, checkpoint)
    asyncio.run(trainer.train())
    return trainer


@pytest.mark.parametrize("sampling", [None, "filter"])
def test_every_prompt_of_an_epoch_is_generated_and_counted_whatever_is_filtered(trainer_class, sampling):
    trainer = run(trainer_class, sampling)
    navigator = trainer.sampler.navigator
    assert (navigator.n, navigator.epoch, len(trainer.train_dataloader)) == (12, EPOCHS - 1, 3)
    assert len(trainer.generated) == 3 * EPOCHS
    last = [row for batch in trainer.generated[-3:] for row in batch]
    rewards = [reward for row in last for reward in rewards_of(row)]
    assert (navigator.totals.rollouts, navigator.totals.accuracy) == (len(rewards), sum(rewards) / len(rewards))
    assert (len(trainer.saved) < 3 * EPOCHS) == (sampling == "filter")


def test_a_run_resumes_from_every_checkpoint_those_at_an_epochs_end_too(trainer_class):
    whole = run(trainer_class, None)
    for state, done in whole.saved:
        again = run(trainer_class, None, state)
        assert again.generated == whole.generated[done:], done
        assert again.sampler.state_dict() == whole.sampler.state_dict()
