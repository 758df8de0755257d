"""SkyRL (at a956457) with a curriculum.  Run it in place of its entry point:

    trainer.override_entrypoint=main_curriculum data.dataloader.num_workers=0

An epoch is one draw of trainer.train_batch_size prompts: trainer.epochs counts steps.  The curriculum's state lies in
SkyRL's data.pt.  A trajectory's `instance_id` is the dataset row.
"""

import sys

import ray
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils import validate_cfg
from skyrl.train.utils.utils import initialize_ray
from torchdata.stateful_dataloader import StatefulDataLoader

from gainrl.integrations.torch_data import CurriculumSampler, load_curriculum


class CurriculumTrainer(RayPPOTrainer):
    def _build_train_dataloader_and_compute_training_steps(self):
        dataset, batch = self.train_dataset, self.cfg.trainer.train_batch_size
        prompts = dataset.dataframe[dataset.prompt_key]  # prompts that are too long are missing, hence subset
        self.sampler = CurriculumSampler(load_curriculum("scores.parquet", prompts, batch, subset=True))
        self.train_dataloader = StatefulDataLoader(
            dataset, batch_size=batch, sampler=self.sampler, collate_fn=dataset.collate_fn, drop_last=True
        )
        self.total_training_steps = len(self.train_dataloader) * self.cfg.trainer.epochs

    async def generate(self, input_batch):
        output = await super().generate(input_batch)  # before dynamic sampling filters or replaces a group
        steps = self.cfg.generator.step_wise_trajectories  # one entry for each turn, the reward in the last
        trajectories = output["trajectory_ids"] if steps else input_batch["trajectory_ids"]
        ends = output["is_last_step"] if steps else [True] * len(trajectories)
        finished = [index for index, end in enumerate(ends) if end]
        rows = [int(trajectories[index].instance_id) for index in finished]
        rewards = [output["rewards"][index] for index in finished]
        rewards = [sum(reward) if isinstance(reward, list) else reward for reward in rewards]
        self.sampler.observe(rows, [float(reward > 0.5) for reward in rewards], rewards=rewards)
        return output

    def load_checkpoints(self):
        step, path = super().load_checkpoints()
        if step:  # saved at a draw's end: SkyRL goes on with the next epoch, the loader with the empty rest of the last
            next(iter(self.train_dataloader), None)
        return step, path


class CurriculumExp(BasePPOExp):
    def get_trainer(self, **arguments):
        return CurriculumTrainer(**arguments)


@ray.remote(num_cpus=1)
def entrypoint(cfg):
    CurriculumExp(cfg).run()


def main():
    given = [word for word in sys.argv[1:] if not word.startswith("trainer.override_entrypoint=")]
    cfg = SkyRLTrainConfig.from_cli_overrides(given)
    validate_cfg(cfg)
    initialize_ray(cfg)
    ray.get(entrypoint.remote(cfg))
