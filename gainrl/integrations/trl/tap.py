"""Angle concentration of the sequences trained on, read off the loss's own forward pass.

The tap is a forward hook on the model's decoder: its `last_hidden_state` is the final norm's output, the very
tensor that TRL multiplies with the classification layer.  (The layer itself is no place to listen: TRL's fused
head never calls it.)  The decoder also runs in generation, old-logprob, reference and evaluation passes, so the
hook does nothing unless it is armed, and it is armed for the loss's forward alone.  It reads the activations where they
are, keeps one number per sequence, leaves the graph and the random state untouched, and never waits for the device.

A model under PEFT, DDP, FSDP, ZeRO-3 or activation checkpointing calls the same decoder with whole activations
(checkpointing recomputes layers, not the decoder), and no weight is read, which may be sharded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gainrl.angle import angle_concentration
from gainrl.scoring.taps import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gainrl.scoring.prompts import PromptRenderer


class AngleTap:
    """Measures the sequences of one forward pass; see the module's docstring.

    `seconds` is the time spent inside the hook so far (on a GPU: queueing the work).
    """

    def __init__(self, model: nn.Module) -> None:
        self._roles: Tensor | None = None
        self._weight: float | None = None
        self._diagonal = True
        self._measured: list[Tensor] = []
        self._done = 0
        self.seconds = 0.0
        self.handle = decoder_of(model).register_forward_hook(self._read)

    @contextmanager
    def listening(
        self, roles: Tensor, *, inter_weight: float | None = None, diagonal: bool = True
    ) -> Iterator[list[Tensor]]:
        """Measure the forward passes inside the `with` block.

        `roles` is (B, S) bool (True: part of the sequence) or int8 roles (0 ignored, 1 prefix, 2 question) for the
        rows in the order in which they are forwarded, in one pass or several.  Measured is the whole sequence
        (‖U‖²/L²), or with `inter_weight` w the prompt's score, C_intra + w·C_inter (w = 0: C_intra alone), with or
        without the `diagonal`.  The list that it yields holds float32 tensors, (B,) in all, when the block ends.
        """
        self._roles, self._measured, self._done = roles, [], 0
        self._weight, self._diagonal = inter_weight, diagonal
        try:
            yield self._measured
        finally:
            self._roles = None

    def _read(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._roles is None:
            return
        started = time.perf_counter()
        hidden = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
        roles = self._roles[self._done : self._done + hidden.shape[0]]
        if roles.shape != hidden.shape[:2]:
            raise RuntimeError(
                f"the loss forwarded hidden states of shape {tuple(hidden.shape)}, but the rollouts still to be "
                f"measured have the shape {tuple(self._roles[self._done :].shape)}: this TRL release batches its loss "
                "in another way than the one supported here"
            )
        with torch.no_grad():
            result = angle_concentration(hidden.detach(), None, roles, diagonal=self._diagonal)
            if self._weight is None:
                measured = result.whole
            else:
                measured = result.intra + self._weight * result.inter if self._weight else result.intra
        self._measured.append(measured)
        self._done += hidden.shape[0]
        self.seconds += time.perf_counter() - started


class PromptRoles:
    """Roles of a prompt's tokens as the scoring pass gives them, for `angle: prompt`.

    `question_after` and `date` are those with which the table was made, so that the score means the same thing.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, question_after: str | None = None, date: str | None = None
    ) -> None:
        import datetime

        from gainrl.scoring.prompts import DEFAULT_DATE, PromptRenderer

        day = datetime.date.fromisoformat(date) if date else DEFAULT_DATE
        self._render: PromptRenderer = PromptRenderer(tokenizer, question_after=question_after, date=day)

    def __call__(self, rows: Sequence[dict[str, Any]], prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """(R, P) int8 roles for left-padded prompts (R, P); a prompt whose tokens are not those of the scoring
        pass (another template, a date, tool descriptions) gets no roles at all, so that its angle is undefined.
        """
        from gainrl.scoring.prompts import ScoringPrompt

        rendered = self._render([ScoringPrompt(row["prompt"], row.get("question")) for row in rows])
        roles = torch.zeros(prompt_ids.shape, dtype=torch.int8)
        ids, lengths = prompt_ids.cpu(), prompt_mask.sum(dim=1).tolist()
        for index, (prompt, length) in enumerate(zip(rendered, lengths, strict=True)):
            start, end = ids.shape[1] - int(length), ids.shape[1] - int(length) + len(prompt.tokens)
            if prompt.status != "ok" or end > ids.shape[1]:
                continue
            if ids[index, start:end].tolist() != prompt.tokens.tolist():
                continue
            roles[index, start : start + prompt.prefix] = 1
            roles[index, start + prompt.prefix : end] = 2
        return roles.to(prompt_ids.device)
