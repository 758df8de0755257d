"""Attention over a packed row: many sequences one after the other, each behind keys and values that they share.

Registered with transformers under a name of its own, so that any model whose attention goes through its interface can
be run that way.  What the function needs to know of the row under way is a `Layout` in a context variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gainrl.scoring import kernels
from gainrl.scoring.locks import alone

Tokens = npt.NDArray[np.int32]
_NAME = "gainrl_packed"


class Unsupported(Exception):
    """The model's attention asks for something that the packed form does not do."""


@dataclass
class Prefix:
    """Shared leading tokens that were forwarded once."""

    tokens: Tokens
    hidden: Tensor
    """(P, D) hidden states at the tap."""
    final: Tensor | None = None
    """(P, D) final hidden states, where asked for."""
    keys_values: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per layer: keys and values, each (heads, P, head_dim), positions applied."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Group:
    """Neighbours in the packed row that have the same length: rows start .. start + count * length."""

    start: int
    count: int
    length: int


@dataclass(frozen=True)
class Attended:
    """One call of a model's attention function: states (1, heads, T, width) and the settings of the layer."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    softcap: float
    window: int


@dataclass
class Layout:
    """What the attention function needs to know about the packed row under way."""

    groups: list[Group]
    offsets: Tensor
    """(B + 1,) int64 on the CPU: where each sequence starts in the packed row, and where the last ends."""
    prefix: Prefix | None
    record: Prefix | None = None
    masks: dict[tuple[int, int, int, torch.device], Tensor] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    """Sliding windows that the model's attention was called with."""
    seen: list[Attended] | None = None
    """Where each call of the attention function is noted, if asked for."""

    def shared(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the shared tokens in a layer."""
        return self.prefix.keys_values[layer] if self.prefix is not None else None

    def note(self, layer: int, key: Tensor, value: Tensor, window: int) -> None:
        """Keep a layer's keys and values (heads, T, width), if this row is a prefix, and the window."""
        self.windows.add(window)
        if self.record is not None:
            if layer in self.record.keys_values:
                raise Unsupported(f"layer {layer} attends more than once")
            self.record.keys_values[layer] = (key, value)

    def mask(self, length: int, shared: int, window: int, device: torch.device) -> Tensor | None:
        """(length, shared + length) bool, true where a query may look; None for plain causal attention.

        `window` > 0 limits each query to the last `window` tokens, its own included.
        """
        if shared == 0 and not 0 < window < length:
            return None
        if not 0 < window < shared + length:
            window = 0
        key = (length, shared, window, device)
        if key not in self.masks:
            query = torch.arange(shared, shared + length, device=device)[:, None]
            seen = torch.arange(shared + length, device=device)[None, :]
            allowed = seen <= query
            self.masks[key] = allowed & (seen > query - window) if window else allowed
        return self.masks[key]


_under_way: ContextVar[Layout] = ContextVar("gainrl_packed_layout")


def under_way() -> Layout:
    """The layout of the packed row that is being forwarded."""
    return _under_way.get()


_COPIED_ROWS = 1 << 14
_HARMLESS = {"position_ids", "cache_position", "is_causal", "use_cache", "output_attentions", "output_hidden_states"}


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over the packed row (batch of 1): query (1, H, T, d), key and value (1, Hkv, T, d) -> (1, T, H, d)."""
    strange = {name for name, value_ in others.items() if value_ is not None and name not in _HARMLESS}
    if strange or dropout:
        raise Unsupported(f"attention arguments {sorted(strange) or ['dropout']}")
    layout = _under_way.get(None)
    if layout is None:
        raise RuntimeError(f"{type(module).__name__} is run by one thread while another scores with its configuration")
    layer: Any = module.layer_idx
    heads, kv_heads, value_dim = query.shape[1], key.shape[1], value.shape[3]
    window, cap = sliding_window or 0, softcap or 0.0
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout.seen is not None:
        layout.seen.append(Attended(query, key, value, scale, cap, window))
    layout.note(layer, key[0], value[0], window)
    shared = layout.shared(layer)
    own = kernels.attention(query[0], key[0], value[0], shared, layout.offsets, scale=scale, softcap=cap, window=window)
    if own is not None:
        return own[None], None
    output = query.new_empty(query.shape[2], heads, value_dim)
    for group in _slices(layout.groups, 0 if shared is None else shared[0].shape[1]):
        rows = slice(group.start, group.start + group.count * group.length)
        q, k, v = (
            states[0, :, rows].reshape(states.shape[1], group.count, group.length, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        before = 0
        if shared is not None:
            before = shared[0].shape[1]
            k = torch.cat([shared[0].expand(group.count, -1, -1, -1), k], dim=2)
            v = torch.cat([shared[1].expand(group.count, -1, -1, -1), v], dim=2)
        if heads != kv_heads and query.is_cuda:  # with a mask, CUDA's fused kernels want as many heads as queries
            k, v = (states.repeat_interleave(heads // kv_heads, dim=1) for states in (k, v))
        mask = layout.mask(group.length, before, window, query.device)
        if softcap is not None:
            mixed = _softcapped(q, k, v, mask, scale, softcap)
        else:
            mixed = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )
        output[rows] = mixed.transpose(1, 2).flatten(0, 1)
    return output[None], None


def _slices(groups: Sequence[Group], shared: int) -> Iterator[Group]:
    """The groups, cut so that no call copies more than about _COPIED_ROWS rows of keys (the shared ones repeat)."""
    for group in groups:
        step = max(1, _COPIED_ROWS // (shared + group.length))
        for first in range(0, group.count, step):
            yield Group(group.start + first * group.length, min(step, group.count - first), group.length)


def _softcapped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention whose logits pass through cap * tanh(logit / cap) (Gemma 2); softmax in float32."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    logits = q @ k.transpose(2, 3) * scale
    logits = torch.tanh(logits / cap) * cap
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    weights = torch.softmax(logits.masked_fill(~mask, float("-inf")), dim=-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v


def _no_mask(*_: Any, **__: Any) -> None:
    """Mask function of the packed attention: its mask comes from the layout."""


def register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _packed_attention)
    AttentionMaskInterface.register(_NAME, _no_mask)


@contextmanager
def packed(decoder: nn.Module, layout: Layout) -> Iterator[None]:
    """Within, the decoder's attention is that of a packed row with this layout; one thread at a time is within."""
    with alone(decoder) as configs:
        before = [(config, config._attn_implementation) for config in configs]
        token = _under_way.set(layout)
        try:
            for config in configs:
                config._attn_implementation = _NAME
            yield
        finally:
            for config, old in before:
                config._attn_implementation = old
            _under_way.reset(token)
