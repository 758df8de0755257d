"""The kernels on a GPU: right, reproducible, capturable, without synchronisation or allocation of their own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from angle_cases import DTYPES, placed, random_case, random_keywords

import gainrl
from gainrl.angle import reference

pytestmark = [pytest.mark.cuda]

BACKENDS = ("native", "triton")
# Under compute-sanitizer everything is many times slower, and only this project's kernels are watched: what other
# kernels write counts as never written.  The tests of the reduced set make and compare everything on the CPU.
REDUCED = os.environ.get("GAINRL_REDUCED_SET") == "1"
WIDTHS = {"native": (576, 896, 1536, 2048, 3584, 4096, 8192, 16384), "triton": (577, 1536, 16384)}
EVERY_WIDTH = [(backend, dtype, width) for backend in BACKENDS for dtype in DTYPES for width in WIDTHS[backend]]
EVERY_WIDTH.remove(("native", "float32", 16384))
if REDUCED:
    EVERY_WIDTH = [("native", *pair) for pair in zip(DTYPES, (576, 8192, 1536), strict=True)]


def inputs(dtype="bfloat16", width=1536, lengths=(512,) * 16, seed=0, device="cuda"):
    generator = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    hidden = (torch.rand(rows, width, generator=generator) - 0.2).to(getattr(torch, dtype))
    roles = torch.randint(0, 3, (rows,), generator=generator, dtype=torch.int8)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return hidden.to(device), offsets.to(device), roles.to(device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", range(6))  # nearly every input compiles three Triton kernels: for several processes
def test_any_input_gives_what_the_oracle_gives(backend, part, need, agrees):
    need(backend, "cuda")
    for seed in np.random.SeedSequence(part).generate_state(1 if REDUCED else 4 if backend == "triton" else 25):
        keywords = random_keywords(np.random.default_rng(seed))
        case = random_case(np.random.default_rng(seed), **keywords)
        rows, owner = placed(case)
        hidden = torch.from_numpy(owner.view(np.int16) if case.dtype == "bfloat16" else owner).view(
            getattr(torch, case.dtype)
        )
        stride = rows.strides[0] // rows.itemsize
        hidden = hidden.cuda().as_strided(
            case.hidden.shape, (*([stride * case.hidden.shape[1]] if case.offsets is None else []), stride, 1)
        )
        agrees(case, backend, device="cuda", hidden=hidden)


@pytest.mark.parametrize(("backend", "dtype", "width"), EVERY_WIDTH)
def test_every_width_agrees_with_the_cpu(backend, dtype, width, need):
    need(backend, "cuda")
    arguments = inputs(dtype, width, (300, 1, 0, 40, 700), device="cpu")
    found = gainrl.angle_concentration(*(a.cuda() for a in arguments), backend=backend, return_directions=True)
    expected = gainrl.angle_concentration(*arguments, backend="torch", return_directions=True)
    close = {"rtol": 0, "atol": 2 * reference.TOLERANCE, "equal_nan": True}
    torch.testing.assert_close(found.values.cpu(), expected.values, **close)
    assert torch.equal(found.counts.cpu(), expected.counts)
    torch.testing.assert_close(found.directions.cpu(), expected.directions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_partial_last_vector_is_read_to_the_rows_end_and_what_does_not_fit_goes_elsewhere(dtype, need, caplog):
    """573 of 576 columns: rows on 16-byte boundaries, and what lies behind them is NaN."""
    need("native", "cuda")
    hidden, offsets, roles = inputs(dtype, 576, (200, 5, 90, 1), device="cpu")
    hidden[:, 573:] = torch.nan
    rows, close = hidden.cuda(), {"rtol": 0, "atol": 4e-6, "equal_nan": True}
    for view in (
        lambda x: x[:, :573],
        lambda x: x[:, 1:572],
        lambda x: x[:, :570:2],
        lambda x: x[:, :9].t().contiguous().t(),
    ):
        found = gainrl.angle_concentration(view(rows), offsets.cuda(), roles.cuda())
        expected = gainrl.angle_concentration(view(hidden), offsets, roles, backend="torch")
        torch.testing.assert_close(found.values.cpu(), expected.values, **close)
    with pytest.raises(gainrl.UserError, match="that begin on 16-byte boundaries"):
        gainrl.angle_concentration(rows[:, 1:572], offsets.cuda(), roles.cuda(), backend="native")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(512,) * 16, (40_000,), (1,) * 50_000, (7, 0, 9000, 3)])
def test_equal_inputs_give_equal_bits(backend, lengths, need):
    need(backend, "cuda")
    lengths = tuple(min(n, 2000) for n in lengths[:2000]) if REDUCED else lengths
    arguments = inputs(width=896, lengths=lengths)
    first = gainrl.angle_concentration(*arguments, backend=backend, return_directions=True)
    values, directions = first.values.cpu().nan_to_num(7), first.directions.cpu()
    for _ in range(1 if REDUCED else 5):
        again = gainrl.angle_concentration(*arguments, backend=backend, return_directions=True)
        assert torch.equal(values, again.values.cpu().nan_to_num(7))
        assert torch.equal(directions, again.directions.cpu())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_sequence_of_nearly_equal_rows_with_alternating_roles_keeps_its_digits(backend, need):
    """Where a plain float32 sum drifts most: every addition rounds the same way, and no two rows share a role's run."""
    need(backend, "cuda")
    if REDUCED or torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of cuda memory, and not under compute-sanitizer")
    rows, width = 8_000_000, 24  # enough for the longest chunks on the largest GPUs
    generator = torch.Generator(device="cuda").manual_seed(0)
    common = 300.0 * torch.randn(width, generator=generator, device="cuda")
    hidden = (common + torch.randn(rows, width, generator=generator, device="cuda")).bfloat16()
    roles = (1 + torch.arange(rows, device="cuda") % 2).to(torch.int8)
    unit = torch.nn.functional.normalize(hidden.double(), dim=1)
    prefix, question = unit[::2].sum(dim=0), unit[1::2].sum(dim=0)
    found = gainrl.angle_concentration(hidden, torch.tensor([0, rows], device="cuda"), roles, backend=backend)
    expected = torch.stack([question @ question, question @ prefix]) / (rows // 2) ** 2
    torch.testing.assert_close(found.values[:2, 0].double(), expected, rtol=0, atol=reference.TOLERANCE)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # said by PyTorch when it is turned on
@pytest.mark.filterwarnings("ignore:Profiler clears events:UserWarning")
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
    events = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    work = [name for name in events if name != "Activity Buffer Request"]  # the profiler's own
    assert len(work) == 2, work
    assert all("angle_" in name for name in work), work


def test_a_captured_graph_replays_on_new_inputs(need):
    need("native", "cuda")
    hidden, offsets, roles = inputs()
    other, _, _ = inputs(seed=1)
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
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tensors_device_serves_whichever_is_current(backend, need):
    need(backend, "cuda")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    arguments = inputs(width=576, lengths=(30, 40), device="cuda:1")
    with torch.cuda.device(0):
        found = gainrl.angle_concentration(*arguments, backend=backend).values
    expected = gainrl.angle_concentration(*(a.cpu() for a in arguments), backend="torch").values
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=2 * reference.TOLERANCE, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [[0, 300, 100, 600], [-9, 300, 400, 600], [0, 1, 2, 10**9]])
def test_offsets_out_of_order_are_reported_without_synchronising(backend, offsets, need):
    need(backend, "cuda")
    hidden, _, roles = inputs(lengths=(600,), width=576)
    result = gainrl.angle_concentration(hidden, torch.tensor(offsets, device="cuda"), roles, backend=backend)
    assert result.status.cpu().tolist() == [int(gainrl.Status.INVALID_OFFSETS)] * 3
    assert result.values.cpu().isnan().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inside torch.compile itself
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_torch_compile_keeps_the_op_in_one_graph(need):
    need("native", "cuda")
    if REDUCED:
        pytest.skip("inductor does not compile under compute-sanitizer")
    hidden, offsets, roles = inputs(width=576, lengths=(50, 60))

    def scored(h: torch.Tensor) -> torch.Tensor:
        return gainrl.angle_concentration(h * 2, offsets, roles).score * 3

    torch.testing.assert_close(torch.compile(scored, fullgraph=True)(hidden), scored(hidden), rtol=0, atol=1e-5)


def test_more_than_two_to_the_31_elements_are_indexed_in_64_bits(need):
    need("native", "cuda")
    if REDUCED or torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of cuda memory, and not under compute-sanitizer")
    width = 4096
    rows = 2**31 // width + 5000
    hidden = torch.zeros(rows, width, dtype=torch.bfloat16, device="cuda")
    hidden[-3000:] = torch.randn(3000, width, device="cuda").bfloat16()
    roles = torch.zeros(rows, dtype=torch.int8, device="cuda")
    roles[-3000:] = 2
    found = gainrl.angle_concentration(
        hidden, torch.tensor([0, rows - 3000, rows], device="cuda"), roles, backend="native"
    )
    alone = gainrl.angle_concentration(
        hidden[-3000:], torch.tensor([0, 3000], device="cuda"), roles[-3000:], backend="native"
    )
    torch.testing.assert_close(found.intra[1], alone.intra[0], rtol=0, atol=2e-6)
    assert found.question_tokens.tolist() == [0, 3000]
