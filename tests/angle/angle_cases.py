"""Random inputs for the op, the kernels' argument struct, and the comparison with the oracle's answer.

NumPy alone: the sanitizer build of the emulated kernels is tested in a process without torch.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.angle.reference import TOLERANCE, VECTOR_TOLERANCE, angle_concentration_reference, unit_rows
from gainrl.angle.result import BAD, AngleConcentration

ROLES = np.array([0, 1, 2], dtype=np.int8)
DTYPES = ("float32", "float16", "bfloat16")


@dataclass
class Case:
    """One call, as NumPy arrays.  `hidden` is uint16 for bfloat16; `exact` is the same numbers in float64."""

    hidden: np.ndarray
    dtype: str
    exact: np.ndarray
    roles: np.ndarray
    offsets: np.ndarray | None
    shared: np.ndarray | None = None
    diagonal: bool = True

    @property
    def sequences(self) -> int:
        return self.roles.shape[0] if self.offsets is None else len(self.offsets) - 1

    def expected(self) -> AngleConcentration:
        return angle_concentration_reference(
            self.exact, self.offsets, self.roles, shared_rows=self.shared, diagonal=self.diagonal
        )  # fmt: skip

    def shared_sum(self) -> tuple[np.ndarray, int]:
        """float32 sum of the shared rows and their count."""
        unit = unit_rows(np.asarray(self.shared, dtype=np.float64))
        return unit.sum(axis=0).astype(np.float32), int((unit != 0).any(axis=1).sum())


def stored(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """`values` in storage (uint16 for bfloat16), and the float64 numbers that the storage holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            array = values.astype(dtype)
            return array, array.astype(np.float64)
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        finite = ((bits + 0x8000) >> 16).astype(np.uint16)  # to the next number; ties do not matter here
        special = np.where(np.isnan(values), 0x7FC0, bits >> 16).astype(np.uint16)
    stored = np.where(np.isfinite(values), finite, special)
    return stored, (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def random_case(
    rng: np.random.Generator,
    *,
    width: int,
    lengths: list[int],
    dtype: str = "float32",
    padded: bool = False,
    shared: int = 0,
    diagonal: bool = True,
    common: float = 1.0,
    runs: bool = True,
    zero_rows: float = 0.0,
    bad_rows: float = 0.0,
    extreme: bool = False,
    invalid_roles: float = 0.0,
    margin: int = 0,
    prefix: bool = True,
    offsets_dtype: str = "int64",
) -> Case:
    """Sequences of `lengths` rows around a common direction; `margin` rows at both ends belong to no sequence."""
    if padded:
        length = max(lengths, default=0)
        rows = length * len(lengths)
    else:
        rows = sum(lengths) + 2 * margin
    direction = rng.standard_normal(width)
    values = rng.standard_normal((rows, width)) + common * direction
    if extreme:
        span = 4 if dtype == "float16" else 35
        values = values * 10.0 ** rng.integers(-span, span, size=(rows, 1))
        values = np.clip(values, -60000, 60000) if dtype == "float16" else np.clip(values, -1e38, 1e38)
    values[rng.random(rows) < zero_rows] = 0.0
    bad = rng.random(rows) < bad_rows
    values[bad, rng.integers(0, width, size=rows)[bad]] = rng.choice([np.nan, np.inf, -np.inf], size=int(bad.sum()))
    hidden, exact = stored(values.astype(np.float64), dtype)

    kinds = ROLES if prefix else np.array([0, 2], dtype=np.int8)
    roles = rng.choice(kinds, size=rows)
    offsets = None
    if padded:
        roles = roles.reshape(len(lengths), length)
        for b, n in enumerate(lengths):
            roles[b, : roles.shape[1] - n] = 0  # left-padded
        hidden, exact = (a.reshape(len(lengths), length, width) for a in (hidden, exact))
    else:
        offsets = (margin + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])).astype(offsets_dtype)
        if runs:
            for start, stop in itertools.pairwise(offsets):
                cut = np.sort(rng.integers(start, stop + 1, size=2))
                roles[start : cut[0]] = 1 if prefix else 2
                roles[cut[0] : cut[1]] = 2
                roles[cut[1] : stop] = 0
    if invalid_roles:
        wrong = rng.random(roles.shape) < invalid_roles
        roles[wrong] = rng.choice(np.array([-128, -1, 3, 127], dtype=np.int8), size=int(wrong.sum()))
    return Case(
        hidden=hidden, dtype=dtype, exact=exact, roles=roles, offsets=offsets,
        shared=rng.standard_normal((shared, width)) + common * direction if shared else None,
        diagonal=diagonal,
    )  # fmt: skip


def assert_matches(
    case: Case,
    values: np.ndarray,
    counts: np.ndarray,
    directions: np.ndarray | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> None:
    """The results are the oracle's: values within `tolerance`, counts and flags exactly, NaN where it has NaN."""
    expected = case.expected()
    np.testing.assert_array_equal(counts[0], expected.status, err_msg="status")
    np.testing.assert_array_equal(counts[1], expected.question_tokens, err_msg="question_tokens")
    np.testing.assert_array_equal(counts[2], expected.prefix_tokens, err_msg="prefix_tokens")
    for name, row in zip(("intra", "inter", "score", "whole"), values, strict=True):
        np.testing.assert_allclose(row, getattr(expected, name), rtol=0, atol=tolerance, err_msg=name)
    if directions is not None:
        with_diagonal = dataclasses.replace(case, diagonal=True).expected().intra
        long_enough = np.nan_to_num(with_diagonal) > 1e-6  # else the sum is rounding alone
        np.testing.assert_allclose(
            directions[long_enough], expected.directions[long_enough], rtol=0, atol=VECTOR_TOLERANCE
        )
        undefined = (expected.question_tokens == 0) | (expected.status & BAD != 0)
        assert not directions[undefined].any()


def random_keywords(rng: np.random.Generator) -> dict[str, Any]:
    """Keywords of `random_case`: odd and even widths, empty and one-token sequences, every flag."""

    def pick(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    # Widths of one to four units per thread of the fast CUDA kernel and of several warps.
    width = pick(1, 3, 8, 33, 64, 100, 257, 300, 576, 640, 900, 1100, 2056, 5000, 16384)
    dtype = pick(*DTYPES)
    if dtype == "float32":  # rows of at most 32 KB
        width = min(width, 8192)
    lengths = [int(n) for n in rng.integers(0, pick(2, 6, 60), size=rng.integers(0, 10))]
    return {
        "width": width,
        "lengths": lengths if width <= 1100 else [min(n, 12) for n in lengths[:4]],
        "dtype": dtype,
        "padded": rng.random() < 0.3,
        "shared": pick(0, 0, 5),
        "diagonal": rng.random() < 0.7,
        "runs": rng.random() < 0.7,
        "common": pick(0.0, 1.0, 5.0),
        "zero_rows": pick(0.0, 0.2),
        "bad_rows": pick(0.0, 0.0, 0.02),
        "extreme": rng.random() < 0.3,
        "invalid_roles": pick(0.0, 0.0, 0.02),
        "margin": pick(0, 3),
        "prefix": rng.random() < 0.8,
        "offsets_dtype": pick("int32", "int64"),
    }


# Width, lengths and padding of sequences with many chunks, which many blocks of the joining kernel share.
LONG = (
    (40, [560, 3], False),  # one slice of the columns, two parts of the chunks
    (260, [10, 540], False),  # three slices, two parts
    (40, [1200, 3], False),  # four parts
    (1300, [190], False),  # as many blocks as slices
    (2056, [500], False),  # one part, of more chunks than a warp adds at once
    (2056, [150, 2], False),  # fewer blocks than slices
    (72, [300, 290, 7], True),
)


class Params(ctypes.Structure):
    """csrc/angle/params.h."""

    _fields_ = (
        ("hidden", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("width", ctypes.c_int64),
        ("stride_row", ctypes.c_int64), ("stride_batch", ctypes.c_int64), ("stride_column", ctypes.c_int64),
        ("sequences", ctypes.c_int64), ("rows", ctypes.c_int64), ("length", ctypes.c_int64),
        ("offsets", ctypes.c_void_p), ("offsets_are_64", ctypes.c_int32),
        ("roles", ctypes.c_void_p), ("role_stride_row", ctypes.c_int64), ("role_stride_batch", ctypes.c_int64),
        ("role_scale", ctypes.c_int32), ("shared_sum", ctypes.c_void_p), ("shared_tokens", ctypes.c_int64),
        ("diagonal", ctypes.c_int32), ("values", ctypes.c_void_p), ("counts", ctypes.c_void_p),
        ("directions", ctypes.c_void_p),
    )  # fmt: skip


def params_of(case: Case, first: Any, stride: int, shared: tuple[Any, int], **outputs: Any) -> Params:
    """The arguments of a call; `first`, `shared` and the outputs are addresses (or None)."""
    p = Params(
        hidden=first, dtype=DTYPES.index(case.dtype), width=case.hidden.shape[-1], stride_row=stride,
        stride_column=1, sequences=case.sequences, rows=case.roles.size,
        roles=address(case.roles), role_stride_row=1, role_scale=1, shared_sum=shared[0], shared_tokens=shared[1],
        diagonal=case.diagonal, **outputs,
    )  # fmt: skip
    if case.offsets is None:
        p.length = p.role_stride_batch = case.roles.shape[1]
        p.stride_batch = p.length * stride
    else:
        p.offsets, p.offsets_are_64 = case.offsets.ctypes.data, case.offsets.dtype == np.int64
    return p


def address(array: np.ndarray | None) -> int | None:
    """As PyTorch has it: null without elements."""
    return None if array is None or array.size == 0 else array.ctypes.data


def placed(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The rows in a buffer of NaN, each on a 16-byte boundary; (view, owner)."""
    rows = case.hidden.reshape(-1, case.hidden.shape[-1])
    size = rows.itemsize
    stride = -(-rows.shape[1] * size // 16) * 16 // size
    # The buffer ends with the last element of the last row, so that the sanitizer sees a read beyond it.
    count = max(0, len(rows) - 1) * stride + rows.shape[1]
    owner = np.full(count, 0x7FC0 if rows.dtype == np.uint16 else np.nan, dtype=rows.dtype)
    assert owner.ctypes.data % 16 == 0
    view = np.lib.stride_tricks.as_strided(owner, rows.shape, (stride * size, size))
    view[...] = rows
    return view, owner
