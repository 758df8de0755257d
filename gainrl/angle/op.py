"""The public functions: checks of shapes, dtypes and devices, which synchronise nothing, and the backend's result."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from gainrl.angle.backends import BACKENDS, NAMES, choose, unavailable
from gainrl.angle.result import AngleCall, AngleConcentration, SharedPrefix, Status, question_sums
from gainrl.errors import UserError


def angle_concentration(
    hidden: Any,
    cu_seqlens: Any,
    token_role: Any,
    *,
    shared_prefix: SharedPrefix | None = None,
    diagonal: bool = True,
    return_directions: bool = False,
    backend: str = "auto",
    check: bool | None = None,
) -> AngleConcentration:
    """Angle concentration of each sequence's question, of question and prefix, and of the whole sequence.

    With `u_i = h_i / ‖h_i‖` and `U_R = Σ u_i` over the rows of role R (Wang et al. 2025, arXiv 2506.02281):

        intra = ‖U_q‖² / q²     inter = U_q·U_p / (q·p)     score = intra + inter     whole = ‖U_p + U_q‖² / (p + q)²

    Args:
        hidden: activations, float32, float16 or bfloat16: packed rows (T, D) or padded rows (B, L, D).  Any row
            stride and alignment; read once, never copied, never written.
        cu_seqlens: (B+1,) int32 or int64: rows of sequence b are `cu_seqlens[b]` to `cu_seqlens[b+1]`.  None if padded.
        token_role: (T,) or (B, L) int8 (or uint8): 0 ignored, 1 prefix, 2 question; or bool: True is question.
            Rows of ignored tokens are neither read nor checked.
        shared_prefix: a prefix that comes before every sequence, from `gainrl.shared_prefix`.
        diagonal: whether `intra` and `whole` include i = j (the published definition does).
        return_directions: also `U_q / ‖U_q‖` per sequence.
        backend: "auto", "native", "triton", "torch" or "reference".
        check: raise on roles and offsets out of range (synchronises a GPU).  Default: on the CPU only.

    Arrays: torch tensors; or anything on the host with `__dlpack__` (NumPy, JAX), which gives NumPy arrays and, if it
    is NumPy's, needs no torch; or anything on a GPU with `__dlpack__` (CuPy, JAX), which gives torch tensors.  No
    gradient is recorded.

    Returns:
        AngleConcentration.  Undefined fields are NaN and say why in `status`; other sequences are not affected.

    Raises:
        UserError: a wrong shape, dtype or device; a backend that cannot serve the call; with `check`, bad values.
    """
    shared, shared_tokens = None, 0
    if shared_prefix is not None:
        if not isinstance(shared_prefix, SharedPrefix):
            raise UserError(f"shared_prefix is a {type(shared_prefix).__name__}; gainrl.shared_prefix makes one")
        shared, shared_tokens = shared_prefix.sum, shared_prefix.tokens
    on_host, (hidden, cu_seqlens, token_role, shared) = _converted((hidden, cu_seqlens, token_role, shared), backend)
    _check(hidden, cu_seqlens, token_role, shared)
    # ravel: contiguous, of tensors and of NumPy's arrays
    cu_seqlens, shared = (None if one is None else one.ravel() for one in (cu_seqlens, shared))
    call = AngleCall(hidden, cu_seqlens, token_role, shared, shared_tokens, bool(diagonal), bool(return_directions))
    if check is None:
        check = isinstance(hidden, np.ndarray) or hidden.is_cpu
    result = run(call, backend, bool(check))
    tensors = (result.values, result.counts, result.directions)
    return AngleConcentration(*(None if x is None else x.numpy() for x in tensors)) if on_host else result


def shared_prefix(hidden: Any, *, backend: str = "auto") -> SharedPrefix:
    """The sum of the unit rows of `hidden` (P, D), for a prefix that many sequences share.

    Arguments and errors are those of `angle_concentration`; a non-finite row is an error too.  Synchronises once.
    """
    if len(hidden.shape) != 2:
        raise UserError(f"hidden has shape {tuple(hidden.shape)}; a shared prefix is rows (P, D)")
    on_host, (hidden,) = _converted((hidden,), backend)
    library: Any = np if isinstance(hidden, np.ndarray) else sys.modules["torch"]
    roles = library.full_like(hidden[None, :, :1], 2, dtype=library.int8).reshape(1, -1)  # question
    _check(hidden[None], None, roles, None)
    result = run(AngleCall(hidden[None], None, roles, directions=True), backend, False)
    status, tokens, _ = (int(count) for count in result.counts[:, 0].tolist())
    if status & Status.NON_FINITE:
        raise UserError("hidden holds NaN or infinity; a shared prefix must be finite in every row")
    total = question_sums(result)[0]
    return SharedPrefix(total.numpy() if on_host else total, tokens)


def run(call: AngleCall, backend: str, check: bool) -> AngleConcentration:
    """The backend on a checked call: itself for plain tensors and arrays, else through `torch.library`.

    Tensors of a subclass (fake, traced) and meta tensors are the dispatcher's, and so is all that torch.compile sees.
    On plain tensors it would only find our function, for a third of the time of a small call.
    """
    if not isinstance(call.hidden, np.ndarray):
        torch = sys.modules["torch"]
        plain = (torch.Tensor, torch.nn.Parameter)
        ours = type(call.hidden) in plain and type(call.token_role) in plain and not call.hidden.is_meta
        if not ours or torch.compiler.is_compiling():
            from gainrl.angle.library import run_registered

            return run_registered(call, backend, check)
    return run_plain(call, backend, check)


def run_plain(call: AngleCall, backend: str, check: bool) -> AngleConcentration:
    """The chosen backend's result."""
    device = "cpu" if isinstance(call.hidden, np.ndarray) else call.hidden.device.type
    result = BACKENDS[choose(backend, device, call.hidden)][1](call)
    if check:
        wrong = result.status & int(Status.INVALID_ROLE | Status.INVALID_OFFSETS)
        if wrong.any():
            b = int(wrong.nonzero()[0].reshape(-1)[0])
            if int(wrong[b]) & Status.INVALID_OFFSETS:
                found = "cu_seqlens must not decrease and must stay within [0, T]"
            else:
                found = f"token_role holds a role other than 0 (ignored), 1 (prefix) and 2 (question) in sequence {b}"
            raise UserError(f"{found}; pass check=False to get status instead")
    return result


def _check(hidden: Any, cu_seqlens: Any, token_role: Any, shared_sum: Any) -> None:
    device = getattr(hidden, "device", None)
    for array, name, dtypes in (
        (hidden, "hidden", ("float32", "float16", "bfloat16")),
        (cu_seqlens, "cu_seqlens", ("int32", "int64")),
        (token_role, "token_role", ("int8", "uint8", "bool")),
        (shared_sum, "shared_prefix.sum", ("float32",)),
    ):
        if array is None:
            continue
        if hasattr(array, "full_tensor"):
            raise UserError(f"{name} is a DTensor, of which each process holds a part; pass {name}.full_tensor()")
        if (dtype := str(array.dtype).removeprefix("torch.")) not in dtypes:
            raise UserError(f"{name} has dtype {dtype}; it must be one of {', '.join(dtypes)}")
        if (other := getattr(array, "device", None)) != device:
            raise UserError(f"{name} is on {other} and hidden on {device}; move one to the other's device")
    shape, roles = tuple(hidden.shape), tuple(token_role.shape)
    if cu_seqlens is None and len(shape) != 3:
        raise UserError(f"hidden has shape {shape}; without cu_seqlens it must be padded rows (B, L, D)")
    if cu_seqlens is not None and len(shape) != 2:
        raise UserError(f"hidden has shape {shape}; with cu_seqlens it must be packed rows (T, D)")
    if cu_seqlens is not None and (len(cu_seqlens.shape) != 1 or cu_seqlens.shape[0] < 1):
        raise UserError(f"cu_seqlens has shape {tuple(cu_seqlens.shape)}; it must be (B+1,), at least (1,)")
    if shape[-1] < 1:
        raise UserError(f"hidden has shape {shape}; its last axis, the width D, must be at least 1")
    if roles != shape[:-1]:
        raise UserError(f"token_role has shape {roles}; for hidden of shape {shape} it must be {shape[:-1]}")
    if shared_sum is not None and (given := tuple(shared_sum.shape)) != shape[-1:]:
        raise UserError(f"shared_prefix.sum has shape {given}; for hidden of width {shape[-1]} it must be {shape[-1:]}")


def _converted(arrays: tuple[Any, ...], backend: str) -> tuple[bool, Any]:
    """Whether the result is to be NumPy's, and the arrays: NumPy's as they are if they can be served, else tensors."""
    if backend not in NAMES:
        raise UserError(f"backend is {backend!r}; it must be one of {', '.join(NAMES)}")
    torch: Any = sys.modules.get("torch")
    present = [array for array in arrays if array is not None]
    if torch is not None and all([isinstance(array, torch.Tensor) for array in present]):  # noqa: C419 (faster)
        return False, arrays
    if all(isinstance(array, np.ndarray) for array in present) and (
        unavailable("torch", "cpu") or choose(backend, "cpu") == "native"
    ):
        return False, arrays
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(f"arrays other than NumPy's need torch, which does not import: {error}") from error

    def tensor(array: Any) -> Any:
        if array is None or isinstance(array, torch.Tensor):
            return array
        if isinstance(array, np.ndarray):  # bfloat16 is that of ml_dtypes, unknown to torch
            half = array.dtype.name == "bfloat16"
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if half else torch.from_numpy(array)
        if not hasattr(array, "__dlpack__"):
            kind = type(array).__name__
            raise UserError(f"an argument is a {kind}; it must be a torch tensor or an array with __dlpack__")
        return torch.from_dlpack(array)

    arrays = tuple(map(tensor, arrays))
    return arrays[0].is_cpu, arrays
