"""The forward pass of scoring: token ids of many prompts to final hidden states, packed, with a shared prefix.

`PackedForward` runs the questions of many prompts as one row without padding.  The tokens that they share were
forwarded once; their keys and values are kept per layer, and an attention function registered with transformers
lets each question attend to them and to itself.  Nothing else in the model mixes tokens, so every linear layer sees
only real tokens.  On a CPU the attention is a kernel of the package's own, as are norms, gates and, where their
form is the common one, whole blocks (`FusedLayers`); elsewhere, questions of equal length form one batched call of
torch's attention.

`PaddedForward` runs whole prompts as a right-padded batch with the model's own attention: for models whose
attention or position code does not go through transformers' interface, or mixes tokens elsewhere (state-space
layers).  `choose_forward` decides by measuring: it compares the packed form with one prompt at a time.

Hidden states of both are those of the prompt run alone, within rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gainrl.errors import UserError
from gainrl.scoring.fused import FusedLayers
from gainrl.scoring.locks import alone
from gainrl.scoring.packed import (
    Group,
    Layout,
    Prefix,
    Tokens,
    Unsupported,
    packed,
    register,
)
from gainrl.scoring.phases import NO_CLOCK, Clock
from gainrl.scoring.taps import (
    FINAL,
    Reached,
    Tap,
    blocks_of,
    context_length,
    decoder_of,
    evaluating,
    first_device,
)

logger = logging.getLogger(__name__)


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
        register()
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
        groups: list[Group] = []
        for start, length in zip(starts.tolist(), lengths, strict=True):
            if groups and groups[-1].length == length:
                groups[-1] = Group(groups[-1].start, groups[-1].count + 1, length)
            else:
                groups.append(Group(start, 1, length))
        offset = len(prefix) if prefix is not None else 0
        ids = np.concatenate(sequences).astype(np.int64)
        positions = np.concatenate([np.arange(offset, offset + n, dtype=np.int64) for n in lengths])
        layout = Layout(groups, torch.from_numpy(offsets), prefix, record)
        with packed(self.decoder, layout):
            if self._fused is None:
                self._fused = FusedLayers(self.decoder)
            with self._fused.installed():
                hidden, final = self._forward(input_ids=ids[None], position_ids=positions[None])
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
        with alone(self.decoder):
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
    8 times what padding changes, or 8 rounding steps of the model's dtype, relative to the norm.  A long one, through
    the first blocks, too: see `_long_row_agrees`.
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
    try:
        agrees = _long_row_agrees(padded, packed, context_length(model), generator, noise)
    except (Unsupported, AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
        logger.info("the packed form fails %s on a long prompt (%s)", type(decoder).__name__, error)
        agrees = False
    if not agrees:
        logger.info(
            "%s does something else with a long prompt in the packed form: padded batches", type(decoder).__name__
        )
        return padded
    return packed


_LONG_ROW, _WIDEST_WINDOW = 320, 1024
"""Tokens of the long prompt; it goes 64 beyond the model's sliding windows, but for those wider than the second."""
_EARLY_BLOCKS = 4
_CHUNK = 16


def _long_row_agrees(
    padded: PaddedForward, packed: PackedForward, context: int | None, generator: np.random.Generator, noise: float
) -> bool:
    """Whether a long prompt is the same both ways: alone behind another prompt, and behind a shared prefix.

    What masks and positions do to far tokens is seen in the attention of an early block, of an index that leaves at
    least one block of each kind at or before it, at a small part of the whole decoder's cost.  Rounding grows with the
    length, and in single rows it grows without bound (an expert chosen otherwise, a softmax that is nearly a choice),
    while a wrong mask or position changes all rows from some token on: so it is the median of neighbouring rows that
    may differ by no more than 32 rounding steps.  Measured over tiny random models of 8 families and SmolLM2-135M it is
    at most 18 of them; where that model in bfloat16 forgets what is 256 or 64 tokens away, it is 57 and 328.
    """
    config: Any = packed.decoder.config
    windows = [window for window in packed.windows if window <= _WIDEST_WINDOW]
    limits = [limit for limit in (context, padded.alone_beyond) if limit is not None]
    length = min([max([_LONG_ROW, *(window + 64 for window in windows)]), *limits])
    tokens = generator.integers(0, int(config.vocab_size), length, dtype=np.int32)
    shared, before = length // 3, tokens[: length // 5]
    if length < 3 * _CHUNK:
        return True  # hardly longer than what was tried before
    tap = _early_attention(packed.decoder)
    with _tapped(padded, tap), _tapped(packed, tap):
        single = padded([tokens], None).hidden.float()
        alone = packed([before, tokens], None).hidden[len(before) :].float()
        behind = packed([tokens[shared:]], packed.prefix(tokens[:shared])).hidden.float()
    allowed = 32 * max(noise, torch.finfo(next(packed.decoder.parameters()).dtype).eps)
    return all(_by_chunks(mine, single[-len(mine) :]) <= allowed for mine in (alone, behind))


def _by_chunks(given: Tensor, wanted: Tensor) -> float:
    """The greatest, over chunks of neighbouring rows, of the median of the rows' relative differences."""
    scale = wanted.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    change = ((given - wanted).norm(dim=-1) / scale).nan_to_num(nan=float("inf"))
    chunks = change[len(change) % _CHUNK :].view(-1, _CHUNK)
    return float(chunks.median(dim=1).values.max())


def _early_attention(decoder: Any) -> Tap:
    """What the attention of an early block puts out; the block if its attention, the end if no block can be told."""
    try:
        kinds = getattr(decoder.config, "layer_types", None) or [None]
        last = min(max([_EARLY_BLOCKS - 1, *map(kinds.index, kinds)]), len(blocks_of(decoder)) - 1)
    except UserError:
        return Tap(decoder)
    with suppress(UserError):
        return Tap(decoder, f"layer:{last}.attention-output")
    return Tap(decoder, f"layer:{last}")


@contextmanager
def _tapped(runner: _Runner, tap: Tap) -> Iterator[None]:
    own, runner.tap = runner.tap, tap
    try:
        yield
    finally:
        runner.tap = own
