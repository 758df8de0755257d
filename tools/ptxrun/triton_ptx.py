"""The Triton kernels as Triton compiles them for sm_90, run by ptxrun inside the triton backend, against the oracle.

    TRITON_CACHE_DIR=... python tools/ptxrun/triton_ptx.py [--cases N] [--seed S]

Triton needs no GPU to compile.  Each launch of the backend is specialised as Triton's own launcher does it (integers of
1 become constants, pointers and integers divisible by 16 are said to be), compiled to PTX and run on the CPU tensors.
Rows of 16-bit floats whose columns are not one multiple of 128 bytes may compile to `ldmatrix`, which is not modelled;
such a case is counted as left out.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import struct
import time
from typing import Any

import numpy as np
import torch
import triton
from angle_ptx import Case, assert_matches, random_case, random_keywords
from ptxrun import Buffer, Module, Unsupported
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gainrl.angle import triton_backend
from gainrl.angle import triton_kernels as kernels
from gainrl.angle.result import AngleCall, AngleConcentration

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int8: "i8",
         torch.int32: "i32", torch.int64: "i64"}  # fmt: skip
SIZES = {"fp32": "f", "i32": "i", "i64": "q"}
INPUTS = ("hidden", "roles", "offsets", "shared")

compiled: dict[str, tuple[Module, int, int]] = {}


class Launches:
    """Stands for the kernels' module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        function = getattr(kernels, name)

        class Launch:
            def __getitem__(_, grid: tuple[int]) -> Any:
                return lambda *arguments, **options: self.run(name, function, grid[0], arguments, options)

        return Launch()

    def run(self, name: str, function: Any, grid: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """One launch."""
        names = function.arg_names
        build = {key: options.pop(key) for key in ("num_warps", "enable_fp_fusion")}
        values = dict(zip(names, arguments, strict=False)) | options
        signature, constants, attributes = {}, {}, {}
        for i, argument in enumerate(names):
            value = values[argument]
            one = isinstance(value, int) and value == 1 and argument not in kernels.VARIES
            if argument in options or value is None or one:
                signature[argument], constants[argument] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[argument], number = "*" + TYPES[value.dtype], value.data_ptr()
            else:
                signature[argument], number = "i32" if -(2**31) <= value < 2**31 else "i64", value
            if argument not in kernels.VARIES and number % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        key = hashlib.sha256(repr((name, signature, constants, attributes, build)).encode()).hexdigest()
        if key not in compiled:
            source = ASTSource(function, signature, constants, attributes)
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=build)
            compiled[key] = Module(made.asm["ptx"]), made.metadata.shared, made.metadata.num_warps
        module, shared, warps = compiled[key]
        packed, buffers, seen = b"", [], set()
        tensors = {n: v for n, v in values.items() if isinstance(v, torch.Tensor)}
        outputs = {v.untyped_storage().data_ptr() for n, v in tensors.items() if n not in INPUTS}
        for argument in names:
            if signature[argument] == "constexpr":
                continue
            value = values[argument]
            tensor = argument in tensors
            kind = "q" if tensor else SIZES[signature[argument]]
            packed += bytes(-len(packed) % struct.calcsize(kind))
            packed += struct.pack(kind, value.data_ptr() if tensor else value)
            if tensor and value.numel() and (at := value.untyped_storage().data_ptr()) not in seen:
                seen.add(at)
                bytes_ = np.ctypeslib.as_array((ctypes.c_uint8 * value.untyped_storage().nbytes()).from_address(at))
                buffers.append(Buffer(bytes_, writable=at in outputs, written=True))
        packed += bytes(-len(packed) % 8 + 16)  # two scratch pointers that these kernels do not use
        report = module.kernel(name).launch(
            grid=grid, threads=32 * warps, shared=shared, parameters=packed, buffers=buffers, seed=self.seed,
            concurrent=1 if self.seed == 0 else 3,
        )  # fmt: skip
        if report.faults or report.stopped:
            raise AssertionError(f"{name}: {signature} {constants}\n{report}")


def run(case: Case, seed: int, directions: bool) -> AngleConcentration:
    """The backend with its launches run by ptxrun."""
    hidden = torch.from_numpy(case.hidden.copy())
    hidden = hidden.view(torch.bfloat16) if case.dtype == "bfloat16" else hidden
    shared, tokens = (None, 0) if case.shared is None else case.shared_sum()
    call = AngleCall(
        hidden, None if case.offsets is None else torch.from_numpy(case.offsets), torch.from_numpy(case.roles.copy()),
        None if shared is None else torch.from_numpy(shared), tokens, case.diagonal, directions,
    )  # fmt: skip
    triton_backend.kernels = Launches(seed)
    try:
        return triton_backend.run(call)
    finally:
        triton_backend.kernels = kernels


def check(case: Case, seed: int, directions: bool = True) -> None:
    """The case in two orders: right, without a fault, and with the same bits."""
    found, again = (
        [x if x is None else x.numpy() for x in (result.values, result.counts, result.directions)]
        for result in (run(case, order, directions) for order in (0, seed))
    )
    assert_matches(case, *found)
    for a, b in zip(found, again, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg="another order of blocks and warps")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, begun, left_out = np.random.default_rng(given.seed), time.time(), 0
    usual, triton_backend.PROGRAMS_PER_PROCESSOR = triton_backend.PROGRAMS_PER_PROCESSOR, 2000
    check(random_case(rng, width=40, lengths=[1700, 3], dtype="bfloat16", runs=False, zero_rows=0.1), 5)
    triton_backend.PROGRAMS_PER_PROCESSOR = usual
    print(f"a sequence of a hundred chunks: no fault, {time.time() - begun:.1f} s", flush=True)
    for number in range(given.cases):
        keywords = random_keywords(rng)
        keywords |= {"width": int(rng.choice([33, 64, 576])), "lengths": [min(n, 30) for n in keywords["lengths"]]}
        case = random_case(rng, **keywords)
        try:
            check(case, int(rng.integers(2, 99)), bool(rng.integers(2)))
        except Unsupported as error:
            print(f"case {number}: left out, {error}")
            left_out += 1
        except AssertionError as error:
            raise SystemExit(f"case {number}: {keywords}: {error}") from error
    print(
        f"{given.cases - left_out} random cases, no fault, {left_out} left out, {time.time() - begun:.1f} s", flush=True
    )


if __name__ == "__main__":
    main()
