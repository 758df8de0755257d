"""The CUDA kernels of angle concentration as nvcc compiled them, run by ptxrun and compared with the float64 oracle.

    nvcc -std=c++17 -O3 -arch=compute_90 -Icsrc -ptx csrc/angle/cuda.cu -o k90.ptx
    python tools/ptxrun/angle_ptx.py k90.ptx [--cases N] [--seed S] [--only NAME...]

The launcher's choices come from csrc/angle/cuda_plan.h itself (plan.cpp).  Every case runs twice, blocks and warps once
in order and once interleaved by chance, and must give the same bits.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "tests" / "angle")]

from angle_cases import (  # noqa: E402
    DTYPES,
    LONG,
    ROLES,
    Case,
    Params,
    assert_matches,
    params_of,
    placed,
    random_case,
    random_keywords,
)
from ptxrun import Buffer, Module, Report  # noqa: E402

H200 = {"shared_limit": 227 << 10, "shared_per_processor": 228 << 10}
MANGLED = {"float32": "f", "float16": "NS_4HalfE", "bfloat16": "NS_6BFloatE"}
WIDTHS = (576, 896, 1536, 2048, 3584, 4096, 8192, 16384, 573, 1)


class Chosen(ctypes.Structure):
    """plan.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("threads", "per_thread", "batch", "chunk_rows", "chunks", "shared_bytes",
                     "workspace_bytes", "join_threads", "join_shared", "padded_width")
    )  # fmt: skip


@dataclass
class Outcome:
    """What a call gave, how it was cut, and what its launches did."""

    values: np.ndarray
    counts: np.ndarray
    directions: np.ndarray | None
    chosen: Chosen
    reports: dict[str, Report]


@functools.cache
def library() -> ctypes.CDLL:
    """The plan, built in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ptxrun-") as folder:
        target = Path(folder) / "plan.so"
        subprocess.run(
            ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-DGAINRL_EMULATE_CUDA", f"-I{ROOT / 'csrc'}",
             f"-I{ROOT / 'tests' / 'angle' / 'emulated'}", str(HERE / "plan.cpp"), "-o", str(target)], check=True,
        )  # fmt: skip
        found = ctypes.CDLL(str(target))
    found.params_bytes.restype = found.arguments_bytes.restype = ctypes.c_size_t
    assert found.params_bytes() == ctypes.sizeof(Params)
    return found


def planned(
    p: Params, resident: int, limits: dict[str, int] | None = None, workspace: int = 0, out: Any = None
) -> Chosen:
    """How the launcher cuts a call for `resident` blocks at a time."""
    limits, chosen = limits or H200, Chosen()
    sizes = ctypes.c_size_t(limits["shared_limit"]), ctypes.c_size_t(limits["shared_per_processor"])
    refused = library().plan(
        ctypes.byref(p), *sizes, ctypes.c_int64(resident), ctypes.byref(chosen), ctypes.c_void_p(workspace), out
    )
    assert refused == 0, "the launcher refuses the call"
    return chosen


def kernel_of(chosen: Chosen, dtype: str) -> str:
    """Mangled name of the first kernel."""
    tail = "EEvNS_15KernelArgumentsE"
    return f"_ZN6gainrl9angle_sumI{MANGLED[dtype]}Li{chosen.per_thread}E{tail}"


def aligned_bytes(count: int, boundary: int = 512) -> np.ndarray:
    """As cudaMalloc gives it: on a boundary, not filled."""
    raw = np.full(count + boundary, 0xAB, dtype=np.uint8)
    first = -raw.ctypes.data % boundary
    return raw[first : first + count]


def run(
    module: Module, case: Case, *, resident: int = 1000, seed: int = 0,
    concurrent: int = 1, directions: bool = True, limits: dict[str, int] | None = None,
) -> Outcome:  # fmt: skip
    """One call: the kernels that the launcher would start, on buffers of their own."""
    view, owner = placed(case)
    width, sequences = case.hidden.shape[-1], case.sequences
    buffers: list[Buffer] = []

    def known(array: np.ndarray | None) -> int:
        if array is None or array.size == 0:
            return 0
        buffers.append(Buffer(array))
        return array.ctypes.data

    def output(*shape: int, dtype: Any = np.float32) -> tuple[np.ndarray, int]:
        array = aligned_bytes(int(np.prod(shape)) * 4).view(dtype).reshape(shape)
        if array.size == 0:
            return array, 0
        buffers.append(Buffer(array, writable=True, written=False))
        return array, array.ctypes.data

    values, at_values = output(4, sequences)
    counts, at_counts = output(3, sequences, dtype=np.int32)
    vectors, at_vectors = output(sequences, width) if directions else (None, 0)
    total, tokens = (None, 0) if case.shared is None else case.shared_sum()
    case = replace(case, roles=np.ascontiguousarray(case.roles))
    first = known(owner if case.roles.size else None)
    p = params_of(
        case, first, view.strides[0] // view.itemsize, (known(total), tokens), values=at_values,
        counts=at_counts, directions=at_vectors,
    )  # fmt: skip
    known(case.roles)
    known(case.offsets)
    workspace = aligned_bytes(planned(p, resident, limits).workspace_bytes)
    buffers.append(Buffer(workspace, writable=True, written=False))
    arguments = ctypes.create_string_buffer(library().arguments_bytes())
    chosen = planned(p, resident, limits, workspace.ctypes.data, arguments)
    launches = (
        ("sum", kernel_of(chosen, case.dtype), chosen.threads, chosen.shared_bytes),
        ("join", "_ZN6gainrl10angle_joinENS_15KernelArgumentsE", chosen.join_threads, chosen.join_shared),
    )
    reports = {}
    for short, mangled, threads, shared in launches:
        report = module.kernel(mangled).launch(
            grid=chosen.chunks, threads=threads, shared=shared, parameters=arguments.raw, buffers=buffers, seed=seed,
            concurrent=concurrent,
        )  # fmt: skip
        if report.faults or report.stopped:
            raise AssertionError(f"{short} ({mangled}):\n{report}")
        reports[short] = report
    for buffer in buffers:
        if buffer.writable and buffer.array is not workspace:
            assert buffer.known.all(), f"{int((buffer.known == 0).sum())} bytes of an output were never written"
    return Outcome(values, counts, vectors, chosen, reports)


def checked(module: Module, case: Case, seed: int, **machine: Any) -> Outcome:
    """The call in two orders: right, without a fault, and with the same bits."""
    found = run(module, case, **machine)
    again = run(module, case, seed=seed, concurrent=3, **machine)
    assert_matches(case, found.values, found.counts, found.directions)
    for name in ("values", "counts", "directions"):
        if (a := getattr(found, name)) is not None:
            np.testing.assert_array_equal(a, getattr(again, name), err_msg=f"{name}: another order of blocks and warps")
    return found


def bad_offsets(module: Module, rng: np.random.Generator) -> int:
    """Offsets out of order touch nothing beside the arrays."""
    case, wrong = (
        random_case(rng, width=24, lengths=[5, 9, 3]),
        ([0, 9, 5, 17], [-4, 5, 14, 17], [0, 5, 14, 40], [17, 0, 17, 0]),
    )
    for offsets in (*wrong, [0, 2**40, 5, 17]):
        checked(module, replace(case, offsets=np.array(offsets)), 5, resident=2)
    return 5


def long_sequences(module: Module, rng: np.random.Generator) -> int:
    """Sequences of many chunks, by one block of the joining kernel and by many."""
    for width, lengths, padded in LONG:
        case = random_case(
            rng, width=width, lengths=lengths, padded=padded, runs=False, dtype="bfloat16", zero_rows=0.1,
            shared=int(rng.choice([0, 4])),
        )  # fmt: skip
        checked(module, case, int(rng.integers(2, 99)))
    return len(LONG)


def widths(module: Module, rng: np.random.Generator) -> int:
    """Every width of interest in every dtype, as an H200 would cut it (of few rows), with nothing but values wanted."""
    for dtype in DTYPES:
        for width in WIDTHS:
            width = min(width, 8192) if dtype == "float32" else width
            case = random_case(rng, width=width, lengths=[40, 1, 0, 33], dtype=dtype)
            checked(module, case, int(rng.integers(2, 99)), resident=2, directions=False)
    return len(DTYPES) * len(WIDTHS)


def one_token(module: Module, rng: np.random.Generator) -> int:
    """Sequences of one row, with others, rows that do not count and empty sequences among them."""
    for dtype in DTYPES:
        for lengths in ([1] * 150, [1, 1, 2, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 3] * 6):
            case = random_case(
                rng, width=72, lengths=lengths, dtype=dtype, zero_rows=0.05, bad_rows=0.02, invalid_roles=0.02
            )
            checked(module, case, 9, resident=2, directions=False)
    return 6


def every_chunk(module: Module, rng: np.random.Generator) -> int:
    """A prefix, or offsets out of order, that one chunk alone sees count for the call."""
    chunks = (0, 5, 10, 15, 17, 31, 32, 36)
    for chunk in chunks:
        case = random_case(rng, width=8, lengths=[8] * 74, prefix=False, runs=False)
        case.roles[:] = ROLES[2]
        case.roles[chunk * 16 + 3] = ROLES[1]
        checked(module, case, 7)
        case.offsets[2 * chunk + 1] = case.offsets[2 * chunk + 2] + 1
        checked(module, case, 7)
    return 2 * len(chunks)


def resident_on_h200(chosen: Chosen) -> int:
    """Blocks at the same time on 132 multiprocessors, of kernels with as many registers as ptxas may give them."""
    registers = 65536 // (128 * chosen.threads)
    return 132 * max(1, min(registers, (228 << 10) // (chosen.shared_bytes + 1024), 2048 // chosen.threads, 32))


def real_sizes(module: Module, rng: np.random.Generator) -> int:
    """Calls cut as on an H200, against a float64 sum (the oracle is quadratic)."""
    shapes = (
        (1536, [512] * 4),
        (576, [9000]),
        (576, [1] * 6000),
        (4096, [1500]),
        (896, [int(n) for n in rng.integers(20, 300, size=20)]),
    )
    for width, lengths in shapes:
        case = random_case(rng, width=width, lengths=lengths, dtype="bfloat16")
        few = replace(case, hidden=case.hidden[:0], roles=case.roles[:0], offsets=np.zeros(2, np.int64))
        resident = resident_on_h200(run(module, few, directions=False).chosen)
        found = run(module, case, resident=resident, directions=True, seed=3, concurrent=4)
        unit = case.exact / np.linalg.norm(case.exact, axis=1, keepdims=True)
        for b in range(len(lengths)):
            span = slice(case.offsets[b], case.offsets[b + 1])
            sums = [unit[span][case.roles[span] == role].sum(axis=0) for role in (2, 1)]
            q, p = ((case.roles[span] == role).sum() for role in (2, 1))
            assert (found.counts[1][b], found.counts[2][b]) == (q, p)
            expected = (sums[0] @ sums[0] / q**2 if q else np.nan, sums[0] @ sums[1] / (q * p) if q * p else np.nan)
            np.testing.assert_allclose(found.values[:2, b], expected, rtol=0, atol=2e-6)
    return len(shapes)


def random(module: Module, rng: np.random.Generator, cases: int) -> int:
    """Random inputs, machines and outputs."""
    kinds: Counter[str] = Counter()
    for number in range(cases):
        keywords = random_keywords(rng)
        limit = int(rng.choice([99, 163, 227])) << 10
        machine = {
            "limits": {"shared_limit": limit, "shared_per_processor": limit + 1024},
            "resident": int(rng.integers(1, 9)), "directions": bool(rng.integers(2)),
        }  # fmt: skip
        case = random_case(rng, **keywords)
        try:
            found = checked(module, case, int(rng.integers(2, 100)), **machine)
        except AssertionError as error:
            raise SystemExit(f"case {number}: {keywords} on {machine}: {error}") from error
        kinds[f"{case.dtype}, {found.chosen.per_thread}"] += 1
    print(dict(sorted(kinds.items())))
    return cases


GROUPS = {f.__name__: f for f in (bad_offsets, long_sequences, widths, one_token, every_chunk, real_sizes)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ptx", type=Path)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*GROUPS, "random"])
    given = parser.parse_args()
    module, rng, total = Module(given.ptx.read_text()), np.random.default_rng(given.seed), 0
    for name in given.only:
        begun = time.time()
        done = random(module, rng, given.cases) if name == "random" else GROUPS[name](module, rng)
        total += done
        print(f"{name}: {done} cases in two orders, no fault, {time.time() - begun:.1f} s", flush=True)
    print(f"{total} cases, no fault")


if __name__ == "__main__":
    main()
