"""Angle concentration of the policy's own sequences, measured in verl's actor workers.

verl imports this module in every process that builds the actor's model, because `actor_rollout_ref.model.external_lib`
names it; a module of the user's may import it as well, before verl's engine is loaded or after.  It measures nothing
unless a batch asks for it: its prompts carry the curriculum's mark with `angle` set (data.gainrl.angle), and the pass
is the actor's own for old log-probabilities in the V1 trainer.  The passes of the reference model, the critic,
validation and training are left alone.

A forward hook on the decoder reads the final norm's output of the very pass that verl makes anyway, in which sequences
lie packed (1, T) or padded (B, L); one number per sequence is kept on the device, and copied to the host once a batch.
Measured is the whole sequence, prompt and response: ‖U‖²/L².  It goes to the driver as tags in a partition of its
own of the TransferQueue, under `{uid}_{session}`: verl empties the training partition at the end of each step.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gainrl.angle import angle_concentration
from gainrl.integrations.verl.extension import ACTOR, extension_point, listed, require
from gainrl.scoring.taps import decoder_of

MARK = "gainrl"
PARTITION = "gainrl"
_TARGET = ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead")
_MEASURED = "_gainrl_measured"


def install() -> None:
    """Put the measurement into verl's FSDP engine, once in a process."""
    engine: Any = extension_point(*_TARGET)
    if getattr(engine.forward_step, "_gainrl", False):
        return
    require(ACTOR)
    forward_step, infer_batch = engine.forward_step, engine.infer_batch

    @functools.wraps(forward_step)
    def measuring_step(self: Any, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        measured = self.__dict__.get(_MEASURED)
        if measured is None:
            return forward_step(self, micro_batch, loss_function, forward_only)
        with _Tap(self.module, micro_batch, measured):
            return forward_step(self, micro_batch, loss_function, forward_only)

    @functools.wraps(infer_batch)
    def measuring_batch(self: Any, data: Any, loss_function: Any = None) -> Any:
        if not _asks(self, data):
            return infer_batch(self, data, loss_function)
        measured: list[tuple[list[str], Tensor]] = []
        setattr(self, _MEASURED, measured)
        try:
            output = infer_batch(self, data, loss_function)
        finally:
            delattr(self, _MEASURED)
        if self.is_mp_src_rank_with_outputs():
            _publish(measured)
        return output

    measuring_step._gainrl = True  # type: ignore[attr-defined]
    engine.forward_step, engine.infer_batch = measuring_step, measuring_batch


def _asks(engine: Any, data: Any) -> bool:
    """Whether this pass is the actor's own for old log-probabilities, of a batch whose prompts ask for measuring."""
    from verl.utils import tensordict_utils as tu
    from verl.utils import transferqueue_utils

    # The reference model's pass, by its own engine or by the actor without its adapter, computes no entropy.
    if not transferqueue_utils.TQ_INITIALIZED or not tu.get(data, key="calculate_entropy", default=False):
        return False
    if getattr(engine.engine_config, "forward_only", False):
        return False
    if not {"extra_info", "uid", "session_id", "input_ids"} <= set(data.keys()):
        return False
    return any(bool((info.get(MARK) or {}).get("angle")) for info in listed(data["extra_info"]) if info)


class _Tap:
    """Measures the one forward pass inside the `with` block."""

    def __init__(self, module: Any, micro_batch: Any, measured: list[tuple[list[str], Tensor]]) -> None:
        self._decoder, self._batch, self._measured = decoder_of(module), micro_batch, measured

    def __enter__(self) -> None:
        self._handle = self._decoder.register_forward_hook(self._read)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _read(self, module: Any, inputs: Any, output: Any) -> None:
        hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        offsets = self._batch["input_ids"].offsets().to(hidden.device)
        names = zip(listed(self._batch["uid"]), listed(self._batch["session_id"]), strict=True)
        keys = [f"{group}_{session}" for group, session in names]
        with torch.no_grad():
            self._measured.append((keys, measure(hidden.detach(), offsets)))


def measure(hidden: Tensor, offsets: Tensor) -> Tensor:
    """(B,) float32 ‖U‖²/L² of B sequences.

    hidden: packed (1, T, D), T at least offsets[-1] (verl pads at the end), or padded on the right (B, L, D).
    offsets: (B+1,) integer, where each sequence begins in the packed row.  RuntimeError for other shapes.
    """
    count, total = len(offsets) - 1, int(offsets[-1])
    if hidden.ndim == 3 and hidden.shape[0] == 1 and hidden.shape[1] >= total:
        roles = torch.ones(total, dtype=torch.int8, device=hidden.device)
        packed: Tensor = angle_concentration(hidden[0, :total], offsets, roles).whole
        return packed
    if hidden.ndim == 3 and hidden.shape[0] == count:
        places = torch.arange(hidden.shape[1], device=hidden.device)
        padded: Tensor = angle_concentration(hidden, None, places < offsets.diff().unsqueeze(1)).whole
        return padded
    raise RuntimeError(
        f"the actor forwarded hidden states of shape {tuple(hidden.shape)} for {count} sequences of {total} tokens: "
        "this release of verl packs its batches in another way than the one supported here"
    )


def _publish(measured: list[tuple[list[str], Tensor]]) -> None:
    """Leave the measurements for the driver; a sequence whose angle is undefined, or made up as padding, has none."""
    angles: dict[str, float] = {}
    for keys, values in measured:
        angles.update(zip(keys, values.tolist(), strict=True))
    angles = {key: angle for key, angle in angles.items() if not (key.startswith("pad") or math.isnan(angle))}
    if angles:
        import transfer_queue as tq

        tq.kv_batch_put(keys=list(angles), partition_id=PARTITION, tags=[{"angle": angle} for angle in angles.values()])


class _OnceEngineIsThere(importlib.abc.MetaPathFinder):
    """Installs the measurement as soon as verl's engine has been imported; processes without one never load it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TARGET[0]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_install(module: ModuleType) -> None:
                execute(module)
                install()

            spec.loader.exec_module = execute_and_install  # type: ignore[method-assign]
        return spec


if _TARGET[0] in sys.modules:
    install()
else:  # a worker that imports this before its engine, or an inference server, which has none
    sys.meta_path.insert(0, _OnceEngineIsThere())
