"""The kernels on a GPU: right, reproducible, capturable, without synchronisation or allocation of their own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from angle_cases import assert_matches, random_case
from test_against_oracle import property_test

import gainrl
from gainrl.angle import reference

pytestmark = pytest.mark.cuda

BACKENDS = ("native", "triton")
REDUCED = os.environ.get("GAINRL_REDUCED_SET") == "1"  # under compute-sanitizer everything is many times slower
EXAMPLES = 6 if REDUCED else 150


def inputs(dtype=torch.bfloat16, width=1536, lengths=(512,) * 16, seed=0):
    generator = torch.Generator(device="cuda").manual_seed(seed)
    rows = sum(lengths)
    hidden = (torch.rand(rows, width, generator=generator, device="cuda") - 0.2).to(dtype)
    roles = torch.randint(0, 3, (rows,), generator=generator, device="cuda", dtype=torch.int8)
    return hidden, torch.tensor([0, *lengths], device="cuda").cumsum(0), roles


@pytest.mark.parametrize("backend", BACKENDS)
@property_test(EXAMPLES)
def test_any_input_gives_what_the_oracle_gives(backend, keywords, seed, need, on_torch):
    need(backend, "cuda")
    case = random_case(np.random.default_rng(seed), **keywords)
    _, *arrays = on_torch(case, backend, device="cuda")
    assert_matches(case, *arrays)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [576, 896, 1536, 2048, 3584, 4096, 8192, 16384, 20000, 577])
def test_every_width_agrees_with_the_cpu(backend, dtype, width, need):
    need(backend, "cuda")
    if backend == "triton" and width > 16384:
        pytest.skip("wider than this backend serves")
    hidden, offsets, roles = inputs(dtype, width, (300, 1, 0, 40, 700))
    found = gainrl.angle_concentration(hidden, offsets, roles, backend=backend, return_directions=True)
    expected = gainrl.angle_concentration(
        hidden.cpu(), offsets.cpu(), roles.cpu(), backend="torch", return_directions=True
    )
    close = {"rtol": 0, "atol": 2 * reference.TOLERANCE, "equal_nan": True}
    torch.testing.assert_close(found.values.cpu(), expected.values, **close)
    assert torch.equal(found.counts.cpu(), expected.counts)
    torch.testing.assert_close(found.directions.cpu(), expected.directions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1, 8])
def test_misaligned_views_and_strided_columns_agree_with_the_cpu(offset, need):
    need("native", "cuda")
    hidden, offsets, roles = inputs(width=600, lengths=(200, 5, 90))
    for view in (hidden[:, offset : offset + 576], hidden[:, offset::2], hidden.t().contiguous().t()):
        found = gainrl.angle_concentration(view, offsets, roles, backend="native", return_contributions=True)
        expected = gainrl.angle_concentration(
            view.cpu(), offsets.cpu(), roles.cpu(), backend="torch", return_contributions=True
        )
        torch.testing.assert_close(found.values.cpu(), expected.values, rtol=0, atol=4e-6, equal_nan=True)
        torch.testing.assert_close(found.contributions.cpu(), expected.contributions, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(512,) * 16, (40_000,), (1,) * 50_000, (7, 0, 9000, 3)])
def test_equal_inputs_give_equal_bits(backend, lengths, need):
    need(backend, "cuda")
    arguments = inputs(width=896, lengths=lengths[:2000] if REDUCED else lengths)
    first = gainrl.angle_concentration(*arguments, backend=backend, return_directions=True)
    for _ in range(5):
        again = gainrl.angle_concentration(*arguments, backend=backend, return_directions=True)
        assert torch.equal(first.values.nan_to_num(7), again.values.nan_to_num(7))
        assert torch.equal(first.directions, again.directions)


def test_a_call_is_two_kernels_and_waits_for_nothing(need):
    need("native", "cuda")
    if REDUCED:
        pytest.skip("the profiler does not run under compute-sanitizer")
    arguments = inputs()
    gainrl.angle_concentration(*arguments, backend="native")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            gainrl.angle_concentration(*arguments, backend="native")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    kernels = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 2, kernels


def test_a_captured_graph_replays_on_new_inputs(need):
    need("native", "cuda")
    hidden, offsets, roles = inputs()
    other, _, _ = inputs(seed=1)
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        gainrl.angle_concentration(hidden, offsets, roles, backend="native")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gainrl.angle_concentration(hidden, offsets, roles, backend="native", return_directions=True)
    for source in (other, hidden.clone()):
        hidden.copy_(source)
        graph.replay()
        expected = gainrl.angle_concentration(hidden, offsets, roles, backend="native", return_directions=True)
        assert torch.equal(captured.values, expected.values)
        assert torch.equal(captured.directions, expected.directions)


def test_streams_and_threads_do_not_disturb_each_other(need):
    need("native", "cuda")
    arguments = [inputs(width=576 + 64 * i, lengths=(300, 20, 700), seed=i) for i in range(6)]
    expected = [gainrl.angle_concentration(*a, backend="native").values for a in arguments]
    torch.cuda.synchronize()
    found: list[torch.Tensor | None] = [None] * len(arguments)

    def work(i: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found[i] = gainrl.angle_concentration(*arguments[i], backend="native").values

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [[0, 300, 100, 600], [-9, 300, 400, 600], [0, 1, 2, 10**9]])
def test_offsets_out_of_order_are_reported_without_synchronising(backend, offsets, need):
    need(backend, "cuda")
    hidden, _, roles = inputs(lengths=(600,), width=576)
    result = gainrl.angle_concentration(
        hidden, torch.tensor(offsets, device="cuda"), roles, backend=backend, return_contributions=True
    )
    assert result.status.tolist() == [int(gainrl.Status.INVALID_OFFSETS)] * 3
    assert result.values.isnan().all()
    assert result.contributions.isnan().all()
    with pytest.raises(gainrl.UserError, match="cu_seqlens must not decrease"):
        gainrl.angle_concentration(hidden, torch.tensor(offsets, device="cuda"), roles, backend=backend, check=True)


def test_torch_compile_keeps_the_op_in_one_graph(need):
    need("native", "cuda")
    if REDUCED:
        pytest.skip("inductor does not compile under compute-sanitizer")
    hidden, offsets, roles = inputs(width=576, lengths=(50, 60))

    def scored(h: torch.Tensor) -> torch.Tensor:
        return gainrl.angle_concentration(h * 2, offsets, roles).score * 3

    torch.testing.assert_close(torch.compile(scored, fullgraph=True)(hidden), scored(hidden), rtol=0, atol=1e-5)


def test_arrays_of_cupy_give_torch_tensors(need):
    need("native", "cuda")
    cupy = pytest.importorskip("cupy")
    rows = cupy.random.rand(30, 64, dtype=cupy.float32)
    roles = cupy.full(30, 2, dtype=cupy.int8)
    result = gainrl.angle_concentration(rows, cupy.asarray([0, 10, 30]), roles)
    assert isinstance(result.intra, torch.Tensor)
    assert result.intra.is_cuda
    expected = gainrl.angle_concentration(rows.get(), np.array([0, 10, 30]), roles.get())
    np.testing.assert_allclose(result.intra.cpu().numpy(), expected.intra, atol=4e-6)


def test_more_than_two_to_the_31_elements_are_indexed_in_64_bits(need):
    need("native", "cuda")
    if REDUCED or torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of cuda memory, and not under compute-sanitizer")
    width = 4096
    rows = 2**31 // width + 5000
    hidden = torch.zeros(rows, width, dtype=torch.bfloat16, device="cuda")
    tail = torch.randn(3000, width, device="cuda").bfloat16()
    hidden[-3000:] = tail
    roles = torch.zeros(rows, dtype=torch.int8, device="cuda")
    roles[-3000:] = 2
    found = gainrl.angle_concentration(
        hidden, torch.tensor([0, rows - 3000, rows], device="cuda"), roles, backend="native"
    )
    alone = gainrl.angle_concentration(tail, torch.tensor([0, 3000], device="cuda"), roles[-3000:], backend="native")
    torch.testing.assert_close(found.intra[1], alone.intra[0], rtol=0, atol=2e-6)
    assert found.question_tokens.tolist() == [0, 3000]
