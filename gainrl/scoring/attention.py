"""Attention over a packed row: documents one after the other, each behind keys and values that all of them share.

Registered with transformers' `AttentionInterface` under the name `gainrl`, so that any model whose attention goes
through it can be run so.  What the function needs to know of the row under way is a `Layout`; there are two:

| layout | the shared prefix | where |
|---|---|---|
| Grouped | keys and values kept from an earlier pass, before those of each group of documents of one length | CPU |
| Flex | document 0 of the row, which all see; `flex_attention` with a block mask, compiled on CUDA | any device |

Grouped copies the shared keys for every document of a group, Flex copies none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "gainrl"
KeysValues = dict[nn.Module, tuple[Tensor, Tensor]]
"""Per attention module: keys and values, each (heads, tokens, width), positions applied."""
_HARMLESS = {"position_ids", "cache_position", "is_causal", "use_cache", "output_attentions", "output_hidden_states"}
_COPIED = 1 << 14
"""Rows of keys that one call of the grouped form copies at most (the shared ones repeat)."""
_BLOCK = 128


class Unsupported(Exception):
    """The model's attention asks for something that the packed forms do not do."""


class Settings(NamedTuple):
    """What a layer asks for: each query sees the last `span` tokens, its own included (0: all)."""

    scale: float
    span: int
    softcap: float


class Layout:
    """The packed row under way: documents of `lengths` tokens behind `shared` tokens."""

    def __init__(self, lengths: Sequence[int], shared: int) -> None:
        self.lengths, self.shared = list(lengths), shared
        self.spans: dict[nn.Module, int] = {}
        """The attention modules that ran, in order, with their spans."""
        self.masks: dict[Any, Any] = {}

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: Settings) -> Tensor:
        """query (H, T, d), key and value (Hkv, T, d) -> (T, H, d)."""
        raise NotImplementedError


class Grouped(Layout):
    """Neighbours of equal length in one call of torch's attention, behind the keys and values `before`.

    Those of this row are kept in `record`.
    """

    def __init__(
        self, lengths: Sequence[int], shared: int, before: KeysValues | None, record: KeysValues | None
    ) -> None:
        super().__init__(lengths, shared)
        self.before, self.record = before, record

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: Settings) -> Tensor:
        if self.record is not None:
            if module in self.record:
                raise Unsupported(f"{type(module).__name__} attends more than once")
            self.record[module] = key, value
        heads, kv_heads = query.shape[0], key.shape[0]
        output = query.new_empty(query.shape[1], heads, value.shape[-1])
        for first, count, length in self._groups():
            rows = slice(first, first + count * length)
            # (count, heads, length, width); the query heads of one key head stand one after the other, as its rows
            q = query[:, rows].reshape(kv_heads, heads // kv_heads, count, length, -1).permute(2, 0, 1, 3, 4)
            q = q.reshape(count, kv_heads, heads // kv_heads * length, -1)
            k, v = (x[:, rows].reshape(kv_heads, count, length, -1).transpose(0, 1) for x in (key, value))
            if self.before is not None:
                kept = (x.expand(count, -1, -1, -1) for x in self.before[module])
                k, v = (torch.cat(pair, dim=2) for pair in zip(kept, (k, v), strict=True))
            mask = self._mask(length, asked.span, query).repeat(heads // kv_heads, 1)
            if asked.softcap:
                logits = torch.tanh(q @ k.transpose(2, 3) * (asked.scale / asked.softcap)) * asked.softcap
                mixed = torch.softmax((logits + mask).float(), dim=-1).to(v.dtype) @ v
            else:
                mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=asked.scale)
            mixed = mixed.view(count, kv_heads, heads // kv_heads, length, -1).permute(0, 3, 1, 2, 4)
            output[rows].view(mixed.shape).copy_(mixed)
        return output

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """(first row, documents, their length), no more at once than may be copied."""
        first = 0
        for length, group in groupby(self.lengths):
            left = len(list(group))
            while left:
                count = min(left, max(1, _COPIED // (self.shared + length)))
                yield first, count, length
                first, left = first + count * length, left - count

    def _mask(self, length: int, span: int, like: Tensor) -> Tensor:
        """(length, shared + length): 0 where a query may look, else -infinity."""
        key = (length, span)
        if key not in self.masks:
            query = torch.arange(self.shared, self.shared + length, device=like.device)[:, None]
            seen = torch.arange(self.shared + length, device=like.device)[None, :]
            allowed = (seen <= query) & (seen > query - span if span else seen >= 0)
            self.masks[key] = torch.zeros_like(allowed, dtype=like.dtype).masked_fill_(~allowed, float("-inf"))
        mask: Tensor = self.masks[key]
        return mask


class Flex(Layout):
    """One row whose first document, the shared prefix, is seen by all: `flex_attention` with a block mask."""

    def __init__(self, lengths: Sequence[int], shared: int, device: torch.device) -> None:
        super().__init__(lengths, shared)
        counts = torch.tensor([shared, *lengths])
        document = torch.repeat_interleave(torch.arange(len(counts)), counts)
        position = torch.arange(len(document)) - (counts.cumsum(0) - counts)[document] + (document > 0) * shared
        self.document, self.position = document.to(device), position.to(device)

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: Settings) -> Tensor:
        if asked.span not in self.masks:
            self.masks[asked.span] = self.block_mask(asked.span)
        mixed: Tensor = _flex(query.is_cuda)(
            query[None], key[None], value[None], score_mod=_soft_cap(asked.softcap) if asked.softcap else None,
            block_mask=self.masks[asked.span], scale=asked.scale, enable_gqa=query.shape[0] != key.shape[0],
        )  # fmt: skip
        return mixed[0].transpose(0, 1)

    def block_mask(self, span: int) -> Any:
        """The block mask: blocks that no query of a row of blocks sees are left out, whole ones are not looked into."""
        from torch.nn.attention.flex_attention import BlockMask

        document, position = self.document, self.position

        def allowed(batch: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
            distance = position[query] - position[key]
            seen = ((document[key] == document[query]) | (document[key] == 0)) & (distance >= 0)
            return seen & (distance < span) if span else seen

        # By blocks: documents stand in order, so a block's first and last row say which ones it holds.
        tokens = len(document)
        first = torch.arange(0, tokens, _BLOCK, device=document.device)
        last = (first + _BLOCK - 1).clamp(max=tokens - 1)
        key = torch.arange(len(first), device=first.device)
        query = key[:, None]
        behind = document[last][key] == 0  # keys of the prefix alone
        touched = (key <= query) & ((document[last][key] >= document[first][query]) | (first[key] < self.shared))
        whole = touched & behind & (document[first][query] > 0) & (span == 0)

        def listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
            order = chosen.int().argsort(dim=1, descending=True, stable=True).int()
            return chosen.sum(dim=1).int()[None, None], order[None, None]

        return BlockMask.from_kv_blocks(
            *listed(touched & ~whole), *listed(whole), BLOCK_SIZE=_BLOCK, mask_mod=allowed, seq_lengths=(tokens, tokens)
        )


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable[..., Any], torch.compile(flex_attention, dynamic=True) if compiled else flex_attention)


@cache
def _soft_cap(cap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / cap) * cap

    return capped


_under_way: ContextVar[Layout] = ContextVar("gainrl_layout")


def _attention(
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
    """transformers' attention function: query (1, H, T, d), key and value (1, Hkv, T, d) -> (1, T, H, d)."""
    strange = sorted(name for name, given in others.items() if given is not None and name not in _HARMLESS)
    if strange or dropout:
        raise Unsupported(f"attention arguments {strange or ['dropout']}")
    layout = _under_way.get()
    asked = Settings(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window or 0, softcap or 0.0)
    layout.spans[module] = asked.span
    return layout.attend(module, query[0], key[0], value[0], asked)[None], None


@contextmanager
def packed(decoder: Any, layout: Layout) -> Iterator[None]:
    """Within, the decoder's attention is that of the packed row `layout`; Unsupported if it cannot be set."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    own = decoder.config._attn_implementation
    token = _under_way.set(layout)
    try:
        decoder.set_attn_implementation(NAME)
        yield
    finally:
        decoder.set_attn_implementation(own)
        _under_way.reset(token)
