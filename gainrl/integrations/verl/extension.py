"""verl's extension points that this integration stands on: found by name, missed by name, tested with one release."""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gainrl.errors import UserError

TESTED = "0.9.1"
"""The release of verl that the tests run against (tests/integrations/verl)."""

CUSTOM_DATASET = (
    ("verl.utils.dataset.rl_dataset", "RLHFDataset.maybe_filter_out_long_prompts"),
    ("verl.utils.dataset.rl_dataset", "RLHFDataset.__getitem__"),
    ("verl.utils.dataset.rl_dataset", "get_dataset_class"),
    ("verl.utils.checkpoint.checkpoint_manager", "find_latest_ckpt_path"),
)
REPLAY_BUFFER = (
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer.sample"),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._clear_groups"),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBufferAsync.sample"),
    ("verl.trainer.ppo.v1.trainer_base", "PPOTrainer.on_step_end"),
    ("transfer_queue", "kv_batch_get"),
    ("transfer_queue", "kv_list"),
    ("transfer_queue", "kv_clear"),
)
CHECKPOINT_CALLBACK = (("verl.trainer.ppo.checkpoint_callback", "CheckpointCallback.on_save"),)
ACTOR = (
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead.forward_step"),
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead.infer_batch"),
    ("verl.utils.transferqueue_utils", "TQ_INITIALIZED"),
    ("transfer_queue", "kv_batch_put"),
)

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do


def extension_point(module: str, name: str) -> Any:
    """The object `name` (dotted) of `module`; UserError that names it where verl does not have it."""
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"verl {_installed()} has no extension point {module}.{name} ({error}): the curriculum needs it and was "
            f"tested with verl {TESTED}; install that release"
        ) from error
    return found


def require(points: tuple[tuple[str, str], ...]) -> None:
    """UserError that names the first of these extension points which is missing; a warning for another release."""
    for module, name in points:
        extension_point(module, name)
    warn_if_untested()


def listed(values: Any) -> list[Any]:
    """A column that is no tensor, as a list; the TransferQueue hands over lists or tensordict's stacks of values."""
    plain: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return plain


@cache
def warn_if_untested() -> None:
    """Warn once where verl is of another release than the tested one."""
    if (found := _installed()) != TESTED:
        logger.warning("gainrl's curriculum was tested with verl %s; this is verl %s", TESTED, found)


def _installed() -> str:
    try:
        return version("verl")
    except PackageNotFoundError:
        return "(not installed)"
