"""The doors of verl that this integration uses: found by name, missed by name, tested with one release."""

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

REPLAY_BUFFER = (
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer.sample ReplayBuffer._clear_groups ReplayBufferAsync.sample"),
    ("transfer_queue", "kv_batch_get kv_list kv_clear"),
)
ACTOR = (
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead.forward_step FSDPEngineWithLMHead.infer_batch"),
    ("verl.utils.transferqueue_utils", "TQ_INITIALIZED"),
    ("transfer_queue", "kv_batch_put"),
)

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do


def door(module: str, name: str) -> Any:
    """The object `name` (dotted) of `module`; UserError that names it if verl does not have it."""
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"verl {_installed()} has no {module}.{name} ({error}): the curriculum needs it and was tested with verl "
            f"{TESTED}; install that release"
        ) from error
    return found


def require(doors: tuple[tuple[str, str], ...]) -> None:
    """UserError that names the first of these doors which is missing; once, a warning for another release."""
    for module, names in doors:
        for name in names.split():
            door(module, name)
    _warn_if_untested()


def listed(values: Any) -> list[Any]:
    """A column that is no tensor, as a list; the TransferQueue hands over lists or tensordict's stacks of values."""
    plain: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return plain


@cache
def _warn_if_untested() -> None:
    if (found := _installed()) != TESTED:
        logger.warning("gainrl's curriculum was tested with verl %s; this is verl %s", TESTED, found)


def _installed() -> str:
    try:
        return version("verl")
    except PackageNotFoundError:
        return "(not installed)"
