"""The op on arrays that are not torch tensors: NumPy, JAX, CuPy and whatever else has `__dlpack__`.

Host arrays go to the compiled CPU kernels by address, without a copy and without torch, and give NumPy arrays.  Where
the module is not compiled, or another backend is asked for, they are wrapped as torch tensors (no copy either); where
torch is missing too, the reference serves NumPy arrays.  GPU arrays need torch, whose tensors they become, and give
torch tensors.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gainrl.angle.backends import choose, native_module, unavailable
from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, AngleCall, Outputs
from gainrl.angle.checks import check_call, raise_on_bad_values
from gainrl.angle.reference_backend import angle_arrays
from gainrl.angle.result import AngleConcentration, SharedPrefix, finished_prefix
from gainrl.errors import UserError

_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
_DLPACK_NAMES = {(0, 8): "int8", (0, 32): "int32", (0, 64): "int64", (1, 8): "uint8", (2, 16): "float16",
                 (2, 32): "float32", (2, 64): "float64", (4, 16): "bfloat16", (6, 8): "bool"}  # fmt: skip
_DLPACK_CPU = (1, 3)  # plain and pinned host memory


@dataclass(frozen=True, slots=True)
class HostArray:
    """Someone else's memory: strides in elements; `owner` keeps it alive."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: Any
    device: str = "cpu"


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def on_host(array: Any, name: str) -> bool:
    """Whether the array lies in host memory."""
    if isinstance(array, np.ndarray):
        return True
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise UserError(
            f"{name} is a {type(array).__name__}; it must be a torch tensor or an array with __dlpack__"
            " (NumPy, JAX, CuPy)"
        )
    return int(array.__dlpack_device__()[0]) in _DLPACK_CPU


def host_array(array: Any) -> HostArray:
    """The memory of a NumPy array, or of anything on the host with `__dlpack__`; never a copy."""
    if isinstance(array, np.ndarray):
        if any(stride % array.itemsize for stride in array.strides):
            raise UserError(
                f"an array has strides {array.strides} bytes, which are no multiples of its {array.itemsize}"
            )
        if not array.dtype.isnative:
            raise UserError(f"an array has dtype {array.dtype} of the other byte order; convert it with .astype")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return HostArray(array.ctypes.data, array.dtype.name, array.shape, strides, array)
    if _is_torch(array):
        array = array.detach()
    capsule = array.__dlpack__()
    module: Any = native_module()
    address, code, bits, lanes, shape, strides = module.dlpack_view(capsule)
    dtype = _DLPACK_NAMES.get((code, bits), f"DLPack type {code} of {bits} bits") if lanes == 1 else "vectors"
    return HostArray(address, dtype, shape, strides, (array, capsule))


def _packed(array: HostArray, name: str) -> HostArray:
    if array.shape[0] > 1 and array.strides[0] != 1:
        raise UserError(f"{name} has stride {array.strides[0]}; it must be contiguous")
    return array


def threads() -> int:
    """Threads for the CPU kernels without torch: OMP_NUM_THREADS, or the processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def angle_concentration_arrays(
    hidden: Any,
    cu_seqlens: Any,
    token_role: Any,
    *,
    shared_prefix: SharedPrefix | None,
    norm_weight: Any,
    norm_offset: float,
    diagonal: bool,
    return_directions: bool,
    return_contributions: bool,
    backend: str,
    check: bool | None,
) -> AngleConcentration:
    """`gainrl.angle_concentration` for arrays; arguments as there."""
    wanted = DIRECTIONS * return_directions + CONTRIBUTIONS * return_contributions
    named = {"hidden": hidden, "cu_seqlens": cu_seqlens, "token_role": token_role, "norm_weight": norm_weight}
    present = {name: array for name, array in named.items() if array is not None}
    host = [on_host(array, name) for name, array in present.items()]
    if not all(host) and any(host):
        places = ", ".join(f"{n} on {'the host' if h else 'a GPU'}" for n, h in zip(present, host, strict=True))
        raise UserError(f"the arrays lie on different devices ({places}); move them to one")
    serves = choose(backend, "cpu") if all(host) else "torch"
    if serves == "reference" and unavailable("torch", "cpu"):
        check_call(hidden, cu_seqlens, token_role, shared_prefix, norm_weight)
        sum_, tokens = (None, 0) if shared_prefix is None else (shared_prefix.sum, shared_prefix.tokens)
        outputs = angle_arrays(
            AngleCall(
                hidden, cu_seqlens, token_role, sum_, tokens, norm_weight, float(norm_offset), bool(diagonal), wanted
            )
        )
        return _result(outputs, token_role, check)
    if serves != "native":
        return _through_torch(
            named, shared_prefix, all(host), norm_offset=norm_offset, diagonal=diagonal,
            return_directions=return_directions, return_contributions=return_contributions, backend=backend,
            check=check,
        )  # fmt: skip
    rows, roles = host_array(hidden), host_array(token_role)
    offsets = None if cu_seqlens is None else host_array(cu_seqlens)
    weight = None if norm_weight is None else host_array(norm_weight)
    shared = None
    if shared_prefix is not None:
        shared = replace(shared_prefix, sum=host_array(shared_prefix.sum))
    check_call(rows, offsets, roles, shared, weight)
    sum_, tokens = (None, 0) if shared is None else (shared.sum, shared.tokens)
    outputs = _native(AngleCall(rows, offsets, roles, sum_, tokens, weight, float(norm_offset), bool(diagonal), wanted))
    return _result(outputs, roles, check)


def _result(outputs: Outputs, roles: Any, check: bool | None) -> AngleConcentration:
    if check is None or check:
        raise_on_bad_values(outputs.counts[0], roles)
    return AngleConcentration(outputs.values, outputs.counts, outputs.directions, outputs.contributions)


def shared_prefix_arrays(hidden: Any, norm_weight: Any, norm_offset: float, backend: str) -> SharedPrefix:
    """`gainrl.shared_prefix` for arrays; arguments as there."""
    serves = choose(backend, "cpu") if on_host(hidden, "hidden") else "torch"
    if serves == "reference" and unavailable("torch", "cpu"):
        ones = np.ones((1, hidden.shape[0]), dtype=np.int8)
        check_call(hidden[None], None, ones, None, norm_weight)
        outputs = angle_arrays(
            AngleCall(hidden[None], None, ones, None, 0, norm_weight, float(norm_offset), True, SUMS)
        )
        return finished_prefix(outputs.sums[0], int(outputs.counts[0, 0]), int(outputs.counts[2, 0]))
    if serves != "native":
        torch = _torch()
        from gainrl.angle.op import shared_prefix

        prefix = shared_prefix(
            _tensor(torch, hidden),
            norm_weight=None if norm_weight is None else _tensor(torch, norm_weight),
            norm_offset=norm_offset,
            backend=backend,
        )
        return replace(prefix, sum=prefix.sum.numpy()) if on_host(hidden, "hidden") else prefix
    rows = host_array(hidden)
    padded = replace(rows, shape=(1, *rows.shape), strides=(0, *rows.strides))
    roles = host_array(np.ones((1, rows.shape[0]), dtype=np.int8))
    weight = None if norm_weight is None else host_array(norm_weight)
    check_call(padded, None, roles, None, weight)
    outputs = _native(AngleCall(padded, None, roles, None, 0, weight, float(norm_offset), True, SUMS))
    return finished_prefix(outputs.sums[0], int(outputs.counts[0, 0]), int(outputs.counts[2, 0]))


def _native(call: AngleCall) -> Outputs:
    """The compiled CPU kernels on a call whose arrays are `HostArray`."""
    module: Any = native_module()
    hidden, offsets, roles, weight = call.hidden, call.cu_seqlens, call.token_role, call.norm_weight
    sequences, width, wanted, padded = call.sequences, call.width, call.wanted, call.padded

    def floats(bit: int, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, dtype=np.float32) if wanted & bit else None

    def address(array: Any) -> int:
        return 0 if array is None else int(array.ctypes.data)

    def packed(array: HostArray | None, name: str) -> int:
        return 0 if array is None else _packed(array, name).address

    outputs = Outputs(
        np.empty((4, sequences), dtype=np.float32),
        np.empty((3, sequences), dtype=np.int32),
        floats(DIRECTIONS, (sequences, width)),
        floats(CONTRIBUTIONS, roles.shape),
        floats(SUMS, (sequences, width)),
    )
    params = module.AngleParams(
        hidden.address,
        _DTYPES[hidden.dtype],
        width,
        hidden.strides[-2],
        hidden.strides[0] if padded else 0,
        hidden.strides[-1],
        sequences,
        int(np.prod(roles.shape)),
        roles.shape[1] if padded else 0,
        packed(offsets, "cu_seqlens"),
        offsets is not None and offsets.dtype == "int64",
        roles.address,
        roles.strides[-1],
        roles.strides[0] if padded else 0,
        2 if roles.dtype == "bool" else 1,
        packed(call.shared_sum, "shared_prefix.sum"),
        call.shared_tokens,
        packed(weight, "norm_weight"),
        0 if weight is None else _DTYPES[weight.dtype],
        call.norm_offset,
        call.diagonal,
        address(outputs.values),
        address(outputs.counts),
        address(outputs.directions),
        address(outputs.sums),
        address(outputs.contributions),
    )
    module.angle_cpu(params, threads())
    return outputs


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            "these arrays need torch: the compiled module serves host arrays only, and is not in use here"
            f" ({unavailable('native', 'cpu') or 'another backend was asked for, or they lie on a GPU'})"
        ) from error


def _tensor(torch: Any, array: Any) -> Any:
    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray):
        if array.dtype.name == "bfloat16":  # of ml_dtypes, which torch does not know by that name
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
    return torch.from_dlpack(array)


def _through_torch(
    named: dict[str, Any], shared_prefix: SharedPrefix | None, host: bool, **options: Any
) -> AngleConcentration:
    torch = _torch()
    tensors = {name: None if array is None else _tensor(torch, array) for name, array in named.items()}
    if shared_prefix is not None:
        shared_prefix = replace(shared_prefix, sum=_tensor(torch, shared_prefix.sum))
    from gainrl.angle.op import angle_concentration

    result = angle_concentration(
        tensors["hidden"], tensors["cu_seqlens"], tensors["token_role"], norm_weight=tensors["norm_weight"],
        shared_prefix=shared_prefix, **options,
    )  # fmt: skip
    if not host:
        return result
    return AngleConcentration(
        *(
            None if part is None else part.numpy()
            for part in (result.values, result.counts, result.directions, result.contributions)
        )
    )
