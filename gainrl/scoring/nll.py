"""Mean negative log-likelihood of each question's tokens, from final hidden states that are there anyway.

    nll_b = -(1/n_b) Σ_t log softmax(head(h_{t-1}))[token_t]      over question tokens t that have a token before them

in nats per token.  The logits of a chunk of rows at a time are computed and dropped; all of them are never stored.
What a model does to its head's output (a soft cap, a scale) is found by comparing with its own logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gainrl.errors import UserError
from gainrl.models import bare_model, decoder_of, head_of
from gainrl.scoring.forward import States, evaluating
from gainrl.scoring.prompts import Rendered

CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}
"""Float32 logits held at once."""


class LikelihoodHead:
    """The classification layer of `model`; UserError if it has none or does something to its logits that is unknown."""

    def __init__(self, model: nn.Module) -> None:
        self._head, self._shape, self._width = _find(model)

    def __call__(self, states: States, tokens: Sequence[Any], prompts: Sequence[Rendered]) -> list[float]:
        """Means of the prompts, NaN where a question has no token with a token before it.

        `tokens` are those of each prompt that follow the shared prefix, `states` the final hidden states of them.
        """
        final, skip = states.hidden, 0 if states.prefix is None else len(states.prefix)
        before, targets, owners = [], [], []
        for index, (start, own, prompt) in enumerate(zip(states.starts.tolist(), tokens, prompts, strict=True)):
            first = max(prompt.prefix, 1) - skip  # the first token to predict, among the prompt's own
            before.append(np.arange(start + first - 1, start + len(own) - 1))
            if first == 0:
                before[-1][0] = -1  # predicted by the last token of the shared prefix
            targets.append(own[first:])
            owners.append(np.full(len(own) - first, index))
        rows, wanted, owner = (
            torch.from_numpy(np.concatenate(column).astype(np.int64)).to(final.device)
            for column in (before, targets, owners)
        )
        total = torch.zeros(len(prompts), dtype=torch.float64, device=final.device)
        size = max(16, CHUNK_BYTES.get(final.device.type, 1 << 28) // (4 * self._width))
        for first in range(0, len(rows), size):
            at, target, of = (x[first : first + size] for x in (rows, wanted, owner))
            hidden = final[at]
            if states.prefix is not None:
                hidden = torch.where((at < 0)[:, None], states.prefix[-1], hidden)
            logits = self._shape(self._head(hidden).float())
            loss = torch.logsumexp(logits, dim=1) - logits.gather(1, target[:, None])[:, 0]
            total.index_add_(0, of, loss.double())
        means: list[float] = (total / torch.bincount(owner, minlength=len(prompts))).cpu().tolist()
        return means


def _find(model: nn.Module) -> tuple[Any, Callable[[Tensor], Tensor], int]:
    """The head, what the model does to its output, and the output's width."""
    inner, head = bare_model(model), head_of(model)
    if head is None:
        raise UserError(f"--nll: {type(inner).__name__} has no language-model head")
    config: Any = decoder_of(model).config
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    cap, scale, divisor = (float(getattr(config, name, None) or 0) for name in names)
    shapes: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
        (True, lambda x: x),
        (cap, lambda x: torch.tanh(x / cap) * cap),
        (scale, lambda x: x * scale),
        (divisor, lambda x: x / divisor),
    ]
    ids = torch.arange(3, 9, device=next(model.parameters()).device)[None]
    with torch.inference_mode(), evaluating(model):
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        own, raw = inner(input_ids=ids, use_cache=False).logits.float(), head(hidden).float()
    fits = [(float((shape(raw) - own).abs().max()), shape) for there, shape in shapes if there]
    worst, shape = min(fits, key=lambda fit: fit[0])
    if worst <= 16 * torch.finfo(hidden.dtype).eps * float(own.abs().max()):
        return head, shape, own.shape[-1]
    raise UserError(f"--nll: {type(inner).__name__} changes its head's logits in a way that is not known here")
