"""OpenRLHF 0.11.2 with a curriculum.  It takes the arguments of openrlhf.cli.train_ppo_ray and trains in its place:

    SCORES=scores.parquet python train_curriculum.py --rollout.batch_size 128 --train.num_episodes 400 ...

An episode is one draw of PROMPTS_PER_EPISODE prompts (default: rollout.batch_size).  The curriculum's state lies in
OpenRLHF's own checkpoints.  Leave --data.dataloader_num_workers at 0.  --train.async_enable is not covered.
"""

import os
import runpy
from collections import Counter, defaultdict

import ray
from openrlhf.datasets.utils import blending_datasets
from openrlhf.trainer import ppo_trainer

from gainrl.integrations.torch_data import CurriculumSampler, load_curriculum


class CurriculumGenerator(ppo_trainer.SamplesGenerator):
    def generate_samples(self, **options):
        self.finished = []
        result = super().generate_samples(**options)
        # The 0-to-1 scores of the reward function or agent say what is correct.
        scores = [None if sample.scores is None else sample.scores.item() for sample in self.finished]
        self.sampler.observe(self.rows_of_finished(), scores)
        return result

    def rows_of_finished(self):
        """Samples carry their prompt's text alone: of equal prompts in a draw, each gets the rollouts of one."""
        texts, owed, taken, rows = self.prompts_dataloader.dataset.prompts, defaultdict(list), Counter(), []
        for row in self.sampler.unfinished:
            owed[texts[row]].append(row)
        for text in (sample.prompts[0] for sample in self.finished):  # the samples of a prompt follow each other
            rows.append(owed[text][taken[text] // self.args.rollout.n_samples_per_prompt])
            taken[text] += 1
        return rows

    def _process_response_into_experience(self, response, **options):
        sample = super()._process_response_into_experience(response, **options)
        self.finished.append(sample)  # also samples that dynamic filtering then drops
        return sample

    def generate_eval_samples(self, **options):
        self.finished = []
        return super().generate_eval_samples(**options)


class CurriculumTrainer(ppo_trainer.PPOTrainer.__ray_metadata__.modified_class.__ray_actor_class__):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        data, dataset, seed = self.args.data, self.prompts_dataloader.dataset, self.args.train.seed
        rows = blending_datasets(
            data.prompt_dataset,
            data.prompt_probs,
            self.strategy,
            seed,
            max_count=data.max_samples,
            dataset_split=data.prompt_split,
        )
        n = int(os.environ.get("PROMPTS_PER_EPISODE", self.args.rollout.batch_size))
        prompts = rows[data.input_key][: len(dataset)]
        curriculum = load_curriculum(os.environ["SCORES"], prompts, n, seed=seed, directory=self.args.ckpt.path)
        sampler = CurriculumSampler(curriculum, num_replicas=1, rank=0)
        self.prompts_dataloader = self.strategy.setup_dataloader(
            dataset, 1, False, False, dataset.collate_fn, sampler=sampler
        )
        self.max_steps = self.max_steps * n // len(dataset)
        self.samples_generator = CurriculumGenerator(
            self.strategy, self.prompts_dataloader, self.eval_dataloader, self.tokenizer, self.vllm_engines
        )
        self.samples_generator.sampler = sampler


if __name__ == "__main__":
    ppo_trainer.PPOTrainer = ray.remote(CurriculumTrainer)
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
