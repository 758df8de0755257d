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

from angle_cases import (
    LONG,
    ROLES,
    Case,
    Params,
    address,
    assert_matches,
    params_of,
    placed,
    random_case,
    random_keywords,
)

H200 = {"shared_limit": 227 << 10, "resident": 1000, "directions": True}


def run(
    library: Any,
    case: Case,
    order: int,
    *,
    shared_limit: int,
    resident: int,
    directions: bool,
) -> Any:
    view, owner = placed(case)
    width, sequences = case.hidden.shape[-1], case.sequences

    def output(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        return np.full(shape, 777, dtype=dtype)

    values, counts = output(4, sequences), output(3, sequences, dtype=np.int32)
    vectors = output(sequences, width) if directions else None
    total, tokens = (None, 0) if case.shared is None else case.shared_sum()
    p = params_of(
        case, address(view), view.strides[0] // view.itemsize, (address(total), tokens),
        values=address(values), counts=address(counts), directions=address(vectors),
    )  # fmt: skip
    refused = library.emulated_angle(ctypes.byref(p), shared_limit, resident, order)
    assert refused == 0, "the launcher refuses the call"
    del owner, total
    return values, counts, vectors


def check(library: Any, case: Case, order: int, **machine: Any) -> None:
    """The case in two orders."""
    machine = {**H200, **machine}
    found = run(library, case, 0, **machine)
    assert_matches(case, *found)
    for a, b in zip(found, run(library, case, order, **machine), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg="a different order of threads")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    library = ctypes.CDLL(given.library)
    library.emulated_params_bytes.restype = ctypes.c_size_t
    assert library.emulated_params_bytes() == ctypes.sizeof(Params)
    library.emulated_angle.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_uint]
    rng = np.random.default_rng(given.seed)
    few = given.cases < 50
    case = random_case(rng, width=24, lengths=[5, 9, 3])  # offsets out of order read nothing out of bounds
    for offsets in ([0, 9, 5, 17], [-4, 5, 14, 17], [0, 5, 14, 40], [17, 0, 17, 0]):
        case.offsets = np.array(offsets)
        check(library, case, 3, resident=2)
    for width, lengths, padded in LONG[:2] if few else LONG:
        case = random_case(
            rng, width=width, lengths=lengths, padded=padded, runs=False, dtype="bfloat16", zero_rows=0.1
        )
        check(library, case, int(rng.integers(1, 100)))
    # A prefix or offsets out of order that one chunk alone sees count for the call: flags are read sixteen at once.
    for chunk in (5, 10, 35) if few else (0, 5, 10, 15, 17, 31, 32, 36):
        case = random_case(rng, width=8, lengths=[8] * 74, prefix=False, runs=False)  # two to a chunk of 16 rows
        case.roles[:] = ROLES[2]
        case.roles[chunk * 16 + 3] = ROLES[1]
        check(library, case, 5)
        case.offsets[2 * chunk + 1] = case.offsets[2 * chunk + 2] + 1
        check(library, case, 5)
    case = random_case(rng, width=24, lengths=[1] * 150, runs=False, zero_rows=0.05, bad_rows=0.02)  # one-token prompts
    check(library, case, 7, resident=2, directions=False)
    for number in range(given.cases):
        keywords = random_keywords(rng)
        machine = {
            "shared_limit": int(rng.choice([99, 163, 227])) << 10,
            "resident": int(rng.integers(1, 9)),
            "directions": bool(rng.integers(2)),
        }
        try:
            check(library, random_case(rng, **keywords), int(rng.integers(1, 100)), **machine)
        except AssertionError as error:
            raise SystemExit(f"case {number}: {keywords} on {machine}: {error}") from error
    print(f"{given.cases} cases")


if __name__ == "__main__":
    main()
