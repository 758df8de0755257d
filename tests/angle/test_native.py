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
from angle_cases import assert_matches, random_case

import gainrl
from gainrl import Status
from gainrl.angle.backends import native_module

DTYPES = ["float32", "float16", "bfloat16"]
TORCH = {name: getattr(torch, name) for name in DTYPES}


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


@pytest.mark.parametrize("dtype", TORCH.values(), ids=DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_views_into_larger_buffers_give_the_same_bits(dtype, offset):
    hidden, offsets, roles = two_sequences(dtype)
    buffer = torch.full((hidden.shape[0] * 2, hidden.shape[1] + 7), float("nan"), dtype=dtype)
    view = buffer[::2, offset : offset + hidden.shape[1]]
    view.copy_(hidden)
    assert torch.equal(call(view, offsets, roles).values, call(hidden, offsets, roles).values)


@pytest.mark.parametrize("dtype", TORCH.values(), ids=DTYPES)
def test_strided_columns_and_reversed_rows_are_read_in_place(dtype):
    hidden, offsets, roles = two_sequences(dtype)
    transposed = hidden.t().contiguous().t()
    expected = call(hidden, offsets, roles, return_contributions=True)
    found = call(transposed, offsets, roles, return_contributions=True)
    assert torch.equal(found.values, expected.values)
    torch.testing.assert_close(found.contributions, expected.contributions, equal_nan=True)
    if dtype == torch.float32:
        flipped = hidden.numpy()[::-1]
        turned = call(flipped, np.array([0, 40, 60]), roles.numpy()[::-1].copy())
        np.testing.assert_allclose(turned.intra[::-1], expected.intra.numpy(), atol=1e-6)


def test_expanded_batches_with_stride_zero_are_read_in_place():
    row = torch.randn(1, 5, 12).expand(3, 5, 12)
    roles = torch.full((3, 5), 2, dtype=torch.int8)
    intra = call(row, None, roles).intra
    assert torch.equal(intra, intra[:1].expand(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 15, 16, 17, 31, 33, 16384, 20001])
def test_every_width_up_to_16384_and_beyond(dtype, width, on_torch):
    case = random_case(np.random.default_rng(width), width=width, lengths=[1, 0, 9, 12], dtype=dtype)
    _, *arrays = on_torch(case, "native")
    assert_matches(case, *arrays)


@pytest.mark.parametrize("dtype", TORCH.values(), ids=DTYPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("diagonal", [True, False])
def test_many_sequences_of_one_row_are_as_those_taken_one_by_one(dtype, shared, diagonal):
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
    mask = torch.ones(64, dtype=torch.bool)
    mask[[7, 30]] = False
    prefix = gainrl.shared_prefix(torch.randn(9, 100, generator=generator)) if shared else None
    for roles in (every[::2], mask):
        options = {"shared_prefix": prefix, "diagonal": diagonal, "check": False}
        together = call(hidden.to(dtype), offsets, roles, **options)
        alone = call(hidden.to(dtype), offsets, roles, return_directions=True, **options)
        torch.testing.assert_close(together.values, alone.values, rtol=0, atol=1e-6, equal_nan=True)
        assert torch.equal(together.counts, alone.counts)


def test_rows_of_any_magnitude_have_their_unit_vector():
    base = torch.tensor([3.0, -4.0, 0.0, 12.0])
    scales = torch.tensor([1.0, 1e37, 1e-37, 2.0**-146, 2.0**120])
    hidden = base * scales[:, None]
    roles = torch.full((5,), 2, dtype=torch.int8)
    result = call(hidden, torch.tensor([0, 3, 5]), roles, return_contributions=True)
    assert result.status.tolist() == [2, 2]
    # 2^-146 keeps three bits of each element, so its direction is a little off.
    torch.testing.assert_close(result.intra, torch.tensor([1.0, 1.0]), atol=1e-2, rtol=0)
    assert abs(float(result.intra[0]) - 1) < 1e-6
    assert result.question_tokens.tolist() == [3, 2]


def test_a_weight_that_overflows_the_row_is_taken_in_double():
    hidden = torch.tensor([[3e38, 1.0, 0.0], [3e38, 1.0, 0.0]])
    weight = torch.tensor([0.0, 1e-30, 1e30])
    result = call(hidden, torch.tensor([0, 2]), torch.tensor([2, 2], dtype=torch.int8), norm_weight=weight)
    assert result.status.tolist() == [int(Status.EMPTY_PREFIX)]
    torch.testing.assert_close(result.intra, torch.ones(1))


def test_nan_and_infinity_stay_in_their_sequence():
    hidden, _, roles = two_sequences(rows=40)
    offsets = torch.tensor([0, 10, 20, 30, 40])
    clean = call(hidden, offsets, roles)
    hidden[12, 3], hidden[25, 0] = float("nan"), float("-inf")
    roles[12], roles[25] = 2, 1
    hit = call(hidden, offsets, roles)
    assert [bool(s & Status.NON_FINITE) for s in hit.status.tolist()] == [False, True, True, False]
    assert hit.values[:, 1:3].isnan().all()
    assert torch.equal(hit.values[:, [0, 3]], clean.values[:, [0, 3]])


def test_ignored_rows_are_neither_read_nor_checked():
    hidden, offsets, roles = two_sequences()
    expected = call(hidden, offsets, roles)
    hidden[roles == 0] = float("nan")
    found = call(hidden, offsets, roles)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.status, expected.status)


def test_more_than_two_to_the_31_elements_are_indexed_in_64_bits():
    """The buffer is virtual: only the rows that have a role are ever touched."""
    width = 4096
    rows = 2**31 // width + 100
    hidden = torch.empty(rows, width, dtype=torch.bfloat16)
    roles = torch.zeros(rows, dtype=torch.int8)
    tail = torch.randn(50, width).bfloat16()
    hidden[-50:] = tail
    roles[-50:] = 2
    roles[-50:-30] = 1
    last = call(hidden, torch.tensor([0, 7, rows - 50, rows]), roles, return_contributions=True)
    alone = call(tail, torch.tensor([0, 50]), roles[-50:])
    assert torch.equal(last.values[:, 2:], alone.values)
    assert last.contributions[-50:].isfinite().all()


def test_results_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(6000, 512, generator=generator).bfloat16()
    roles = torch.randint(0, 3, (6000,), generator=generator, dtype=torch.int8)
    offsets = torch.tensor([0, 5, 4000, 4000, 6000])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            result = call(hidden, offsets, roles, return_directions=True, return_contributions=True)
            found.append((result.values, result.directions, result.contributions))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def test_concurrent_calls_do_not_disturb_each_other():
    calls = [two_sequences(width=200 + i, rows=3000) for i in range(6)]
    expected = [call(*arguments).values for arguments in calls]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for found, wanted in zip(pool.map(lambda a: call(*a).values, calls), expected, strict=True):
                assert torch.equal(found, wanted)


@pytest.mark.parametrize("padded", [False, True])
def test_every_output_is_written_and_nothing_beside_it(padded):
    module = native_module()
    case = random_case(np.random.default_rng(2), width=19, lengths=[3, 0, 7, 1], padded=padded)
    rows, sequences, width, guard = case.roles.size, case.sequences, 19, 64

    def guarded(count, dtype):
        return np.full(count + 2 * guard, 777, dtype=dtype)

    values, counts = guarded(4 * sequences, np.float32), guarded(3 * sequences, np.int32)
    directions, sums = guarded(sequences * width, np.float32), guarded(sequences * width, np.float32)
    contributions = guarded(rows, np.float32)
    length = case.roles.shape[1] if padded else 0
    module.angle_cpu(
        module.AngleParams(
            case.hidden.ctypes.data, 0, width, width, length * width, 1, sequences, rows, length,
            0 if padded else case.offsets.ctypes.data, True, case.roles.ctypes.data, 1, length, 1,
            0, 0, 0, 0, 0.0, True,
            *(array.ctypes.data + guard * 4 for array in (values, counts, directions, sums, contributions)),
        ),
        2,
    )  # fmt: skip
    inner = slice(guard, -guard)
    for array in (values, counts, directions, sums, contributions):
        assert (array[:guard] == 777).all()
        assert (array[-guard:] == 777).all()
        assert not (array[inner] == 777).any()
    assert_matches(
        case, values[inner].reshape(4, -1), counts[inner].reshape(3, -1), directions[inner].reshape(sequences, -1),
        contributions[inner].reshape(case.roles.shape),
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("offsets", [[0, 10, 100, 340, 266], [0, 266, 300], [-5, 266], [0, 200, 100, 266]], ids=str)
def test_offsets_out_of_order_touch_nothing_beside_the_arrays(offsets, threads):
    """Wide rows, so that the call has several tiles, and the one that sees the mistake may be the last."""
    module = native_module()
    rows, width, guard, offsets = 266, 1024, 128, np.array(offsets)
    sequences = len(offsets) - 1
    hidden = np.full((rows + 2 * guard, width), np.nan, dtype=np.float32)
    hidden[guard:-guard] = 1.0
    roles = np.full(rows + 2 * guard, 2, dtype=np.int8)
    values, counts = np.zeros((4, sequences), np.float32), np.zeros((3, sequences), np.int32)
    contributions = np.full(rows + 2 * guard, 777, dtype=np.float32)
    module.angle_cpu(
        module.AngleParams(
            hidden[guard:].ctypes.data, 0, width, width, 0, 1, sequences, rows, 0, offsets.ctypes.data, True,
            roles[guard:].ctypes.data, 1, 0, 1, 0, 0, 0, 0, 0.0, True, values.ctypes.data, counts.ctypes.data, 0, 0,
            contributions[guard:].ctypes.data,
        ),
        threads,
    )  # fmt: skip
    assert (counts[0] == Status.INVALID_OFFSETS).all()
    assert np.isnan(values).all()
    assert np.isnan(contributions[guard:-guard]).all()
    assert (contributions[:guard] == 777).all()
    assert (contributions[-guard:] == 777).all()


@pytest.mark.parametrize("seed", range(24))
def test_calls_of_several_tiles_give_what_the_oracle_gives(seed, on_torch):
    """Sequences that fill, cross and end tiles; widths on both sides of what fits the first-level cache."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([33, 576, 700, 1057, 1536, 2080, 4130]))
    rows, lengths = int(1.2e6 / width), []
    while sum(lengths) < rows and len(lengths) < 14:
        lengths.append(int(rng.choice([0, 1, 2, 7, rng.integers(1, 700)])))
    case = random_case(
        rng,
        width=width,
        lengths=lengths,
        dtype=str(rng.choice(DTYPES)),
        weighted=bool(rng.random() < 0.4),
        shared=int(rng.choice([0, 0, 5])),
        diagonal=bool(rng.random() < 0.7),
        runs=bool(rng.random() < 0.5),
        zero_rows=float(rng.choice([0, 0.2])),
        bad_rows=float(rng.choice([0, 0, 0.002])),
        extreme=bool(rng.random() < 0.4),
        margin=int(rng.choice([0, 3])),
    )
    _, *arrays = on_torch(case, "native")
    assert_matches(case, *arrays)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512bf16"])
def test_every_instruction_set_gives_what_the_oracle_gives(isa):
    """The set is chosen once per process, so each has a process of its own."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from angle_cases import assert_matches, random_case
from gainrl.angle import SharedPrefix, arrays, backends, result
if backends.native_module().cpu_isa() != sys.argv[2]:
    sys.exit(3)
rng = np.random.default_rng(1)
for width in (1, 7, 16, 31, 40, 257, 576):
    for dtype in ("float32", "float16"):
        case = random_case(rng, width=width, lengths=[9, 1, 0, 70], dtype=dtype, weighted=width % 2 == 0)
        found = arrays.angle_concentration_arrays(
            case.hidden, case.offsets, case.roles, shared_prefix=None, norm_weight=case.weight,
            norm_offset=case.weight_offset, diagonal=True, return_directions=True, return_contributions=True,
            backend="native", check=True)
        assert_matches(case, found.values, found.counts, found.directions, found.contributions)
"""
    environment = {**os.environ, "GAINRL_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), isa],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr


def test_bfloat16_instructions_give_what_the_oracle_gives(on_torch):
    for width in (1, 31, 32, 33, 127, 129, 576):
        case = random_case(np.random.default_rng(width), width=width, lengths=[40, 3], dtype="bfloat16")
        _, *arrays = on_torch(case, "native")
        assert_matches(case, *arrays)


def test_arguments_out_of_range_are_refused_by_the_module():
    module = native_module()
    nothing = [0] * 5
    with pytest.raises(ValueError, match="out of range"):
        module.angle_cpu(
            module.AngleParams(0, 9, 4, 4, 0, 1, 1, 1, 0, 0, True, 0, 1, 0, 1, 0, 0, 0, 0, 0.0, True, *nothing), 1
        )
