"""The curriculum as plain PyTorch samplers, for every framework that lets its user choose the dataloader's sampler.

    curriculum = load_curriculum("scores.parquet", dataset["prompt"], n=1024)
    sampler = CurriculumBatchSampler(curriculum.navigator, curriculum.ids, prompts_per_batch=64, repeats=8)
    loader = DataLoader(dataset, batch_sampler=sampler)
    for epoch in range(epochs):
        for batch in loader:              # the epoch is drawn here, not before
            ...
            sampler.observe(records)      # one per rollout: {id, correct, scored, angle, reward, tokens}

docs/frameworks.md has the lines for OpenRLHF, prime-rl, SkyRL, NeMo-RL and a loop of one's own.
"""

from gainrl.integrations.torch_data.curriculum import Curriculum, load_curriculum
from gainrl.integrations.torch_data.samplers import CurriculumBatchSampler, CurriculumSampler

__all__ = ["Curriculum", "CurriculumBatchSampler", "CurriculumSampler", "load_curriculum"]
