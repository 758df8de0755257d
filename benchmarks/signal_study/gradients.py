"""Gradient norms of one prompt, measured by a full backward pass through the model.

A group shares its prompt, so prompt and completions are one sequence in which each completion attends to the prompt and
to itself (positions continue from the prompt): the loss and its gradient are those of the padded batch that a trainer
would make, at the cost of one prompt.  Holds for decoders with full attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gainrl.scoring.taps import decoder_of, evaluating


def advantages(rewards: Sequence[float]) -> Tensor:
    """(G,) group-normalised advantages (r − mean) / (std + 1e-4), std unbiased, as TRL's GRPO makes them."""
    values = torch.tensor(rewards, dtype=torch.float32)
    centred = values - values.mean()
    return centred / (values.std() + 1e-4)


def grpo_gradient_norm(
    model: nn.Module, prompt: Sequence[int], completions: Sequence[Sequence[int]], weights: Tensor, *, bf16: bool
) -> float:
    """Global L2 norm of the gradient of one on-policy GRPO step on one group (Shao et al. 2024, eq. 3, no KL term).

        loss = -(1/G) Σ_i A_i (1/|o_i|) Σ_t log π(o_it | prompt, o_i<t)

    `weights` (G,) are the advantages A.  On policy the clipped ratio's gradient is that of log π.  0 where all are 0.
    """
    if not bool(weights.any()):
        return 0.0
    chances = token_log_probabilities(model, prompt, completions, bf16=bf16)
    loss = -torch.stack([w * c.mean() for w, c in zip(weights, chances, strict=True)]).mean()
    return _norm(model, loss)


def likelihood_gradient_norm(model: nn.Module, prefix: Sequence[int], tokens: Sequence[int], *, bf16: bool) -> float:
    """Global L2 norm of the gradient of the mean negative log-likelihood of `tokens` (n,) behind `prefix` (p ≥ 1,)."""
    (chances,) = token_log_probabilities(model, prefix, [tokens], bf16=bf16)
    return _norm(model, -chances.mean())


def token_log_probabilities(
    model: nn.Module, prompt: Sequence[int], completions: Sequence[Sequence[int]], *, bf16: bool = False
) -> list[Tensor]:
    """For each completion its tokens' log-probabilities, float32, with the graph for a backward pass."""
    device = next(model.parameters()).device
    p = len(prompt)
    ids = torch.tensor([*prompt, *(token for tokens in completions for token in tokens)], device=device)
    owner = torch.tensor([-1] * p + [i for i, tokens in enumerate(completions) for _ in tokens], device=device)
    positions = torch.tensor([*range(p), *(p + j for tokens in completions for j in range(len(tokens)))], device=device)
    at = torch.arange(len(ids), device=device)
    sees = (at[:, None] >= at) & ((owner == -1) | (owner[:, None] == owner))
    # each token is predicted from the one before it; a completion's first one from the prompt's last
    sources, start = [], p
    for tokens in completions:
        sources += [p - 1, *range(start, start + len(tokens) - 1)]
        start += len(tokens)
    inner: Any = model
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = decoder_of(model)(
            input_ids=ids[None], position_ids=positions[None], attention_mask=sees[None, None], use_cache=False
        ).last_hidden_state[0]
        logits = inner.get_output_embeddings()(hidden[sources]).float()
    found = logits.log_softmax(dim=-1).gather(1, ids[p:, None])[:, 0]
    return list(found.split([len(tokens) for tokens in completions]))


def _norm(model: nn.Module, loss: Tensor) -> float:
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    model.zero_grad(set_to_none=True)
    return norm
