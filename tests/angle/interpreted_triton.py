"""The Triton kernels in Triton's interpreter, without a GPU: test_against_oracle.py runs it with TRITON_INTERPRET=1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from angle_cases import assert_matches, random_case

import gainrl
from gainrl import UserError
from gainrl.angle import library


def test_interpreted_triton_gives_what_the_oracle_gives(need, on_torch):
    need("triton")
    rng = np.random.default_rng(0)
    shapes: list[dict[str, Any]] = [
        {"width": 24, "lengths": [3, 0, 40, 1], "runs": False},
        {"width": 33, "lengths": [5, 30], "padded": True, "dtype": "bfloat16", "weighted": True},
        {"width": 64, "lengths": [30, 2], "dtype": "float16", "shared": 3, "zero_rows": 0.2, "diagonal": False},
        {"width": 17, "lengths": [9, 20], "extreme": True, "invalid_roles": 0.05, "margin": 2},
        {"width": 8, "lengths": [4, 25], "bad_rows": 0.1, "prefix": False, "offsets_dtype": "int32"},
        {"width": 8, "lengths": []},
    ]
    for keywords in shapes:
        case = random_case(rng, **keywords)
        with np.errstate(all="ignore"):  # the interpreter is NumPy; infinity is part of the test
            _, *arrays = on_torch(case, "triton")
        assert_matches(case, *arrays)


def test_interpreted_triton_folds_a_sequence_of_many_chunks_first(monkeypatch, need, on_torch):
    need("triton")
    from gainrl.angle import triton_backend

    monkeypatch.setattr(triton_backend, "_chunks", lambda rows, device: (1, rows))
    case = random_case(np.random.default_rng(1), width=8, lengths=[2, 70, 1], runs=False, zero_rows=0.1)
    with np.errstate(all="ignore"):
        _, *arrays = on_torch(case, "triton")
    assert_matches(case, *arrays)


def test_interpreted_triton_reports_offsets_out_of_order(need):
    need("triton")
    result = gainrl.angle_concentration(
        torch.ones(40, 8), torch.tensor([0, 30, 10, 40]), torch.full((40,), 2, dtype=torch.int8),
        backend="triton", check=False, return_contributions=True,
    )  # fmt: skip
    assert result.status.tolist() == [32, 32, 32]
    assert result.values.isnan().all()
    assert result.contributions.isnan().all()


def test_triton_says_how_wide_it_goes_and_auto_goes_past_it(monkeypatch, need):
    need("triton")
    wide = torch.ones(3, 16385)
    arguments = (wide, torch.tensor([0, 3]), torch.full((3,), 2, dtype=torch.int8))
    with pytest.raises(UserError, match="serves widths up to 16384, not 16385"):
        gainrl.angle_concentration(*arguments, backend="triton")
    monkeypatch.setattr(library, "choose", lambda backend, device: "triton")  # as on a GPU without the module
    assert gainrl.angle_concentration(*arguments).intra.tolist() == [1.0]
