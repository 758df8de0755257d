"""Host checks: shapes, dtypes and devices, each mistake an error that names the argument and both values.

Nothing here reads a value of a tensor, so nothing synchronises.
"""

from __future__ import annotations

from typing import Any

from gainrl.angle.result import SharedPrefix, Status
from gainrl.errors import UserError

NAMES = ("auto", "native", "triton", "torch", "reference")
FLOATS = ("float32", "float16", "bfloat16")
ROLES = ("int8", "uint8", "bool")
OFFSETS = ("int32", "int64")
_CALLERS = int(Status.INVALID_ROLE | Status.INVALID_OFFSETS)


def dtype_name(array: Any) -> str:
    """`float32` for torch.float32 and np.dtype('float32') alike."""
    return str(array.dtype).removeprefix("torch.")


def _require_dtype(array: Any, name: str, allowed: tuple[str, ...]) -> None:
    if dtype_name(array) not in allowed:
        raise UserError(f"{name} has dtype {dtype_name(array)}; it must be one of {', '.join(allowed)}")


def _require_device(array: Any, name: str, expected: Any) -> None:
    device = getattr(array, "device", None)
    if device != expected:
        raise UserError(f"{name} is on {device} and hidden on {expected}; move one to the other's device")


def check_backend(backend: str) -> None:
    """Raise UserError unless `backend` is a known name."""
    if backend not in NAMES:
        raise UserError(f"backend is {backend!r}; it must be one of {', '.join(NAMES)}")


def check_call(hidden: Any, cu_seqlens: Any, token_role: Any, shared: SharedPrefix | None, norm_weight: Any) -> None:
    """Raise UserError unless the arguments of `angle_concentration` fit together."""
    _require_dtype(hidden, "hidden", FLOATS)
    shape, roles, device = tuple(hidden.shape), tuple(token_role.shape), getattr(hidden, "device", None)
    if cu_seqlens is None:
        if len(shape) != 3:
            raise UserError(
                f"hidden has shape {shape}; without cu_seqlens it must be padded rows (B, L, D)"
                " (packed rows (T, D) come with cu_seqlens (B+1,))"
            )
    else:
        if len(shape) != 2:
            raise UserError(
                f"hidden has shape {shape}; with cu_seqlens it must be packed rows (T, D)"
                " (for padded rows (B, L, D) pass cu_seqlens=None)"
            )
        _require_dtype(cu_seqlens, "cu_seqlens", OFFSETS)
        if len(cu_seqlens.shape) != 1 or cu_seqlens.shape[0] < 1:
            raise UserError(f"cu_seqlens has shape {tuple(cu_seqlens.shape)}; it must be (B+1,), at least (1,)")
        _require_device(cu_seqlens, "cu_seqlens", device)
    if shape[-1] < 1:
        raise UserError(f"hidden has shape {shape}; its last axis, the width D, must be at least 1")
    if roles != shape[:-1]:
        raise UserError(f"token_role has shape {roles}; for hidden of shape {shape} it must be {shape[:-1]}")
    _require_dtype(token_role, "token_role", ROLES)
    _require_device(token_role, "token_role", device)
    if shared is not None:
        if not isinstance(shared, SharedPrefix):
            raise UserError(
                f"shared_prefix is a {type(shared).__name__}; it must be what gainrl.shared_prefix(...) returns"
            )
        _require_vector(shared.sum, "shared_prefix.sum", shape[-1], ("float32",), device)
        if not 0 <= int(shared.tokens) < 2**31:
            raise UserError(f"shared_prefix.tokens is {shared.tokens}; it must lie in [0, 2^31)")
    if norm_weight is not None:
        _require_vector(norm_weight, "norm_weight", shape[-1], FLOATS, device)


def _require_vector(array: Any, name: str, width: int, dtypes: tuple[str, ...], device: Any) -> None:
    _require_dtype(array, name, dtypes)
    if tuple(array.shape) != (width,):
        raise UserError(f"{name} has shape {tuple(array.shape)}; hidden has width {width}, so it must be ({width},)")
    _require_device(array, name, device)


def raise_on_bad_values(status: Any, token_role: Any) -> None:
    """Raise UserError for flags that only a mistake of the caller explains (reads `status`)."""
    wrong = status & _CALLERS
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0].reshape(-1)[0])
    if int(status[first]) & Status.INVALID_OFFSETS:
        raise UserError("cu_seqlens must not decrease and must stay within [0, T]; pass check=False for status instead")
    raise UserError(
        f"token_role ({dtype_name(token_role)}) holds a role other than 0 (ignored), 1 (prefix) and 2 (question)"
        f" in sequence {first}; pass check=False to get status instead"
    )
