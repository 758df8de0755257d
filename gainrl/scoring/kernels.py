"""The forward pass's own CPU kernels (csrc/forward): packed attention, norms, residual sums, gates, rotary positions.

Each function says by `None` that it does not serve a call (not on a CPU, no compiled module, another dtype or layout);
the caller then does the same in torch.  Products are added in float32 and results rounded once to the dtype.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from gainrl.angle.backends import native_module

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def available() -> bool:
    """Whether this machine has kernels that are known to be worth it: x86-64 with AVX2 or more.

    The plain code is for tests (GAINRL_CPU_ISA=plain): it was never measured against torch's own.
    """
    module = native_module()
    if isinstance(module, str):
        return False
    return module.cpu_isa() != "plain" or os.environ.get("GAINRL_CPU_ISA") == "plain"


def _serve(*tensors: Tensor) -> Any:
    """The compiled module, if it can work on these: plain CPU tensors of one dtype, last dimension contiguous."""
    first = tensors[0]
    if first.device.type != "cpu" or first.dtype not in _DTYPES or torch.is_grad_enabled() or not available():
        return None
    plain = (Tensor, torch.nn.Parameter)
    served = all(
        type(t) in plain
        and t.device == first.device
        and t.dtype == first.dtype
        and (t.stride(-1) == 1 or t.shape[-1] == 1)
        for t in tensors
    )
    return native_module() if served else None


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels work on these (in the layout that each of them asks for)."""
    return _serve(*tensors) is not None


def require(result: Tensor | None) -> Tensor:
    """The result of a call that was known to be served."""
    if result is None:
        raise RuntimeError("a kernel of gainrl.scoring.kernels does not serve a call that it should")
    return result


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shared: tuple[Tensor, Tensor] | None,
    offsets: Tensor,
    *,
    scale: float,
    softcap: float,
    window: int,
    out: Tensor | None = None,
) -> Tensor | None:
    """Causal attention within each sequence of a packed row, which also sees the shared tokens before it.

    query (H, T, d), key (Hkv, T, d), value (Hkv, T, dv): query head h reads key head h // (H // Hkv).
    shared: keys (Hkv, P, d) and values (Hkv, P, dv), positions applied.  offsets: (B + 1,) int64 from 0 to T.
    softcap: logits x become softcap * tanh(x / softcap); 0 for none.  window: how many tokens one sees, itself
    included; 0 for all.  Returns (T, H, dv), in the memory of `out` if given.  Raises ValueError for offsets that are
    not those of T rows.
    """
    heads, rows, width = query.shape
    kv_heads, value_width = key.shape[0], value.shape[-1]
    module = _serve(query, key, value, *(shared or ()))
    fits = key.shape == (kv_heads, rows, width) and value.shape == (kv_heads, rows, value_width)
    if shared is not None:
        before = shared[0].shape[1]
        fits &= shared[0].shape == (kv_heads, before, width) and shared[1].shape == (kv_heads, before, value_width)
        fits &= before > 0
    if module is None or not fits or kv_heads == 0 or heads % kv_heads:
        return None
    if out is not None and (out.dtype != query.dtype or out.numel() != rows * heads * value_width):
        return None
    if offsets.dtype != torch.int64 or not offsets.is_contiguous() or offsets.is_cuda or int(offsets[-1]) != rows:
        raise ValueError(f"offsets must be int64 on the CPU and end at {rows}, the rows that there are: got {offsets}")
    output = query.new_empty(rows, heads, value_width) if out is None else out
    nothing = (0, 0, 0)
    module.attention_cpu(
        _DTYPES[query.dtype],
        heads,
        kv_heads,
        width,
        value_width,
        _heads(query),
        _heads(key),
        _heads(value),
        0 if shared is None else shared[0].shape[1],
        nothing if shared is None else _heads(shared[0]),
        nothing if shared is None else _heads(shared[1]),
        len(offsets) - 1,
        offsets.data_ptr(),
        scale,
        softcap,
        window,
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return output


def _heads(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.data_ptr(), tensor.stride(0), tensor.stride(1)


def rms_norm(x: Tensor, weight: Tensor, offset: float, eps: float, out: Tensor | None = None) -> Tensor | None:
    """x / sqrt(mean(x²) + eps) · (weight + offset) over the last dimension, of any shape (..., D).

    `out`: contiguous, of x's shape; it may be x.
    """
    module = _serve(x, weight)
    if module is None or not x.is_contiguous() or x.numel() == 0 or weight.shape != x.shape[-1:]:
        return None
    if out is not None and (out.dtype != x.dtype or not _alike(x, out)):
        return None
    out = torch.empty_like(x) if out is None else out
    width = x.shape[-1]
    module.rms_norm_cpu(
        x.data_ptr(),
        weight.data_ptr(),
        offset,
        eps,
        out.data_ptr(),
        x.numel() // width,
        width,
        _DTYPES[x.dtype],
        torch.get_num_threads(),
    )
    return out


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, offset: float, eps: float, out: Tensor) -> Tensor | None:
    """x + y, of any shape (..., D); its `rms_norm` is written to `out`, contiguous and of the same shape."""
    module = _serve(x, y, weight, out)
    if module is None or not _alike(x, y, out) or x.numel() == 0 or weight.shape != x.shape[-1:]:
        return None
    total = torch.empty_like(x)
    _add(module, x, y, total, (weight.data_ptr(), offset, eps, out.data_ptr()))
    return total


def add_(x: Tensor, y: Tensor) -> Tensor | None:
    """x += y, of any shape (..., D), both contiguous; returns x."""
    module = _serve(x, y)
    if module is None or not _alike(x, y) or x.numel() == 0:
        return None
    _add(module, x, y, x, (0, 0.0, 0.0, 0))
    return x


def _alike(*tensors: Tensor) -> bool:
    return all(tensor.is_contiguous() and tensor.shape == tensors[0].shape for tensor in tensors)


def _add(module: Any, x: Tensor, y: Tensor, total: Tensor, norm: tuple[int, float, float, int]) -> None:
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    module.add_rms_norm_cpu(
        x.data_ptr(), y.data_ptr(), total.data_ptr(), *norm, rows, width, _DTYPES[x.dtype], torch.get_num_threads()
    )


def rotate_(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor | None:
    """Rotary positions in place: x · cosine + (-second half, first half) of x · sine, for each of the heads.

    x (T, H, d), cosine and sine (T, d), all contiguous; d even.
    """
    module = _serve(x, cosine, sine)
    rows, heads, width = x.shape
    if module is None or not x.is_contiguous() or not _alike(cosine, sine) or cosine.shape != (rows, width):
        return None
    if width % 2 or x.numel() == 0:
        return None
    module.rotate_cpu(
        x.data_ptr(),
        cosine.data_ptr(),
        sine.data_ptr(),
        rows,
        heads,
        width,
        _DTYPES[x.dtype],
        torch.get_num_threads(),
    )
    return x


def silu_mul(gate: Tensor, up: Tensor, out: Tensor | None = None) -> Tensor | None:
    """silu(gate) · up, elementwise; `out`, contiguous and of the same shape, may be `gate`."""
    module = _serve(gate, up)
    if module is None or not _alike(gate, up, *(() if out is None else (out,))):
        return None
    if out is not None and out.dtype != gate.dtype:
        return None
    out = torch.empty_like(gate) if out is None else out
    module.silu_mul_cpu(
        gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel(), _DTYPES[gate.dtype], torch.get_num_threads()
    )
    return out
