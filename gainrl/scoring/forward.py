"""The forward pass of scoring: token ids of many prompts to final hidden states, packed, with a shared prefix.

`PackedForward` runs the questions of many prompts as one row without padding.  The tokens that they share were
forwarded once; their keys and values are kept per layer, and an attention function registered with transformers
lets each question attend to them and to itself.  Nothing else in the model mixes tokens, so every linear layer sees
only real tokens.  On a CPU the attention is a kernel of the package's own, as are norms and gates (`FusedLayers`);
elsewhere, questions of equal length form one batched call of torch's attention.

`PaddedForward` runs whole prompts as a right-padded batch with the model's own attention: for models whose
attention or position code does not go through transformers' interface, or mixes tokens elsewhere (state-space
layers).  `choose_forward` decides by measuring: it compares the packed form with one prompt at a time.

Hidden states of both are those of the prompt run alone, within rounding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gainrl.scoring import kernels
from gainrl.scoring.fused import FusedLayers
from gainrl.scoring.phases import NO_CLOCK, Clock
from gainrl.scoring.taps import FINAL, Reached, Tap, decoder_of, evaluating, first_device

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int32]
_NAME = "gainrl_packed"


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


class States(NamedTuple):
    """What a forward pass yields."""

    hidden: Tensor
    """(rows, D) hidden states at the tap."""
    starts: npt.NDArray[np.int64]
    """(B,) int64: for each prompt the row at which its tokens start; its rows are contiguous."""
    final: Tensor | None
    """(rows, D) final hidden states, where asked for (`keep_final`) or tapped."""


class Forward(Protocol):
    """Token ids to hidden states at a tap.  `keep_final`: also the final ones, whatever the tap."""

    shares_prefix: bool
    keep_final: bool
    clock: Clock
    alone_beyond: int | None
    """Longer prompts must be forwarded alone: the model's position code looks at the longest of a batch."""

    def prefix(self, tokens: Tokens) -> Prefix:
        """Forward the tokens that a group of prompts shares."""

    def __call__(self, sequences: Sequence[Tokens], prefix: Prefix | None) -> States:
        """Forward what follows the prefix of each prompt."""


@dataclass(frozen=True)
class _Group:
    """Neighbours in the packed row that have the same length: rows start .. start + count * length."""

    start: int
    count: int
    length: int


@dataclass
class _Layout:
    """What the attention function needs to know about the packed row under way."""

    groups: list[_Group]
    offsets: Tensor
    """(B + 1,) int64 on the CPU: where each sequence starts in the packed row, and where the last ends."""
    prefix: Prefix | None
    record: Prefix | None = None
    masks: dict[tuple[int, int, int, torch.device], Tensor] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    """Sliding windows that the model's attention was called with."""

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


_layout: ContextVar[_Layout] = ContextVar("gainrl_packed_layout")


class Unsupported(Exception):
    """The model's attention asks for something that the packed form does not do."""


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
    layout = _layout.get()
    layout.windows.add(sliding_window or 0)
    layer: Any = module.layer_idx
    heads, kv_heads, value_dim = query.shape[1], key.shape[1], value.shape[3]
    if layout.record is not None:
        if layer in layout.record.keys_values:
            raise Unsupported(f"layer {layer} attends more than once")
        layout.record.keys_values[layer] = (key[0], value[0])
    shared = layout.prefix.keys_values[layer] if layout.prefix is not None else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    own = kernels.attention(
        query[0],
        key[0],
        value[0],
        shared,
        layout.offsets,
        scale=scale,
        softcap=softcap or 0.0,
        window=sliding_window or 0,
    )
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
        mask = layout.mask(group.length, before, sliding_window or 0, query.device)
        if softcap is not None:
            mixed = _softcapped(q, k, v, mask, scale, softcap)
        else:
            mixed = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )
        output[rows] = mixed.transpose(1, 2).flatten(0, 1)
    return output[None], None


def _slices(groups: Sequence[_Group], shared: int) -> Iterator[_Group]:
    """The groups, cut so that no call copies more than about _COPIED_ROWS rows of keys (the shared ones repeat)."""
    for group in groups:
        step = max(1, _COPIED_ROWS // (shared + group.length))
        for first in range(0, group.count, step):
            yield _Group(group.start + first * group.length, min(step, group.count - first), group.length)


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


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _packed_attention)
    AttentionMaskInterface.register(_NAME, _no_mask)


@contextmanager
def _attention(decoder: nn.Module, name: str) -> Iterator[None]:
    """Give every configuration inside the decoder the attention function `name`, and put the old ones back."""
    configs: dict[int, Any] = {}
    for module in decoder.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            configs[id(config)] = config
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, old in before:
            config._attn_implementation = old


_locks: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()


def _lent(decoder: nn.Module) -> threading.Lock:
    """The lock of a decoder whose attention and modules are exchanged for the time of a forward pass."""
    return _locks.setdefault(decoder, threading.Lock())


class _Runner:
    """The decoder up to the tap; what both forms share."""

    def __init__(self, model: nn.Module, tap: str = FINAL) -> None:
        self.decoder: Any = decoder_of(model)
        self.device = first_device(model)
        self.tap = Tap(self.decoder, tap)
        self.keep_final = False
        self.clock: Clock = NO_CLOCK
        self.alone_beyond = _position_limit(self.decoder.config)

    def _forward(self, **inputs: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Hidden states at the tap (batch, L, D), and the final ones where they were computed."""
        with self.clock("transfer"):
            there = {name: torch.from_numpy(array).to(self.device, non_blocking=True) for name, array in inputs.items()}
        final: Tensor | None = None
        with self.clock("forward"), self.tap.caught(stop=not self.keep_final) as caught:
            with suppress(Reached):
                final = self.decoder(**{"attention_mask": None, **there}, use_cache=False).last_hidden_state
            hidden = final if self.tap.final else caught[0]
        assert hidden is not None
        return hidden, final


class PackedForward(_Runner):
    """One row without padding for many prompts; see the module's docstring."""

    shares_prefix = True

    def __init__(self, model: nn.Module, tap: str = FINAL) -> None:
        super().__init__(model, tap)
        _register()
        self.windows: set[int] = set()
        self._fused: FusedLayers | None = None

    def prefix(self, tokens: Tokens) -> Prefix:
        prefix = Prefix(tokens, torch.empty(0))
        prefix.hidden, _, prefix.final = self._run([tokens], None, record=prefix)
        return prefix

    def __call__(self, sequences: Sequence[Tokens], prefix: Prefix | None) -> States:
        return self._run(sequences, prefix, None)

    def _run(self, sequences: Sequence[Tokens], prefix: Prefix | None, record: Prefix | None) -> States:
        lengths = [len(sequence) for sequence in sequences]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = offsets[:-1]
        groups: list[_Group] = []
        for start, length in zip(starts.tolist(), lengths, strict=True):
            if groups and groups[-1].length == length:
                groups[-1] = _Group(groups[-1].start, groups[-1].count + 1, length)
            else:
                groups.append(_Group(start, 1, length))
        offset = len(prefix) if prefix is not None else 0
        ids = np.concatenate(sequences).astype(np.int64)
        positions = np.concatenate([np.arange(offset, offset + n, dtype=np.int64) for n in lengths])
        layout = _Layout(groups, torch.from_numpy(offsets), prefix, record)
        if self._fused is None:
            self._fused = FusedLayers(self.decoder)
        token = _layout.set(layout)
        try:
            with _lent(self.decoder), _attention(self.decoder, _NAME), self._fused.installed():
                hidden, final = self._forward(input_ids=ids[None], position_ids=positions[None])
        finally:
            _layout.reset(token)
        self.windows |= layout.windows
        if hidden.shape[:-1] != (1, len(ids)):
            raise Unsupported(f"hidden states of shape {tuple(hidden.shape)} for {len(ids)} tokens")
        return States(hidden[0], starts, None if final is None else final[0])


class PaddedForward(_Runner):
    """A right-padded batch of whole prompts; causal attention keeps the padding from reaching real tokens."""

    shares_prefix = False

    def prefix(self, tokens: Tokens) -> Prefix:
        raise Unsupported("the padded form shares no prefix")

    def __call__(self, sequences: Sequence[Tokens], prefix: Prefix | None) -> States:
        if prefix is not None:
            raise Unsupported("the padded form shares no prefix")
        longest = max(len(sequence) for sequence in sequences)
        ids = np.zeros((len(sequences), longest), dtype=np.int64)
        mask = np.zeros((len(sequences), longest), dtype=np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        hidden, final = self._forward(input_ids=ids, attention_mask=mask)
        starts = np.arange(len(sequences), dtype=np.int64) * longest
        flat = hidden.reshape(len(sequences) * longest, hidden.shape[-1])
        return States(flat, starts, None if final is None else final.flatten(0, 1))


def _position_limit(config: Any) -> int | None:
    """Tokens up to which rotary positions do not depend on the longest prompt of a batch; None if they never do."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [entry for entry in (rope, *rope.values()) if isinstance(entry, dict)]  # some models: one per layer type
    if not any(entry.get("rope_type") in ("longrope", "dynamic") for entry in kinds):
        return None
    limits = [entry.get("original_max_position_embeddings") for entry in kinds]
    limits += [getattr(config, "original_max_position_embeddings", None), config.max_position_embeddings]
    return min(int(limit) for limit in limits if limit)


def _has_window(config: Any, layer_types: set[str]) -> bool:
    """Whether the configuration says that some layer sees only the last tokens."""
    if layer_types:
        return "sliding_attention" in layer_types
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


_PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def choose_forward(model: nn.Module, tap: str = FINAL) -> PackedForward | PaddedForward:
    """The packed form if this model gives the same hidden states with it as one prompt at a time, else the padded one.

    Decided by running a few short prompts both ways: the packed result may differ from the single one by no more than
    8 times what padding changes, or 8 rounding steps of the model's dtype, relative to the norm.
    """
    with torch.inference_mode(), evaluating(model):
        return _choose_forward(model, tap)


def _choose_forward(model: nn.Module, tap: str) -> PackedForward | PaddedForward:
    decoder = decoder_of(model)
    padded = PaddedForward(model, tap)
    config: Any = decoder.config
    layer_types = set(getattr(config, "layer_types", None) or [])
    if not layer_types <= _PLAIN_LAYERS:
        logger.info("layers %s mix tokens in their own way: padded batches", sorted(layer_types - _PLAIN_LAYERS))
        return padded
    packed = PackedForward(model, tap)
    generator = np.random.Generator(np.random.PCG64(0))
    vocabulary = int(config.vocab_size)
    shared = generator.integers(0, vocabulary, 5, dtype=np.int32)
    own = [generator.integers(0, vocabulary, n, dtype=np.int32) for n in (4, 7, 7, 9)]
    whole = [np.concatenate([shared, tokens]) for tokens in own]
    single = torch.cat([padded([tokens], None)[0][len(shared) :] for tokens in whole]).float()
    batch, starts, _ = padded(whole, None)
    rows = [range(start + len(shared), start + len(w)) for start, w in zip(starts.tolist(), whole, strict=True)]
    together = batch[[row for span in rows for row in span]].float()
    try:
        mine = packed(own, packed.prefix(shared))[0].float()
    except (Unsupported, AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
        logger.info("the packed form does not fit %s (%s): padded batches", type(decoder).__name__, error)
        return padded
    if _has_window(config, layer_types) and not packed.windows - {0}:
        logger.info("%s keeps its sliding window in the mask alone: padded batches", type(decoder).__name__)
        return padded
    scale = single.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    noise = ((together - single).norm(dim=-1) / scale).max().item()
    change = ((mine - single).norm(dim=-1) / scale).max().item()
    allowed = 8 * max(noise, torch.finfo(next(model.parameters()).dtype).eps)
    if not change <= allowed:
        logger.info(
            "the packed form changes %s's hidden states by %.1e: padded batches", type(decoder).__name__, change
        )
        return padded
    return packed
