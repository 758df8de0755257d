"""One process of two under `torchrun`: angles of a model sharded by FSDP, and of the same model whole.

torchrun --nproc-per-node 2 sharded_tap.py MODEL KIND        KIND: fsdp1, fsdp2
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers import AutoModelForCausalLM

from gainrl.cli.leaving import one_of_several
from gainrl.integrations.trl.tap import AngleTap


def sharded(model: Any, kind: str) -> Any:
    """The model in shards, its norm's weight too."""
    layers = model.model.layers
    if kind == "fsdp1":
        policy = ModuleWrapPolicy({type(layers[0])})
        wrapped = FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
        assert sum(p.numel() for p in wrapped.parameters()) < sum(p.numel() for p in load().parameters())
        return wrapped
    mesh = init_device_mesh("cpu", (2,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert model.model.norm.weight.to_local().numel() == model.config.hidden_size // 2
    return model


def load() -> Any:
    return AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)


def measured(tap: AngleTap, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, Any]:
    with tap.listening(mask.bool()) as angles:
        output = model(input_ids=ids, attention_mask=mask)
    return torch.cat(angles), output


def main(kind: str) -> None:
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(torch.distributed.get_rank())
    ids, mask = torch.randint(5, 200, (4, 11)), torch.ones(4, 11, dtype=torch.long)
    mask[0, :3] = mask[2, :5] = 0
    whole = load()
    expected, _ = measured(AngleTap(whole), whole, ids, mask)
    model = load()
    tap = AngleTap(model)  # as the trainer does it: before the model is wrapped
    model = sharded(model, kind)
    for _ in range(2):  # again after a backward pass has put the shards back
        angles, output = measured(tap, model, ids, mask)
        assert torch.equal(angles, expected), (angles - expected).abs().max()
        output.logits.pow(2).mean().backward()
    print("EQUAL")


if __name__ == "__main__":
    with one_of_several():
        main(sys.argv[2])
