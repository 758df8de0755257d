"""Modules are tried in the dtype of their weights too: what they do in 16 bits alone is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.scoring import blocks
from gainrl.scoring.fused import FusedLayers
from gainrl.scoring.trials import Alike, equal, rows

needs_kernels = pytest.mark.skipif(
    isinstance(native_module(), str), reason="native: the forward kernels are part of the compiled module"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def found(module: torch.nn.Module, kind: type | None = None) -> int:
    with torch.inference_mode():
        fast = FusedLayers(module)._fast.values()
    return sum(kind is None or isinstance(forward, kind) for forward in fast)


class Squaring(torch.nn.Module):
    """RMSNorm without the float32 in between: float16 overflows where rows are beyond 256."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(32)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class Clamped(torch.nn.Module):
    """A gate that keeps float16, and nothing else, from overflowing."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48)
        self.down_proj, self.act_fn = torch.nn.Linear(48, 32), torch.nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        product = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        if product.dtype == torch.float16:
            product = product.clamp(-65504, 65504)
        return self.down_proj(product)


@needs_kernels
@pytest.mark.parametrize(("kind", "right"), [(Squaring, (1, 1, 0)), (Clamped, (1, 1, 0))])
def test_what_overflows_or_is_clamped_in_float16_alone_is_left_alone(
    kind: type[torch.nn.Module], right: tuple[int, ...]
) -> None:
    assert tuple(found(kind().to(dtype)) for dtype in DTYPES) == right


@needs_kernels
def test_blocks_that_clamp_float16_or_return_float32_are_left_alone(make_model: Callable[..., Any]) -> None:
    from transformers.models.llama import modeling_llama as llama

    class ClampedBlock(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            result = super().forward(hidden_states, *arguments, **options)
            return result.clamp(-6e4, 6e4) if result.dtype == torch.float16 else result

    class Widening(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            return super().forward(hidden_states, *arguments, **options).float()

    for kind, right in ((ClampedBlock, (2, 2, 1)), (Widening, (2, 1, 1))):
        counts = []
        for dtype in DTYPES:
            model = make_model("Llama", dtype=dtype)
            model.model.layers[1].__class__ = kind
            counts.append(found(model.model, blocks.Block))
        assert tuple(counts) == right, kind.__name__


def test_results_are_equal_if_they_overflow_alike() -> None:
    row = torch.tensor([[1.0, 2.0, float("inf")]])
    assert equal(row, row + 1e-6)
    assert not equal(row, torch.tensor([[1.0, 2.0, 65504.0]]))
    assert not equal(row, row.half())
    assert not equal(row, torch.tensor([[1.0, 2.01, float("inf")]]))
    assert equal(row.half(), torch.tensor([[1.0, 2.01, float("nan")]]).half())  # within 8 roundings of 11 bits
    assert not equal(row.half(), torch.tensor([[1.0, 2.1, float("inf")]]).half())
    assert not equal(torch.zeros(1, 3), torch.tensor([[0.0, 1e-9, 0.0]]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_fit_the_dtype_and_reach_where_it_overflows(dtype: torch.dtype) -> None:
    given = torch.cat(list(rows(64, dtype)))
    assert given.dtype == dtype
    assert given.isfinite().all()
    assert given.abs().max() > 2e4
    assert torch.cat(list(rows(64, dtype, most=1e3))).abs().max() <= 1e3


def test_each_kind_is_tried_once_in_its_own_dtype_and_kinds_differ_by_their_settings() -> None:
    alike, tried = Alike(), []
    one, same, other = Squaring(), Squaring(), Squaring()
    other.eps = 1e-6

    def trial(dtype: torch.dtype) -> bool:
        tried.append(dtype)
        return len(tried) == 1

    assert [alike(module, torch.zeros(1).half(), trial) for module in (one, same, other)] == [True, True, False]
    assert not alike(one, torch.zeros(1).bfloat16(), trial)
    assert tried == [torch.float16, torch.float16, torch.bfloat16]
    quantised = torch.zeros(1, dtype=torch.uint8)  # it computes in some float
    assert all(alike(one, weight, trial) for weight in (torch.zeros(1), quantised))
