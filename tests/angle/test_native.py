"""The compiled CPU kernels: layouts, magnitudes, threads, instruction sets, and nothing written beside the outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from angle_cases import DTYPES, random_case

import gainrl
from gainrl.angle.backends import native_module


@pytest.fixture(autouse=True)
def _native(need):
    need("native")


def call(hidden, offsets, roles, **options):
    return gainrl.angle_concentration(hidden, offsets, roles, backend="native", **options)


def two_sequences(dtype=torch.float32, width=40, rows=60):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    roles = torch.randint(0, 3, (rows,), generator=generator, dtype=torch.int8)
    return hidden, torch.tensor([0, rows // 3, rows]), roles


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_strided_columns_and_expanded_batches_give_the_same_bits(dtype):
    hidden, offsets, roles = two_sequences(getattr(torch, dtype))
    expected = call(hidden, offsets, roles).values
    for offset in (0, 1, 3):
        buffer = torch.full((hidden.shape[0] * 2, hidden.shape[1] + 7), float("nan"), dtype=hidden.dtype)
        view = buffer[::2, offset : offset + hidden.shape[1]]
        view.copy_(hidden)
        assert torch.equal(call(view, offsets, roles).values, expected)
    assert torch.equal(call(hidden.t().contiguous().t(), offsets, roles).values, expected)
    intra = call(hidden[None, :5].expand(3, 5, 40), None, torch.full((3, 5), 2, dtype=torch.int8)).intra
    assert torch.equal(intra, intra[:1].expand(3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_up_to_16384_and_beyond(dtype, agrees):
    for width in (1, 3, 15, 16, 17, 31, 33, 129, 16384, 20001):
        agrees(random_case(np.random.default_rng(width), width=width, lengths=[1, 0, 9, 12], dtype=dtype), "native")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True])
def test_many_sequences_of_one_row_are_as_those_taken_one_by_one(dtype, shared):
    """Where nothing else is wanted, up to eight of them are finished together; with directions, each by itself."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 100, generator=generator)
    hidden[[3, 8, 15, 22]] *= 0.0
    hidden[[4, 27]] *= 1e-6
    hidden[[10, 11, 40]] = float("nan")
    offsets = torch.tensor([5, *range(5, 40), 40, 44, *range(45, 64)])  # an empty one, a longer one, rows left out
    every = torch.full((128,), 2, dtype=torch.int8)
    every[1::2] = 0  # between the roles: valid ones of nobody
    every[[60, 66]] = torch.tensor([0, 1], dtype=torch.int8)
    every[90] = 7
    prefix = gainrl.shared_prefix(torch.randn(9, 100, generator=generator)) if shared else None
    for diagonal in (True, False):
        options = {"shared_prefix": prefix, "diagonal": diagonal, "check": False}
        batched = call(hidden.to(getattr(torch, dtype)), offsets, every[::2], **options)
        alone = call(hidden.to(getattr(torch, dtype)), offsets, every[::2], return_directions=True, **options)
        torch.testing.assert_close(batched.values, alone.values, rtol=0, atol=1e-6, equal_nan=True)
        assert torch.equal(batched.counts, alone.counts)


def test_rows_of_any_magnitude_have_their_unit_vector():
    base = torch.tensor([3.0, -4.0, 0.0, 12.0])
    hidden = base * torch.tensor([1.0, 1e37, 1e-37, 2.0**-146, 2.0**120])[:, None]
    result = call(hidden, torch.tensor([0, 3, 5]), torch.full((5,), 2, dtype=torch.int8))
    # 2^-146 keeps three bits of each element, so its direction is a little off.
    torch.testing.assert_close(result.intra, torch.tensor([1.0, 1.0]), atol=1e-2, rtol=0)
    assert abs(float(result.intra[0]) - 1) < 1e-6
    assert result.question_tokens.tolist() == [3, 2]


def test_more_than_two_to_the_31_elements_are_indexed_in_64_bits():
    """The buffer is virtual: only the rows that have a role are ever touched."""
    width = 4096
    rows = 2**31 // width + 100
    hidden = torch.empty(rows, width, dtype=torch.bfloat16)
    roles = torch.zeros(rows, dtype=torch.int8)
    hidden[-50:] = torch.randn(50, width).bfloat16()
    roles[-50:] = 2
    roles[-50:-30] = 1
    last = call(hidden, torch.tensor([0, 7, rows - 50, rows]), roles)
    alone = call(hidden[-50:], torch.tensor([0, 50]), roles[-50:])
    assert torch.equal(last.values[:, 2:], alone.values)


def test_results_depend_neither_on_the_number_of_threads_nor_on_concurrent_calls():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(6000, 512, generator=generator).bfloat16()
    roles = torch.randint(0, 3, (6000,), generator=generator, dtype=torch.int8)
    offsets = torch.tensor([0, 5, 4000, 4000, 6000])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(call(hidden, offsets, roles, return_directions=True))
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(6) as pool:
        found += pool.map(lambda _: call(hidden, offsets, roles, return_directions=True), range(12))
    for other in found[1:]:
        assert torch.equal(found[0].values.nan_to_num(7), other.values.nan_to_num(7))
        assert torch.equal(found[0].directions, other.directions)


@pytest.mark.parametrize(
    "offsets", [None, [0, 10, 100, 340, 266], [0, 266, 300], [-5, 266], [0, 200, 100, 266]], ids=str
)
def test_every_output_is_written_and_nothing_beside_it(offsets):
    """Offsets out of order too, on wide rows: the call has several tiles, and the one that sees it may be the last."""
    module, rows, width, guard = native_module(), 266, 1024, 128
    good = offsets is None
    offsets = np.array([0, 10, 10, 266] if good else offsets)
    sequences = len(offsets) - 1
    hidden = np.full((rows + 2 * guard, width), np.nan, dtype=np.float32)
    hidden[guard:-guard] = 1.0
    roles = np.full(rows + 2 * guard, 2, dtype=np.int8)
    outputs = {"values": 4 * sequences, "counts": 3 * sequences, "directions": sequences * width}
    arrays = {
        name: np.full(n + 2 * guard, 777, np.int32 if name == "counts" else np.float32) for name, n in outputs.items()
    }
    p = module.AngleParams()
    p.hidden, p.roles, p.offsets = hidden[guard:].ctypes.data, roles[guard:].ctypes.data, offsets.ctypes.data
    p.dtype, p.width, p.stride_row, p.sequences, p.rows, p.offsets_are_64 = 0, width, width, sequences, rows, True
    for name, array in arrays.items():
        setattr(p, name, array.ctypes.data + 4 * guard)
    module.angle_cpu(p, 2)
    for array in arrays.values():
        assert (array[:guard] == 777).all()
        assert (array[-guard:] == 777).all()
        assert not (array[guard:-guard] == 777).any()
    values = arrays["values"][guard:-guard].reshape(4, -1)
    assert np.isnan(values).all() != good
    if good:
        np.testing.assert_allclose(values[0], [1, np.nan, 1], atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_calls_of_several_tiles_give_what_the_oracle_gives(seed, agrees):
    """Sequences that fill, cross and end tiles; widths on both sides of what fits the first-level cache."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([33, 576, 700, 1057, 1536, 2080, 4130]))
    lengths = [int(rng.choice([0, 1, 2, 7, rng.integers(1, 700)])) for _ in range(14)]
    while sum(lengths) > 1.2e6 / width:
        lengths.pop()
    case = random_case(
        rng, width=width, lengths=lengths, dtype=str(rng.choice(DTYPES)), shared=int(rng.choice([0, 0, 5])),
        runs=bool(rng.random() < 0.5), zero_rows=float(rng.choice([0, 0.2])), extreme=bool(rng.random() < 0.4),
        bad_rows=float(rng.choice([0, 0, 0.002])), margin=int(rng.choice([0, 3])),
    )  # fmt: skip
    agrees(case, "native")


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512bf16"])
def test_every_instruction_set_gives_what_the_oracle_gives(isa):
    """The set is chosen once per process, so each has a process of its own."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch, gainrl
from angle_cases import assert_matches, random_case
from gainrl.angle import backends
if backends.native_module().cpu_isa() != sys.argv[2]:
    sys.exit(3)
rng = np.random.default_rng(1)
for width in (1, 7, 16, 31, 33, 40, 127, 257, 576):
    for dtype in ("float32", "float16", "bfloat16"):
        case = random_case(rng, width=width, lengths=[9, 1, 0, 70], dtype=dtype)
        found = gainrl.angle_concentration(
            torch.from_numpy(case.exact).to(getattr(torch, dtype)), torch.from_numpy(case.offsets),
            torch.from_numpy(case.roles), return_directions=True, backend="native")
        assert_matches(case, found.values.numpy(), found.counts.numpy(), found.directions.numpy())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), isa],
        env={**os.environ, "GAINRL_CPU_ISA": isa}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr


def test_arguments_out_of_range_are_refused_by_the_module():
    module = native_module()
    p = module.AngleParams()
    p.dtype, p.width = 9, 4
    with pytest.raises(ValueError, match="out of range"):
        module.angle_cpu(p, 1)
    with pytest.raises(AttributeError):
        p.no_such_field = 1
