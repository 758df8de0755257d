"""Random inputs for the op, and the comparison with the oracle's answer.

NumPy alone: the sanitizer build of the emulated kernels is tested in a process without torch.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gainrl.angle.call import BAD
from gainrl.angle.reference import (
    TOLERANCE,
    VECTOR_TOLERANCE,
    ReferenceResult,
    angle_concentration_reference,
    unit_rows,
)

ROLES = np.array([0, 1, 2], dtype=np.int8)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits (uint16) of the bfloat16 numbers next to `values`; ties do not matter here."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nan = np.isnan(values)
    with np.errstate(over="ignore"):
        rounded = ((bits + 0x8000) >> 16).astype(np.uint16)
    infinite = np.isinf(values)
    rounded = np.where(infinite, (bits >> 16).astype(np.uint16), rounded)
    return np.where(nan, np.uint16(0x7FC0), rounded)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Case:
    """One call, as NumPy arrays.  `hidden` is uint16 for bfloat16; `exact` is the same numbers in float64."""

    hidden: np.ndarray
    dtype: str
    exact: np.ndarray
    roles: np.ndarray
    offsets: np.ndarray | None
    weight: np.ndarray | None = None
    weight_offset: float = 0.0
    shared: np.ndarray | None = None
    diagonal: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        return self.roles.shape[0] if self.offsets is None else len(self.offsets) - 1

    def expected(self) -> ReferenceResult:
        return angle_concentration_reference(
            self.exact, self.offsets, self.roles, shared_rows=self.shared, norm_weight=self.weight,
            norm_offset=self.weight_offset, diagonal=self.diagonal,
        )  # fmt: skip

    def shared_sum(self) -> tuple[np.ndarray, int]:
        """float32 sum of the shared rows and their count."""
        multiplier = 1.0 if self.weight is None else self.weight.astype(np.float64) + self.weight_offset
        unit = unit_rows(np.asarray(self.shared, dtype=np.float64) * multiplier)
        return unit.sum(axis=0).astype(np.float32), int((unit != 0).any(axis=1).sum())


def stored(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """`values` in storage (uint16 for bfloat16), and the float64 numbers that the storage holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            bits = to_bfloat16(values)
            return bits, from_bfloat16(bits).astype(np.float64)
        array = values.astype(dtype)
    return array, array.astype(np.float64)


def random_case(
    rng: np.random.Generator,
    *,
    width: int,
    lengths: list[int],
    dtype: str = "float32",
    padded: bool = False,
    weighted: bool = False,
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
        weight=rng.standard_normal(width).astype(np.float32) if weighted else None,
        weight_offset=1.0 if weighted and rng.random() < 0.5 else 0.0,
        shared=rng.standard_normal((shared, width)) + common * direction if shared else None,
        diagonal=diagonal,
    )  # fmt: skip


def assert_matches(
    case: Case,
    values: np.ndarray,
    counts: np.ndarray,
    directions: np.ndarray | None = None,
    contributions: np.ndarray | None = None,
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
    if contributions is not None:
        clear = np.ones(contributions.shape, dtype=bool)
        for b in np.flatnonzero(_mean_with_diagonal(case) < 1e-6):  # the sum is rounding alone, so is the cosine
            if case.offsets is None:
                clear[b] = False
            else:
                clear[case.offsets[b] : case.offsets[b + 1]] = False
        np.testing.assert_allclose(contributions[clear], expected.contributions[clear], rtol=0, atol=VECTOR_TOLERANCE)


def _mean_with_diagonal(case: Case) -> np.ndarray:
    """(B,) mean over the whole sequence, diagonal included: small where its unit vectors cancel."""
    return np.nan_to_num(dataclasses.replace(case, diagonal=True).expected().whole, nan=1.0)
