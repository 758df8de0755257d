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


def check_shared(prefix: Any) -> SharedPrefix:
    """Raise UserError unless `prefix` is a shared prefix."""
    if not isinstance(prefix, SharedPrefix):
        raise UserError(
            f"shared_prefix is a {type(prefix).__name__}; it must be what gainrl.shared_prefix(...) returns"
        )
    if not 0 <= int(prefix.tokens) < 2**31:
        raise UserError(f"shared_prefix.tokens is {prefix.tokens}; it must lie in [0, 2^31)")
    return prefix


def check_call(hidden: Any, cu_seqlens: Any, token_role: Any, shared_sum: Any) -> None:
    """Raise UserError unless the arguments of `angle_concentration` fit together."""
    for array, name in ((hidden, "hidden"), (cu_seqlens, "cu_seqlens"), (token_role, "token_role")):
        if hasattr(array, "full_tensor"):
            raise UserError(f"{name} is a DTensor, of which each process holds a part; pass {name}.full_tensor()")
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
    if shared_sum is not None:
        _require_dtype(shared_sum, "shared_prefix.sum", ("float32",))
        if tuple(shared_sum.shape) != shape[-1:]:
            raise UserError(
                f"shared_prefix.sum has shape {tuple(shared_sum.shape)}; for hidden of width {shape[-1]} it must be"
                f" ({shape[-1]},)"
            )
        _require_device(shared_sum, "shared_prefix.sum", device)


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
