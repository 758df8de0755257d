"""Runs random cases through the emulated CUDA kernels and compares them with the oracle.

    LD_PRELOAD=<libasan> python check.py LIBRARY --cases N [--seed S]

Its own process, without torch: the library is built with AddressSanitizer, which must be loaded first.  Every output
buffer starts as a sentinel; each case runs twice with its threads in different orders and must give the same bits.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from angle_cases import ROLES, Case, assert_matches, random_case

SENTINEL = 777


class Params(ctypes.Structure):
    """csrc/angle/params.h."""

    _fields_ = (
        ("hidden", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("width", ctypes.c_int64),
        ("stride_row", ctypes.c_int64), ("stride_batch", ctypes.c_int64), ("stride_column", ctypes.c_int64),
        ("sequences", ctypes.c_int64), ("rows", ctypes.c_int64), ("length", ctypes.c_int64),
        ("offsets", ctypes.c_void_p), ("offsets_are_64", ctypes.c_int32),
        ("roles", ctypes.c_void_p), ("role_stride_row", ctypes.c_int64), ("role_stride_batch", ctypes.c_int64),
        ("role_scale", ctypes.c_int32), ("shared_sum", ctypes.c_void_p), ("shared_tokens", ctypes.c_int64),
        ("weight", ctypes.c_void_p), ("weight_dtype", ctypes.c_int32), ("weight_offset", ctypes.c_float),
        ("diagonal", ctypes.c_int32), ("values", ctypes.c_void_p), ("counts", ctypes.c_void_p),
        ("directions", ctypes.c_void_p), ("sums", ctypes.c_void_p), ("contributions", ctypes.c_void_p),
    )  # fmt: skip


def placed(case: Case, aligned: bool, column_stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows in a buffer of NaN, each row on a 16-byte boundary or (not aligned) off it; (view, owner)."""
    rows = case.hidden.reshape(-1, case.hidden.shape[-1])
    size = rows.itemsize
    stride = rows.shape[1] * column_stride
    if aligned:
        stride = -(-stride * size // 16) * 16 // size
    first = 0 if aligned else 1
    # The buffer ends with the last element of the last row, so that the sanitizer sees a read beyond it.
    count = first + max(0, len(rows) - 1) * stride + (rows.shape[1] - 1) * column_stride + 1
    owner = np.full(count, 0x7FC0 if rows.dtype == np.uint16 else np.nan, dtype=rows.dtype)
    assert owner.ctypes.data % 16 == 0
    view = np.lib.stride_tricks.as_strided(owner[first:], rows.shape, (stride * size, column_stride * size))
    view[...] = rows
    return view, owner


def run(
    library: Any, case: Case, *, aligned: bool, column_stride: int, shared_limit: int, resident: int, order: int
) -> Any:
    view, owner = placed(case, aligned, column_stride)
    width, size = case.hidden.shape[-1], case.hidden.itemsize
    stride = view.strides[0] // size
    sequences = case.sequences

    def output(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        return np.full(shape, SENTINEL, dtype=dtype)

    values, counts = output(4, sequences), output(3, sequences, dtype=np.int32)
    directions, sums, contributions = output(sequences, width), output(sequences, width), output(*case.roles.shape)

    def address(array: np.ndarray) -> int | None:  # as PyTorch has it
        return array.ctypes.data if array.size else None

    p = Params(
        hidden=address(view), dtype=["float32", "float16", "bfloat16"].index(case.dtype), width=width,
        stride_row=stride, stride_column=column_stride, sequences=sequences, rows=case.roles.size,
        roles=address(case.roles), role_stride_row=1, role_scale=1, weight_offset=case.weight_offset,
        diagonal=case.diagonal, values=address(values), counts=address(counts),
        directions=address(directions), sums=address(sums), contributions=address(contributions),
    )  # fmt: skip
    if case.offsets is None:
        p.length = p.role_stride_batch = case.roles.shape[1]
        p.stride_batch = p.length * stride
    else:
        p.offsets, p.offsets_are_64 = case.offsets.ctypes.data, case.offsets.dtype == np.int64
    keep = [owner]
    if case.shared is not None:
        total, p.shared_tokens = case.shared_sum()
        keep.append(total)
        p.shared_sum = total.ctypes.data
    if case.weight is not None:
        p.weight = case.weight.ctypes.data
    fast = library.emulated_angle(ctypes.byref(p), shared_limit, resident, order)
    assert fast >= 0, "the launcher refuses the call"
    return values, counts, directions, contributions, sums, fast


def random_keywords(rng: np.random.Generator) -> dict[str, Any]:
    def pick(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    return {
        # The last widths take two and four vectors per thread, and more than the fast kernel's widest row.
        "width": pick(1, 3, 8, 33, 64, 100, 257, 576, 1100, 2056, 5000, 16400),
        "lengths": [int(n) for n in rng.integers(0, pick(2, 6, 60), size=rng.integers(0, 10))],
        "dtype": pick("float32", "float16", "bfloat16"),
        "padded": rng.random() < 0.3,
        "weighted": rng.random() < 0.3,
        "shared": pick(0, 0, 5),
        "diagonal": rng.random() < 0.7,
        "runs": rng.random() < 0.7,
        "zero_rows": pick(0.0, 0.2),
        "bad_rows": pick(0.0, 0.0, 0.02),
        "extreme": rng.random() < 0.3,
        "invalid_roles": pick(0.0, 0.0, 0.02),
        "margin": pick(0, 3),
        "prefix": rng.random() < 0.8,
        "offsets_dtype": pick("int32", "int64"),
    }


def check_bad_offsets(library: Any, rng: np.random.Generator) -> None:
    """Offsets out of order read nothing out of bounds and make every sequence NaN."""
    case = random_case(rng, width=24, lengths=[5, 9, 3])
    for offsets in ([0, 9, 5, 17], [-4, 5, 14, 17], [0, 5, 14, 40], [17, 0, 17, 0]):
        case.offsets = np.array(offsets)
        found = run(library, case, aligned=True, column_stride=1, shared_limit=99 << 10, resident=2, order=0)
        assert_matches(case, *found[:4])


# Widths, lengths, alignment and padding of sequences with many chunks, which many blocks of the joining kernel share.
LONG = (
    (40, [560, 3], True, False),  # one slice of the columns, two parts of the chunks
    (260, [10, 540], True, False),  # three slices, two parts
    (40, [1200, 3], True, False),  # four parts
    (1300, [190], True, False),  # as many blocks as slices
    (2056, [500], True, False),  # one part, of more chunks than a warp adds at once
    (2056, [150, 2], True, False),  # fewer blocks than slices
    (33, [9, 700], False, False),  # the kernel for any layout
    (72, [300, 290, 7], True, True),
)


def check_long_sequences(library: Any, rng: np.random.Generator, few: bool) -> None:
    for width, lengths, aligned, padded in LONG[:2] if few else LONG:
        case = random_case(
            rng, width=width, lengths=lengths, padded=padded, runs=False, dtype="bfloat16", zero_rows=0.1,
            shared=int(rng.choice([0, 4])), weighted=bool(rng.random() < 0.5),
        )  # fmt: skip
        machine = {"aligned": aligned, "column_stride": 1, "shared_limit": 227 << 10, "resident": 1000}
        found = run(library, case, order=0, **machine)
        again = run(library, case, order=int(rng.integers(1, 100)), **machine)
        assert_matches(case, *found[:4])
        for a, b in zip(found, again, strict=True):
            np.testing.assert_array_equal(a, b, err_msg="a different order of threads")


def check_every_chunk_is_asked(library: Any, rng: np.random.Generator, few: bool) -> None:
    """A prefix or offsets out of order that one chunk alone sees count for the call: flags are read sixteen at once."""
    machine = {"aligned": True, "column_stride": 1, "shared_limit": 227 << 10, "resident": 1000, "order": 0}
    # Each word and each byte of it, then the chunks that are left over.
    for chunk in (5, 10, 35) if few else (0, 5, 10, 15, 17, 31, 32, 36):
        case = random_case(rng, width=8, lengths=[8] * 74, prefix=False, runs=False)  # two to a chunk of 16 rows
        case.roles[:] = ROLES[2]
        case.roles[chunk * 16 + 3] = ROLES[1]
        assert_matches(case, *run(library, case, **machine)[:4])
        assert case.offsets is not None
        case.offsets[2 * chunk + 1] = case.offsets[2 * chunk + 2] + 1
        assert_matches(case, *run(library, case, **machine)[:4])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    library = ctypes.CDLL(arguments.library)
    library.emulated_params_bytes.restype = ctypes.c_size_t
    assert library.emulated_params_bytes() == ctypes.sizeof(Params)
    library.emulated_angle.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_uint]
    rng = np.random.default_rng(arguments.seed)
    kernels = {0: 0, 1: 0}
    check_bad_offsets(library, rng)
    few = arguments.cases < 50
    check_long_sequences(library, rng, few)
    check_every_chunk_is_asked(library, rng, few)
    for number in range(arguments.cases):
        keywords = random_keywords(rng)
        if keywords["width"] > 1100:  # wide rows are slow here, and few of them reach everything
            keywords["lengths"] = [min(n, 12) for n in keywords["lengths"]][:4]
        machine = {
            "aligned": bool(rng.random() < 0.75),
            "column_stride": 2 if rng.random() < 0.1 else 1,
            "shared_limit": int(rng.choice([99, 163, 227])) << 10,
            "resident": int(rng.integers(1, 9)),
        }
        case = random_case(rng, **keywords)
        try:
            found = run(library, case, order=0, **machine)
            again = run(library, case, order=int(rng.integers(1, 100)), **machine)
            assert_matches(case, *found[:4])
            for a, b in zip(found, again, strict=True):
                np.testing.assert_array_equal(a, b, err_msg="a different order of threads")
        except AssertionError as error:
            raise SystemExit(f"case {number}: {keywords} on {machine}: {error}") from error
        kernels[found[5]] += 1
    print(f"{arguments.cases} cases: {kernels[1]} by the vector kernel, {kernels[0]} by the one for any layout")


if __name__ == "__main__":
    main()
