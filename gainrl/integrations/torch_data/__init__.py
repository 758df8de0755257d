"""The curriculum as plain PyTorch samplers, for every framework that lets its user choose the dataloader's sampler.

docs/integrations.md has a loop of your own, and the scripts for OpenRLHF, SkyRL and prime-rl.
"""

from gainrl.integrations.torch_data.curriculum import Curriculum, load_curriculum
from gainrl.integrations.torch_data.samplers import CurriculumBatchSampler, CurriculumSampler

__all__ = ["Curriculum", "CurriculumBatchSampler", "CurriculumSampler", "load_curriculum"]
