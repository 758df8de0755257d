"""Where a model's final hidden states come from, found by structure.

The final hidden state is the vector that enters the classification layer: the output of the decoder's final norm, which
transformers calls `last_hidden_state`.  The decoder runs alone, so no logits are ever computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gainrl.errors import UserError


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder inside a causal language model: what it runs before its classification layer.

    Wrappers (PEFT, DataParallel) are opened.  Raises UserError if `model` is no causal decoder of transformers.
    """
    inner: Any = getattr(model, "module", model)  # DataParallel and DistributedDataParallel
    if hasattr(inner, "get_base_model"):  # PEFT: adapters live inside the base model's layers
        inner = inner.get_base_model()
    config = getattr(inner, "config", None)
    if config is None:
        raise UserError(f"{type(model).__name__} is no transformers model: it has no config")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{type(inner).__name__} is an encoder-decoder; angle concentration needs a causal decoder")
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        bare: nn.Module = inner
        return bare  # already the bare decoder
    decoder: Any = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    if decoder is None or decoder is inner:
        decoder = getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    if not isinstance(decoder, nn.Module) or any(child is head for child in decoder.modules()):
        raise UserError(f"cannot find the decoder inside {type(inner).__name__}: its head is not beside the decoder")
    return decoder


def context_length(model: nn.Module) -> int | None:
    """The most tokens the model takes, from its configuration; None where it states none."""
    config: Any = decoder_of(model).config
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for a while; every submodule gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def first_device(model: nn.Module) -> torch.device:
    """The device of the input embeddings, where token ids go."""
    return next(model.parameters()).device
