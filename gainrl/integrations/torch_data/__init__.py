"""The curriculum as plain PyTorch samplers, for every framework that lets its user choose the dataloader's sampler.

    curriculum = load_curriculum("scores.parquet", dataset["prompt"], n=64)
    sampler = CurriculumBatchSampler(curriculum, prompts_per_batch=64, repeats=8)
    loader = DataLoader(dataset, batch_sampler=sampler)
    for epoch in range(sampler.epoch, epochs):
        for batch in loader:  # the n prompts are drawn here, not before
            ...
            sampler.observe(rows, correct)  # one entry per rollout: its dataset row, its credit in [0, 1]

docs/frameworks.md lists the scripts for OpenRLHF, SkyRL and prime-rl.
"""

from gainrl.integrations.torch_data.curriculum import Curriculum, load_curriculum
from gainrl.integrations.torch_data.samplers import CurriculumBatchSampler, CurriculumSampler

__all__ = ["Curriculum", "CurriculumBatchSampler", "CurriculumSampler", "load_curriculum"]
