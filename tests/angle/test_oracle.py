"""Every backend gives the oracle's answer for every kind of input, at the public op."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from angle_cases import DTYPES, random_case, random_keywords

import gainrl
from gainrl.angle import reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ("triton",) if INTERPRETED else ("torch", "native")


def sizes(seed: int) -> dict:
    keywords = random_keywords(np.random.default_rng(seed))
    if INTERPRETED:  # a program of the interpreter is NumPy, and slow
        keywords |= {"width": [8, 17, 33, 64][seed % 4], "lengths": [min(n, 30) for n in keywords["lengths"]]}
    return keywords


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", range(3))
def test_any_input_gives_what_the_oracle_gives(backend, part, need, agrees):
    need(backend)
    for seed in np.random.SeedSequence(part).generate_state(12):
        with np.errstate(all="ignore"):  # the interpreter is NumPy; infinity is part of the test
            agrees(random_case(np.random.default_rng(seed), **sizes(int(seed))), backend)


@pytest.mark.full
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_input_gives_what_the_oracle_gives_many_times(backend, need, agrees):
    need(backend)
    fresh = np.random.SeedSequence()
    print("entropy", fresh.entropy)
    for seed in fresh.generate_state(200 if INTERPRETED else 1500):
        with np.errstate(all="ignore"):
            agrees(random_case(np.random.default_rng(seed), **sizes(int(seed))), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_sequence_of_nearly_equal_rows_keeps_its_digits(backend, dtype, need):
    """Where a plain float32 sum drifts most: every addition rounds the same way."""
    need(backend)
    case = random_case(
        np.random.default_rng(0),
        width=24,
        lengths=[2000 if INTERPRETED else 20_000],
        dtype=dtype,
        common=300.0,
        runs=False,
    )
    unit = reference.unit_rows(case.exact)
    question, prefix = (unit[case.roles == role].sum(axis=0) for role in (2, 1))
    q, p = ((case.roles == role).sum() for role in (2, 1))
    hidden = torch.from_numpy(case.exact).to(getattr(torch, dtype))
    found = gainrl.angle_concentration(
        hidden, torch.from_numpy(case.offsets), torch.from_numpy(case.roles), backend=backend
    )
    expected = [question @ question / q**2, question @ prefix / (q * p)]
    np.testing.assert_allclose(found.values[:2, 0].numpy(), expected, rtol=0, atol=reference.TOLERANCE)


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that interprets Triton")
def test_interpreted_triton_joins_a_sequence_of_many_chunks(monkeypatch, agrees):
    from gainrl.angle import triton_backend

    monkeypatch.setattr(triton_backend, "MOST_CHUNK_ROWS", 1)
    agrees(random_case(np.random.default_rng(1), width=8, lengths=[2, 70, 1], runs=False, zero_rows=0.1), "triton")


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that interprets Triton")
def test_interpreted_triton_reports_offsets_out_of_order():
    roles = torch.full((40,), 2, dtype=torch.int8)
    result = gainrl.angle_concentration(
        torch.ones(40, 8), torch.tensor([0, 30, 10, 40]), roles, backend="triton", check=False
    )
    assert result.status.tolist() == [32, 32, 32]
    assert result.values.isnan().all()


@pytest.mark.skipif(INTERPRETED, reason="this process interprets Triton already")
def test_interpreted_triton_gives_what_the_oracle_gives():
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
