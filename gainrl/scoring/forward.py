"""The forward pass of scoring: token ids of many prompts to hidden states, packed behind a prefix that they share.

`PackedForward` runs the questions of many prompts as one row without padding.  Attention is the only part of a model
that mixes tokens; `gainrl.scoring.attention` keeps prompts apart there.  `PaddedForward` runs whole prompts as a
right-padded batch with the model's own attention: for models that mix tokens in ways of their own.  `choose_forward`
compares the two when a scorer is built, on random tokens: a few layers do, and no wrong mask hides in short prompts.

Hidden states of both are those of the prompt run alone, within rounding.  Tap `final`, the default, is the vector that
enters the classification layer: the output of the decoder's final norm, which transformers calls `last_hidden_state`.
`layer:K` is the output of block K (from 0; negative from the end).  No logits are computed, nor what follows the tap.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gainrl.errors import UserError, first_line
from gainrl.models import context_length, decoder_of, head_of
from gainrl.scoring.attention import Flex, Grouped, KeysValues, Layout, Unsupported, packed

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int32]
NO_TOKENS: Tokens = np.empty(0, dtype=np.int32)
FORMS = ("auto", "grouped", "flex", "padded")
FINAL = "final"
_one_pass = threading.RLock()


class States(NamedTuple):
    """What a forward pass yields."""

    hidden: Tensor
    """(rows, D) hidden states at the tap of what follows the shared prefix."""
    starts: npt.NDArray[np.int64]
    """(B,) int64: for each prompt the row at which its tokens start; its rows are contiguous."""
    prefix: Tensor | None = None
    """(P, D) hidden states of the shared prefix at the tap."""


class Reached(Exception):
    """The tapped activation was computed: the rest of the forward pass is not needed."""


def tapped(decoder: Any, tap: str) -> tuple[nn.Module | None, str]:
    """The module whose output a tap names (None: the decoder's own) and the tap's canonical name; UserError if none."""
    if tap == FINAL:
        return None, FINAL
    kind, _, number = tap.partition(":")
    if kind != "layer" or not number.removeprefix("-").isdecimal():
        raise UserError(f"tap {tap!r}: give final, or layer:K (K from 0, or negative from the end)")
    count, layer = int(getattr(decoder.config, "num_hidden_layers", 0)), int(number)
    found = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count > 0]
    if not found:
        raise UserError(f"cannot find the {count} layers of {type(decoder).__name__}: use --tap final")
    if not -count <= layer < count:
        raise UserError(f"tap {tap!r}: the model has {count} layers, 0 to {count - 1}")
    return found[0][layer], f"layer:{layer % count}"


@contextmanager
def caught(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Within, a forward pass ends with `Reached` where it leaves `module`, and what left it is in the list."""
    seen: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple | list) else output)
        raise Reached

    with nullcontext() if module is None else module.register_forward_hook(take):
        yield seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for a while, for one thread at a time; every submodule gets its own mode back.

    One thread, because mode, attention and hooks belong to the model: a second pass amid one would see half of it.
    """
    with _one_pass:
        training = [module for module in model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


class _Runner:
    """The decoder up to the tap; what both forms share."""

    def __init__(self, model: nn.Module, tap: str = FINAL) -> None:
        self.decoder = decoder_of(model)
        self.device = next(model.parameters()).device
        self.module, self.tap = tapped(self.decoder, tap)
        self.alone_beyond = _position_limit(self.decoder.config)
        """Longer prompts must be forwarded alone and whole: the position code looks at the longest of a batch."""
        # no decoder beside the head: the whole model runs
        self._more = {"output_hidden_states": True} if head_of(self.decoder) is not None else {}

    def forget(self) -> None:
        """Keep nothing of earlier passes: the weights may change."""

    def _forward(self, **inputs: Any) -> Tensor:
        """Hidden states at the tap (batch, L, D)."""
        there: dict[str, Any] = {"attention_mask": None}
        there |= {name: torch.as_tensor(array).to(self.device, non_blocking=True) for name, array in inputs.items()}
        with caught(self.module) as seen, suppress(Reached):
            output = self.decoder(**there, use_cache=False, **self._more)
            seen.append(output.hidden_states[-1] if self._more else output.last_hidden_state)
        return seen[0]


class PackedForward(_Runner):
    """One row without padding for many prompts; `form` is the attention's (`gainrl.scoring.attention`)."""

    def __init__(self, model: nn.Module, tap: str = FINAL, form: str = "grouped") -> None:
        super().__init__(model, tap)
        self.form = form
        self.spans: dict[nn.Module, int] = {}
        """The attention modules that ran, in order, with their spans."""
        self._kept: tuple[bytes, KeysValues, Tensor] | None = None

    def forget(self) -> None:
        self._kept = None

    def __call__(self, sequences: Sequence[Tokens], shared: Tokens = NO_TOKENS) -> States:
        """Forward `sequences`, each behind the tokens `shared`."""
        skip, lengths = len(shared), [len(sequence) for sequence in sequences]
        starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
        positions = [np.arange(skip, skip + n) for n in lengths]
        if self.form == "grouped":
            before, prefix = self._prefix(shared) if skip else (None, None)
            return States(self._row(sequences, positions, Grouped(lengths, skip, before, None)), starts, prefix)
        hidden = self._row([shared, *sequences], [np.arange(skip), *positions], Flex(lengths, skip, self.device))
        return States(hidden[skip:], starts, hidden[:skip] if skip else None)

    def _prefix(self, tokens: Tokens) -> tuple[KeysValues, Tensor]:
        """Keys, values and hidden states of the shared tokens; the last ones used are kept."""
        key = tokens.tobytes()
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # free the old one first
            record: KeysValues = {}
            hidden = self._row([tokens], [np.arange(len(tokens))], Grouped([len(tokens)], 0, None, record))
            self._kept = key, record, hidden
        return self._kept[1:]

    def _row(self, row: Sequence[Tokens], positions: Sequence[Any], layout: Layout) -> Tensor:
        ids = np.concatenate(row).astype(np.int64)
        with packed(self.decoder, layout):
            hidden = self._forward(input_ids=ids[None], position_ids=np.concatenate(positions)[None])
        if not layout.spans:
            raise Unsupported("its attention does not go through transformers' AttentionInterface")
        self.spans |= layout.spans
        if hidden.shape[:-1] != (1, len(ids)):
            raise Unsupported(f"hidden states of shape {tuple(hidden.shape)} for {len(ids)} tokens")
        return hidden[0]


class PaddedForward(_Runner):
    """A right-padded batch of whole prompts; causal attention keeps the padding from reaching real tokens."""

    form = "padded"

    def __call__(self, sequences: Sequence[Tokens], shared: Tokens = NO_TOKENS) -> States:
        """Forward whole prompts; `shared` must be empty."""
        assert not len(shared)
        rows = [torch.from_numpy(sequence) for sequence in sequences]
        ids, mask = (pad_sequence(x, batch_first=True).long() for x in (rows, [*map(torch.ones_like, rows)]))
        hidden = self._forward(input_ids=ids, attention_mask=mask)
        return States(hidden.flatten(0, 1), np.arange(len(rows), dtype=np.int64) * ids.shape[1])


Forward = PackedForward | PaddedForward


def _position_limit(config: Any) -> int | None:
    """Tokens up to which rotary positions do not depend on the longest prompt of a batch; None if they never do."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [entry for entry in (rope, *rope.values()) if isinstance(entry, dict)]  # some models: one per layer type
    if not any(entry.get("rope_type") in ("longrope", "dynamic") for entry in kinds):
        return None
    limits = [entry.get("original_max_position_embeddings") for entry in kinds]
    limits += [getattr(config, "original_max_position_embeddings", None), config.max_position_embeddings]
    return min(int(limit) for limit in limits if limit)


_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
_FAILURES = (Unsupported, AttributeError, TypeError, KeyError, ValueError, RuntimeError, ImportError, AssertionError)
"""What models raise that want something else of their attention than a packed row has."""


def choose_forward(model: nn.Module, tap: str = FINAL, form: str = "auto") -> Forward:
    """The packed form of this device if it gives the hidden states of one prompt at a time, else the padded one.

    Raises UserError for a `form` that does not exist, or that was named and does not serve this model.
    """
    if form not in FORMS:
        raise UserError(f"attention={form!r}: choose {', '.join(FORMS)}")
    padded = PaddedForward(model, tap)
    if form == "padded":
        return padded
    usual = "flex" if padded.device.type == "cuda" else "grouped"
    found = PackedForward(model, tap, usual if form == "auto" else form)
    with torch.inference_mode(), evaluating(model):
        if not (problem := _difference(padded, found)):
            return found
    if form != "auto":
        raise UserError(f"attention={form!r} does not serve {type(padded.decoder).__name__}: {problem}")
    logger.info("padded batches for %s: %s", type(padded.decoder).__name__, problem)
    return padded


_LONG_ROW, _WIDEST_WINDOW = 320, 1024
"""Tokens of the long prompt; it goes 64 beyond the model's sliding windows, but for those wider than the second."""
_CHUNK = 16


def _difference(padded: PaddedForward, forward: PackedForward) -> str:
    """Why a packed batch is not the same as one prompt at a time; empty if it is.

    Short prompts and a long one are compared, without a shared prefix and behind one, by what the fourth attention puts
    out, or a later one if not all kinds of layers stand before it.  Rounding grows with the length, and in single rows
    without bound (an expert chosen otherwise), while a wrong mask or position changes all rows from some token on: so
    the median of neighbouring rows may differ by at most 32 rounding steps.  Measured over tiny random models of 8
    families and SmolLM2-135M it is at most 18 of them; where that model in bfloat16 forgets what is 256 or 64 tokens
    away, it is 57 and 328.
    """
    config: Any = forward.decoder.config
    kinds = getattr(config, "layer_types", None) or []
    if strange := set(kinds) - _PLAIN_LAYERS:
        return f"its layers {sorted(strange)} mix tokens in their own way"
    stated = int(getattr(config, "sliding_window", None) or 0)
    limits = [limit for limit in (context_length(forward.decoder), padded.alone_beyond) if limit is not None]
    length = min([max(_LONG_ROW, min(stated, _WIDEST_WINDOW) + 64), *limits])
    shared = length // 3
    tokens = np.random.default_rng(0).integers(0, int(config.vocab_size), length, dtype=np.int32)
    whole = [tokens[: shared + n] for n in (4, 7, 7, 9) if shared + n < length] + [tokens]
    own = forward.module
    try:
        forward(whole[:1])  # finds out which modules attend
        early = max([3, *map(kinds.index, kinds)])
        padded.module = forward.module = [*forward.spans][min(early, len(forward.spans) - 1)]
        single = [padded([sequence]).hidden.float() for sequence in whole]
        mine = forward(whole).hidden.float()
        behind = forward([sequence[shared:] for sequence in whole], tokens[:shared])
        assert behind.prefix is not None
        found = [(mine, torch.cat(single)), (behind.hidden.float(), torch.cat([s[shared:] for s in single]))]
        differs = max(_by_chunks(*pair) for pair in [*found, (behind.prefix.float(), single[-1][:shared])])
    except _FAILURES as error:
        return first_line(error)
    finally:
        padded.module = forward.module = own
        forward.forget()
    windowed = "sliding_attention" in kinds if kinds else stated and getattr(config, "use_sliding_window", True)
    if windowed and not any(forward.spans.values()):
        return "it keeps its sliding window in the mask alone"
    steps = differs / torch.finfo(next(forward.decoder.parameters()).dtype).eps
    return "" if steps <= 32 else f"a packed batch differs from the padded form by {steps:.0f} rounding steps"


def _by_chunks(given: Tensor, wanted: Tensor) -> float:
    """The greatest, over chunks of neighbouring rows, of the median of the rows' relative differences."""
    scale = wanted.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    change = ((given - wanted).norm(dim=-1) / scale).nan_to_num(nan=float("inf"))
    if len(change) < _CHUNK:
        return float(change.median())
    return float(change[len(change) % _CHUNK :].view(-1, _CHUNK).median(dim=1).values.max())
