"""The ways to compute angle concentration that `benchmarks/angle.py` compares, and the passes that bound them.

Each provider is `make(inputs) -> call` where `call()` returns (B,) scores; `make` does what a caller would do once.
The formulas are those of gainrl.angle; the published procedure is written from its description.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import gainrl

Call = Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    hidden: Tensor
    offsets: Tensor
    roles: Tensor
    lengths: list[int]

    @property
    def bytes(self) -> int:
        return self.hidden.numel() * self.hidden.element_size()

    @property
    def uniform(self) -> bool:
        return len(set(self.lengths)) == 1


def published(inputs: Inputs) -> Call:
    """One similarity matrix per prompt, in the activations' dtype, and a copy of the result to the host."""
    bounds = list(itertools.pairwise(inputs.offsets.tolist()))

    def call() -> list[float]:
        scores = []
        for start, stop in bounds:
            rows, roles = inputs.hidden[start:stop], inputs.roles[start:stop]
            unit = rows / rows.norm(dim=1, keepdim=True)
            similarity = unit @ unit.T
            question, prefix = roles == 2, roles == 1
            intra = similarity[question][:, question].mean()
            inter = similarity[question][:, prefix].mean()
            scores.append(float(intra + inter))
        return scores

    return call


def _linear_uniform(hidden: Tensor, roles: Tensor, batch: int) -> Tensor:
    rows = hidden.view(batch, -1, hidden.shape[1]).float()
    roles = roles.view(batch, -1)
    unit = rows * torch.rsqrt((rows * rows).sum(dim=-1, keepdim=True))
    question, prefix = roles == 2, roles == 1
    u = (unit * question.unsqueeze(-1)).sum(dim=1)
    v = (unit * prefix.unsqueeze(-1)).sum(dim=1)
    q, p = question.sum(dim=1).clamp(min=1), prefix.sum(dim=1).clamp(min=1)
    return (u * u).sum(dim=1) / (q * q) + (u * v).sum(dim=1) / (q * p)


def _linear_ragged(hidden: Tensor, roles: Tensor, owner: Tensor, batch: int) -> Tensor:
    rows = hidden.float()
    unit = rows * torch.rsqrt((rows * rows).sum(dim=-1, keepdim=True))
    key = owner * 2 + (roles == 2)
    sums = torch.zeros(batch * 2, hidden.shape[1], device=hidden.device).index_add(0, key, unit)
    counts = torch.zeros(batch * 2, device=hidden.device).index_add(0, key, torch.ones_like(key, dtype=torch.float32))
    v, u = sums.view(batch, 2, -1).unbind(1)
    p, q = counts.clamp(min=1).view(batch, 2).unbind(1)
    return (u * u).sum(dim=1) / (q * q) + (u * v).sum(dim=1) / (q * p)


def _linear(inputs: Inputs, transform: Callable[[Any], Any]) -> Call:
    batch = len(inputs.lengths)
    if inputs.uniform:
        uniform = transform(_linear_uniform)
        return lambda: uniform(inputs.hidden, inputs.roles, batch)
    lengths = torch.tensor(inputs.lengths, device=inputs.hidden.device)
    owner = torch.repeat_interleave(torch.arange(batch, device=inputs.hidden.device), lengths)
    ragged = transform(_linear_ragged)
    return lambda: ragged(inputs.hidden, inputs.roles, owner, batch)


def eager(inputs: Inputs) -> Call:
    """The linear form, line by line in PyTorch."""
    return _linear(inputs, lambda function: function)


def compiled(inputs: Inputs) -> Call:
    """`torch.compile` of the same function, for these very shapes."""
    torch._dynamo.reset()
    return _linear(inputs, lambda function: torch.compile(function, dynamic=False))


def _gainrl(backend: str) -> Callable[[Inputs], Call]:
    def make(inputs: Inputs) -> Call:
        more = {"backend": backend, "check": False}
        return lambda: gainrl.angle_concentration(inputs.hidden, inputs.offsets, inputs.roles, **more).score

    return make


PROVIDERS: dict[str, Callable[[Inputs], Call]] = {
    "native": _gainrl("native"),
    "triton": _gainrl("triton"),
    "torch": _gainrl("torch"),
    "compiled": compiled,
    "eager": eager,
    "published": published,
}


def read_passes(buffer: Tensor) -> dict[str, Call]:
    """Passes that read every byte and write next to nothing; the faster one is the ceiling."""
    words = buffer.reshape(-1).view(torch.int32)
    passes: dict[str, Call] = {
        "read int64": lambda: words.view(torch.int64).sum(),
        "read float32": lambda: words.view(torch.float32).sum(),
    }
    if buffer.is_cuda:
        try:
            passes["read triton"] = _triton_read(words)
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise
            # Without Triton, PyTorch's own passes are the ceiling.
    return passes


def copy_pass(buffer: Tensor) -> Call:
    """A copy: reads and writes every byte."""
    target = torch.empty_like(buffer)
    return lambda: target.copy_(buffer)


def _triton_read(words: Tensor) -> Call:
    from triton_read import read_pass

    return read_pass(words)


def exact_scores(inputs: Inputs, sequences: int) -> Tensor:
    """(sequences,) float64 scores of the first sequences: the linear form of the definition, piece by piece.

    Computed where the activations are, so that a gigabyte takes no longer on a GPU than the providers do.
    """
    device, width = inputs.hidden.device, inputs.hidden.shape[1]
    kinds = torch.tensor([[1], [2]], dtype=inputs.roles.dtype, device=device)
    at_once = max(1, (1 << 23) // width)
    scores = []
    for start, stop in itertools.islice(itertools.pairwise(inputs.offsets.tolist()), sequences):
        sums = torch.zeros(2, width, dtype=torch.float64, device=device)
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        for low in range(start, stop, at_once):
            high = min(low + at_once, stop)
            rows = inputs.hidden[low:high].double()
            rows /= rows.norm(dim=1, keepdim=True)
            chosen = (inputs.roles[low:high] == kinds).double()
            sums += chosen @ rows
            counts += chosen.sum(dim=1)
        (v, u), (p, q) = sums, counts
        scores.append(u @ u / (q * q) + torch.where(p > 0, u @ v / (q * p), 0.0))
    return torch.stack(scores).cpu()
