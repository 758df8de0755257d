"""Every backend gives the oracle's answer for every kind of input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from angle_cases import assert_matches, random_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gainrl.angle import reference

BACKENDS = ("torch", "native")


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Keywords of `random_case`: odd and even widths, empty and one-token sequences, every flag."""
    sometimes = st.sampled_from([0.0, 0.0, 0.05, 0.3])
    return st.fixed_dictionaries(
        {
            "width": st.one_of(st.integers(1, 40), st.sampled_from([64, 129, 257, 576, 1100, 4099])),
            "lengths": st.lists(st.one_of(st.integers(0, 3), st.integers(0, 90)), max_size=9),
            "dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
            "padded": st.booleans(),
            "weighted": st.booleans(),
            "shared": st.sampled_from([0, 0, 1, 7]),
            "diagonal": st.booleans(),
            "runs": st.booleans(),
            "prefix": st.booleans(),
            "zero_rows": sometimes,
            "bad_rows": st.sampled_from([0.0, 0.0, 0.02]),
            "extreme": st.booleans(),
            "invalid_roles": st.sampled_from([0.0, 0.0, 0.02]),
            "margin": st.sampled_from([0, 3]),
            "offsets_dtype": st.sampled_from(["int32", "int64"]),
            "common": st.sampled_from([0.0, 1.0, 5.0]),
        }
    )


def property_test(examples: int) -> Any:
    def decorate(test: Any) -> Any:
        fixtures = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return settings(max_examples=examples, deadline=None, suppress_health_check=fixtures, derandomize=True)(
            given(keywords=options(), seed=st.integers(0, 2**32 - 1))(test)
        )

    return decorate


def agrees(keywords: dict[str, Any], seed: int, backend: str, on_torch: Any) -> None:
    case = random_case(np.random.default_rng(seed), **keywords)
    _, *arrays = on_torch(case, backend)
    assert_matches(case, *arrays)


@pytest.mark.parametrize("backend", BACKENDS)
@property_test(40)
def test_any_input_gives_what_the_oracle_gives(backend, keywords, seed, need, on_torch):
    need(backend)
    agrees(keywords, seed, backend, on_torch)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
@property_test(2000)
def test_any_input_gives_what_the_oracle_gives_many_times(backend, keywords, seed, need, on_torch):
    need(backend)
    agrees(keywords, seed, backend, on_torch)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_long_sequence_of_nearly_equal_rows_keeps_its_digits(backend, dtype, need, on_torch):
    """Where a plain float32 sum drifts most: every addition rounds the same way."""
    need(backend)
    rng = np.random.default_rng(0)
    case = random_case(rng, width=24, lengths=[20_000], dtype=dtype, common=300.0, runs=False)
    expected = []
    unit = reference.unit_rows(case.exact)
    question, prefix = (unit[case.roles == role] for role in (2, 1))
    totals = question.sum(axis=0), prefix.sum(axis=0)
    expected = [totals[0] @ totals[0] / len(question) ** 2, totals[0] @ totals[1] / len(question) / len(prefix)]
    result, *_ = on_torch(case, backend, vectors=False)
    found = [float(result.intra[0]), float(result.inter[0])]
    np.testing.assert_allclose(found, expected, rtol=0, atol=reference.TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_error_is_at_most_twice_that_of_the_eager_form_in_the_same_dtype(backend, dtype, need, on_torch):
    need(backend)
    case = random_case(np.random.default_rng(3), width=576, lengths=[160] * 8, dtype=dtype)
    expected = case.expected()
    result, *_ = on_torch(case, backend, vectors=False)
    hidden = torch.from_numpy(case.exact).to(getattr(torch, dtype))
    for b in range(case.sequences):
        rows = slice(int(case.offsets[b]), int(case.offsets[b + 1]))
        unit = torch.nn.functional.normalize(hidden[rows], dim=-1)
        question = unit[torch.from_numpy(case.roles[rows] == 2)]
        eager = float((question.sum(0) ** 2).sum() / len(question) ** 2)
        assert abs(float(result.intra[b]) - expected.intra[b]) <= 2 * abs(eager - expected.intra[b]) + 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_diagonal_can_be_left_out(backend, need, on_torch):
    need(backend)
    case = random_case(np.random.default_rng(5), width=32, lengths=[0, 1, 2, 30], diagonal=False, runs=False)
    _, *arrays = on_torch(case, backend)
    assert_matches(case, *arrays)


def test_interpreted_triton_gives_what_the_oracle_gives(need):
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    need("torch")
    pytest.importorskip("triton", reason="triton is not installed")
    tests = Path(__file__).parent / "interpreted_triton.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
