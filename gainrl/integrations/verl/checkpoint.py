"""verl's checkpoint callback (V1 trainer): checks the parts against one another, and writes the state as JSON.

The callback can only save.  What a run resumes from is the dataset's state in `data.pt`, which verl saves and loads;
`curriculum.json` beside it is the same state for people and tools, readable without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gainrl.errors import UserError
from gainrl.files import write_text
from gainrl.integrations.verl.extension import CHECKPOINT_CALLBACK, extension_point, require

NAME = "curriculum.json"
PACKAGE = "gainrl.integrations.verl"
_EXPECTED = {
    "data.custom_cls.path": f"pkg://{PACKAGE}",
    "data.custom_cls.name": "CurriculumDataset",
    "trainer.v1.sampler.custom_sampler.path": f"pkg://{PACKAGE}",
    "trainer.v1.sampler.custom_sampler.name": "replay_buffer",
}

CheckpointCallback: Any = extension_point("verl.trainer.ppo.checkpoint_callback", "CheckpointCallback")


class CurriculumCheckpoint(CheckpointCallback):  # type: ignore[misc]
    """The first part of the integration that verl's V1 trainer makes.

    Raises UserError where the configuration names the other parts in another way, before anything is loaded.
    """

    def __init__(self, config: Any = None) -> None:
        require(CHECKPOINT_CALLBACK)
        super().__init__(config)
        for key, expected in _EXPECTED.items():
            found = OmegaConf.select(config, key)
            if found != expected:
                raise UserError(
                    f"{key}={found!r}, but the curriculum needs {expected!r} there: leave it to the group "
                    "curriculum=gainrl"
                )

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Write `curriculum.json` into the checkpoint."""
        dataset = trainer.train_dataset
        state = dataset.curriculum.saved or dataset.state_dict()  # the very one that `data.pt` has
        write_text(Path(checkpoint_dir) / NAME, json.dumps({"global_step": global_step, **state}, indent=1))
