"""The public function: checks, the choice of a backend, and the result object.

The checks are of shapes, dtypes and devices.  They read no value of a tensor, so they do not synchronise.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from gainrl.angle.backends import check_backend, choose, runner, unavailable
from gainrl.angle.result import AngleCall, AngleConcentration, Outputs, SharedPrefix, Status
from gainrl.errors import UserError

FLOATS = ("float32", "float16", "bfloat16")


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
    check_backend(backend)
    shared, shared_tokens = _shared(shared_prefix)
    arrays = (hidden, cu_seqlens, token_role, shared)
    on_host = False
    if not _torch_alone(arrays):
        on_host, arrays = _converted(arrays, backend)
    _check(*arrays)
    call = AngleCall(*arrays, shared_tokens, bool(diagonal), bool(return_directions))
    on_cpu = isinstance(call.hidden, np.ndarray) or call.hidden.is_cpu
    outputs = run(call, backend, on_cpu if check is None else bool(check))
    return AngleConcentration(*(_numpy(part) if on_host else part for part in outputs[:3]))


def shared_prefix(hidden: Any, *, backend: str = "auto") -> SharedPrefix:
    """The sum of the unit rows of `hidden` (P, D), for a prefix that many sequences share.

    Arguments and errors are those of `angle_concentration`; a non-finite row is an error too.  Synchronises once.
    """
    check_backend(backend)
    if len(hidden.shape) != 2:
        raise UserError(f"hidden has shape {tuple(hidden.shape)}; a shared prefix is rows (P, D)")
    on_host = False
    if not _torch_alone((hidden,)):
        on_host, (hidden,) = _converted((hidden,), backend)
    if isinstance(hidden, np.ndarray):
        roles: Any = np.ones((1, hidden.shape[0]), dtype=np.int8)
    else:
        roles = hidden.new_ones((1, hidden.shape[0]), dtype=sys.modules["torch"].int8)
    _check(hidden[None], None, roles, None)
    outputs = run(AngleCall(hidden[None], None, roles, sums=True), backend, False)
    status, _, tokens = (int(count) for count in outputs.counts[:, 0].tolist())
    if status & Status.NON_FINITE:
        raise UserError("hidden holds NaN or infinity; a shared prefix must be finite in every row")
    return SharedPrefix(_numpy(outputs.sums[0]) if on_host else outputs.sums[0], tokens)


_registered: Any = None


def run(call: AngleCall, backend: str, check: bool) -> Outputs:
    """The backend on a checked call: itself for plain tensors and arrays, else through `torch.library`.

    Tensors of a subclass (fake, traced) and meta tensors are the dispatcher's, and so is all that torch.compile sees.
    On plain tensors it would only find our function, for a third of the time of a small call.
    """
    torch = sys.modules.get("torch")
    if torch is None or isinstance(call.hidden, np.ndarray):
        return run_plain(call, backend, check)
    plain = (torch.Tensor, torch.nn.Parameter)
    if (
        not torch.compiler.is_compiling()
        and type(call.hidden) in plain
        and type(call.token_role) in plain
        and call.hidden.device.type != "meta"
    ):
        return run_plain(call, backend, check)
    global _registered
    if _registered is None:
        from gainrl.angle.library import run_registered as _registered
    outputs: Outputs = _registered(call, backend, check)
    return outputs


def run_plain(call: AngleCall, backend: str, check: bool) -> Outputs:
    """The chosen backend's outputs."""
    device = "cpu" if isinstance(call.hidden, np.ndarray) else call.hidden.device.type
    outputs = runner(choose(backend, device, call.hidden))(call)
    if check:
        _raise_on_bad_values(outputs.counts[0], call.token_role)
    return outputs


def _dtype(array: Any, name: str, allowed: tuple[str, ...]) -> None:
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype not in allowed:
        raise UserError(f"{name} has dtype {dtype}; it must be one of {', '.join(allowed)}")


def _device(array: Any, name: str, expected: Any) -> None:
    device = getattr(array, "device", None)
    if device != expected:
        raise UserError(f"{name} is on {device} and hidden on {expected}; move one to the other's device")


def _shared(prefix: SharedPrefix | None) -> tuple[Any, int]:
    if prefix is None:
        return None, 0
    if not isinstance(prefix, SharedPrefix):
        raise UserError(
            f"shared_prefix is a {type(prefix).__name__}; it must be what gainrl.shared_prefix(...) returns"
        )
    if not 0 <= int(prefix.tokens) < 2**31:
        raise UserError(f"shared_prefix.tokens is {prefix.tokens}; it must lie in [0, 2^31)")
    return prefix.sum, prefix.tokens


def _check(hidden: Any, cu_seqlens: Any, token_role: Any, shared_sum: Any) -> None:
    for array, name in ((hidden, "hidden"), (cu_seqlens, "cu_seqlens"), (token_role, "token_role")):
        if hasattr(array, "full_tensor"):
            raise UserError(f"{name} is a DTensor, of which each process holds a part; pass {name}.full_tensor()")
    _dtype(hidden, "hidden", FLOATS)
    shape, roles, device = tuple(hidden.shape), tuple(token_role.shape), getattr(hidden, "device", None)
    if len(shape) != (3 if cu_seqlens is None else 2):
        raise UserError(f"hidden has shape {shape}; " + (
            "without cu_seqlens it must be padded rows (B, L, D) (packed rows (T, D) come with cu_seqlens (B+1,))"
            if cu_seqlens is None else
            "with cu_seqlens it must be packed rows (T, D) (for padded rows (B, L, D) pass cu_seqlens=None)"
        ))  # fmt: skip
    if cu_seqlens is not None:
        _dtype(cu_seqlens, "cu_seqlens", ("int32", "int64"))
        if len(cu_seqlens.shape) != 1 or cu_seqlens.shape[0] < 1:
            raise UserError(f"cu_seqlens has shape {tuple(cu_seqlens.shape)}; it must be (B+1,), at least (1,)")
        _device(cu_seqlens, "cu_seqlens", device)
    if shape[-1] < 1:
        raise UserError(f"hidden has shape {shape}; its last axis, the width D, must be at least 1")
    if roles != shape[:-1]:
        raise UserError(f"token_role has shape {roles}; for hidden of shape {shape} it must be {shape[:-1]}")
    _dtype(token_role, "token_role", ("int8", "uint8", "bool"))
    _device(token_role, "token_role", device)
    if shared_sum is not None:
        _dtype(shared_sum, "shared_prefix.sum", ("float32",))
        wanted = shape[-1:]
        if (given := tuple(shared_sum.shape)) != wanted:
            raise UserError(f"shared_prefix.sum has shape {given}; for hidden of width {shape[-1]} it must be {wanted}")
        _device(shared_sum, "shared_prefix.sum", device)


def _raise_on_bad_values(status: Any, token_role: Any) -> None:
    """Raise UserError for flags that only a mistake of the caller explains (reads `status`)."""
    wrong = status & int(Status.INVALID_ROLE | Status.INVALID_OFFSETS)
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0].reshape(-1)[0])
    if int(status[first]) & Status.INVALID_OFFSETS:
        raise UserError("cu_seqlens must not decrease and must stay within [0, T]; pass check=False for status instead")
    raise UserError(
        f"token_role ({str(token_role.dtype).removeprefix('torch.')}) holds a role other than 0 (ignored), 1 (prefix)"
        f" and 2 (question) in sequence {first}; pass check=False to get status instead"
    )


def _torch_alone(arrays: tuple[Any, ...]) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    for array in arrays:  # a generator would cost more than the rest of the question  # noqa: SIM110
        if array is not None and not isinstance(array, torch.Tensor):
            return False
    return True


def _on_host(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return True
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise UserError(
            f"an argument is a {type(array).__name__}; it must be a torch tensor or an array with __dlpack__"
            " (NumPy, JAX, CuPy)"
        )
    return int(array.__dlpack_device__()[0]) in (1, 3)  # plain and pinned memory of DLPack


def _converted(arrays: tuple[Any, ...], backend: str) -> tuple[bool, tuple[Any, ...]]:
    """Whether the result is to be NumPy's, and the arrays: NumPy's as they are if they can be served, else tensors."""
    present = [array for array in arrays if array is not None]
    host = [_on_host(array) for array in present]
    if any(host) and not all(host):
        raise UserError("some of the arrays lie on the host and some on a GPU; move them to one device")
    if all(isinstance(array, np.ndarray) for array in present) and (
        unavailable("torch", "cpu") or choose(backend, "cpu") == "native"
    ):
        return False, arrays
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(f"arrays other than NumPy's need torch, which does not import: {error}") from error

    def tensor(array: Any) -> Any:
        if array is None or isinstance(array, torch.Tensor):
            return array
        if isinstance(array, np.ndarray) and array.dtype.name == "bfloat16":  # of ml_dtypes, unknown to torch
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array) if isinstance(array, np.ndarray) else torch.from_dlpack(array)

    return host[0], tuple(map(tensor, arrays))


def _numpy(array: Any) -> Any:
    return array.numpy() if hasattr(array, "numpy") else array
