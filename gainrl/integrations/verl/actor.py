"""Angle concentration of the policy's own sequences, measured in verl's actor workers.

Only for a navigator that asks for angles.  verl imports this module in every process that builds the actor's model,
because `actor_rollout_ref.model.external_lib` names it.  It registers a subclass of verl's FSDP engine for the vendor
of this machine's devices; verl prefers that to its own, which names no vendor.  It measures in one pass alone:
the actor's for old log-probabilities, of a batch whose prompts carry the curriculum's mark with `angle` set.

A forward hook on the decoder reads the final norm's output of that pass, in which sequences lie packed (1, T) or padded
(B, L); one number per sequence is kept on the device, and copied to the host once a batch.  Measured is the whole
sequence, prompt and response: ‖U‖²/L².  It goes to the trainer as tags in a partition of its own of the TransferQueue,
under `{uid}_{session}`: verl empties the training partition at the end of each step.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from gainrl.angle import angle_concentration
from gainrl.integrations.verl.curriculum import MARK
from gainrl.integrations.verl.doors import ACTOR, door, listed, require
from gainrl.models import decoder_of

require(ACTOR)
_Registry: Any = door("verl.workers.engine", "EngineRegistry")
_Engine: Any = door("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead")
_device_name: Any = door("verl.utils.device", "get_device_name")
_vendor: Any = door("verl.utils.device", "get_vendor")

Measured = list[tuple[list[str], Tensor]]
"""Keys `{uid}_{session}` and the (B,) angles of their sequences, for each micro-batch."""


@_Registry.register(
    model_type="language_model",
    backend=["fsdp", "fsdp2"],
    device=os.getenv("VERL_ENGINE_DEVICE") or _device_name(),
    vendor=os.getenv("VERL_ENGINE_VENDOR") or _vendor(),
)
class AngleEngine(_Engine):  # type: ignore[misc]
    """verl's FSDP engine, measured where a batch asks for it."""

    _measured: Measured | None = None

    def infer_batch(self, data: Any, loss_function: Any = None) -> Any:
        """verl's pass; the angles of a batch that asks for them are left for the trainer."""
        if not self._asked(data):
            return super().infer_batch(data, loss_function)
        measured = self._measured = []
        try:
            output = super().infer_batch(data, loss_function)
        finally:
            self._measured = None
        if self.is_mp_src_rank_with_outputs():
            publish(measured)
        return output

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        """verl's forward pass of one micro-batch."""
        measured = self._measured
        if measured is None:
            return super().forward_step(micro_batch, loss_function, forward_only)

        def read(module: Any, inputs: Any, output: Any) -> None:
            hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
            offsets = micro_batch["input_ids"].offsets().to(hidden.device)
            names = zip(listed(micro_batch["uid"]), listed(micro_batch["session_id"]), strict=True)
            measured.append(([f"{uid}_{session}" for uid, session in names], measure(hidden.detach(), offsets)))

        hook = decoder_of(self.module).register_forward_hook(read)
        try:
            return super().forward_step(micro_batch, loss_function, forward_only)
        finally:
            hook.remove()

    def _asked(self, data: Any) -> bool:
        """Whether this is the actor's pass for old log-probabilities, of a batch whose prompts ask for it."""
        from verl.utils import tensordict_utils as tu
        from verl.utils import transferqueue_utils

        # The reference model's pass, by its own engine or by the actor without its adapter, computes no entropy.
        if not transferqueue_utils.TQ_INITIALIZED or not tu.get(data, key="calculate_entropy", default=False):
            return False
        if getattr(self.engine_config, "forward_only", False):
            return False
        if not {"extra_info", "uid", "session_id", "input_ids"} <= set(data.keys()):
            return False
        return any(bool((info.get(MARK) or {}).get("angle")) for info in listed(data["extra_info"]) if info)


@torch.no_grad()
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
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        padded: Tensor = angle_concentration(hidden, None, positions < offsets.diff().unsqueeze(1)).whole
        return padded
    raise RuntimeError(
        f"the actor forwarded hidden states of shape {tuple(hidden.shape)} for {count} sequences of {total} tokens: "
        "this release of verl packs its batches in another way than the one supported here"
    )


def publish(measured: Measured) -> None:
    """Leave the measurements for the trainer; a sequence whose angle is undefined, or made up as padding, has none."""
    angles: dict[str, float] = {}
    for keys, values in measured:
        angles.update(zip(keys, values.tolist(), strict=True))
    angles = {key: angle for key, angle in angles.items() if not (key.startswith("pad") or math.isnan(angle))}
    if angles:
        import transfer_queue as tq

        tq.kv_batch_put(keys=list(angles), partition_id=MARK, tags=[{"angle": angle} for angle in angles.values()])
