"""The public function: what it accepts, what it refuses, and how it sits in PyTorch."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

import gainrl
from gainrl import SharedPrefix, Status, UserError
from gainrl.angle import backends

ROLES = torch.tensor([1, 1, 2, 2, 0, 2], dtype=torch.int8)
OFFSETS = torch.tensor([0, 4, 6])


@pytest.fixture
def hidden():
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


def equal(a, b):
    return torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_shared_prefix_counts_as_rows_before_every_sequence(hidden, backend, dtype, need):
    need(backend)
    rows, hidden = torch.randn(3, 16).to(dtype), hidden.to(dtype)
    one = torch.ones(6, dtype=torch.int8)
    for prefix in (rows, rows[:1], rows[:0], 0 * rows, torch.cat([rows, -rows]), torch.cat([rows, 1e-3 - rows])):
        shared = gainrl.shared_prefix(prefix, backend=backend)
        found = gainrl.angle_concentration(hidden, OFFSETS, ROLES, shared_prefix=shared, backend=backend)
        p = len(prefix)
        whole = torch.cat([prefix, hidden[:4], prefix, hidden[4:]])
        roles = torch.cat([one[:p], ROLES[:4], one[:p], ROLES[4:]])
        expected = gainrl.angle_concentration(whole, torch.tensor([0, p + 4, 2 * p + 6]), roles, backend="reference")
        torch.testing.assert_close(found.values, expected.values, atol=1e-6, rtol=0, equal_nan=True)
        assert torch.equal(found.counts, expected.counts)


def test_a_boolean_mask_of_padded_rows_gives_the_mean_over_the_whole_sequence(hidden):
    """What training measures: left-padded (B, L, D) with an attention mask, no copy, no gradient."""
    batch = hidden.view(2, 3, 16).requires_grad_()
    mask = torch.tensor([[False, True, True], [True, True, True]])
    result = gainrl.angle_concentration(batch, None, mask)
    assert not result.whole.requires_grad
    for b in range(2):
        u = torch.nn.functional.normalize(batch[b][mask[b]].detach(), dim=-1)
        torch.testing.assert_close(result.whole[b], (u @ u.T).mean())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": torch.zeros(6, 16, dtype=torch.float64)}, "hidden has dtype float64; it must be one of float32"),
        ({"hidden": torch.zeros(2, 3, 16)}, r"hidden has shape \(2, 3, 16\); with cu_seqlens it must be packed"),
        ({"cu_seqlens": None}, r"hidden has shape \(6, 16\); without cu_seqlens it must be padded"),
        ({"cu_seqlens": torch.tensor([0.0, 6.0])}, "cu_seqlens has dtype float32"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, r"cu_seqlens has shape \(0,\)"),
        ({"token_role": torch.zeros(5, dtype=torch.int8)}, r"token_role has shape \(5,\); for hidden"),
        ({"token_role": torch.zeros(6, dtype=torch.int64)}, "token_role has dtype int64; it must be one of int8"),
        ({"token_role": torch.zeros(6, dtype=torch.int8, device="meta")}, "token_role is on meta and hidden on cpu"),
        ({"shared_prefix": (torch.zeros(16), 3)}, "shared_prefix is a tuple"),
        ({"shared_prefix": SharedPrefix(torch.zeros(8), 3)}, r"shared_prefix.sum has shape \(8,\)"),
        ({"backend": "cuda"}, "backend is 'cuda'; it must be one of auto, native"),
        ({"cu_seqlens": [0, 6]}, "is a list; it must be a torch tensor or an array with __dlpack__"),
        ({"backend": "triton"}, "backend 'triton' cannot serve cpu tensors"),  # never another instead
    ],
)
def test_a_mistake_is_an_error_that_names_argument_and_values(hidden, changed, message):
    arguments = {"hidden": hidden, "cu_seqlens": OFFSETS, "token_role": ROLES, **changed}
    with pytest.raises(UserError, match=message):
        gainrl.angle_concentration(**arguments)


def test_a_distributed_tensor_is_told_how_to_become_whole(hidden, tmp_path):
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = distribute_tensor(hidden, init_device_mesh("cpu", (1,)), [Shard(0)])
        with pytest.raises(UserError, match=r"hidden is a DTensor.*pass hidden.full_tensor\(\)"):
            gainrl.angle_concentration(sharded, OFFSETS, ROLES)
        assert gainrl.angle_concentration(sharded.full_tensor(), OFFSETS, ROLES).intra.isfinite().all()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("offsets", [[0, 5, 3], [-1, 4, 6], [0, 4, 7]])
def test_offsets_out_of_order_raise_or_are_reported(hidden, offsets, backend, need):
    need(backend)
    arguments = (hidden, torch.tensor(offsets), ROLES)
    with pytest.raises(UserError, match="cu_seqlens must not decrease"):
        gainrl.angle_concentration(*arguments, backend=backend)
    result = gainrl.angle_concentration(*arguments, backend=backend, check=False, return_directions=True)
    assert result.status.tolist() == [int(Status.INVALID_OFFSETS)] * 2
    assert result.values.isnan().all()
    assert not result.directions.any()


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_role_out_of_range_raises_or_is_reported(hidden, backend, need):
    need(backend)
    roles = ROLES.clone()
    roles[5] = 7
    with pytest.raises(UserError, match=r"role other than 0 .* in sequence 1"):
        gainrl.angle_concentration(hidden, OFFSETS, roles, backend=backend)
    result = gainrl.angle_concentration(hidden, OFFSETS, roles, backend=backend, check=False)
    assert result.status[1] & Status.INVALID_ROLE
    assert result.values[:, 1].isnan().all()


def test_a_shared_prefix_with_nan_is_refused(hidden):
    hidden[2, 3] = float("nan")
    with pytest.raises(UserError, match="must be finite in every row"):
        gainrl.shared_prefix(hidden)


def test_auto_says_once_what_it_chose_and_why(hidden, caplog, monkeypatch):
    backends.unavailable.cache_clear()
    backends.log_once.cache_clear()
    monkeypatch.setattr(backends, "native_module", lambda: "there is no compiled module")
    with caplog.at_level(logging.INFO, "gainrl.angle"):
        for _ in range(3):
            result = gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert [record.getMessage() for record in caplog.records] == [
        "angle concentration on cpu uses the backend torch; not native: there is no compiled module"
    ]
    assert result.intra.isfinite().all()
    assert gainrl.available_backends()["native"] == "there is no compiled module"
    backends.unavailable.cache_clear()


def test_every_backend_says_ok_or_why_not():
    found = gainrl.available_backends()
    assert list(found) == ["native", "native-cuda", "triton", "torch", "reference"]
    assert all(found.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inside torch.compile itself
def test_torch_compile_keeps_the_op_in_one_graph(hidden):
    def scored(h, offsets, roles):
        return gainrl.angle_concentration(h * 2.0, offsets, roles, return_directions=True).score + 1.0

    compiled = torch.compile(scored, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(
        compiled(hidden, OFFSETS, ROLES), scored(hidden, OFFSETS, ROLES), equal_nan=True, rtol=0, atol=1e-6
    )


def test_the_registration_passes_pytorchs_own_check(hidden):
    from gainrl.angle import library  # noqa: F401

    torch.library.opcheck(
        torch.ops.gainrl.angle.default,
        (hidden, OFFSETS, ROLES, None, 0, True, True, "auto", True),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_meta_tensors_have_the_shapes_of_real_ones_and_autocast_changes_nothing(hidden):
    arguments = (hidden, OFFSETS, ROLES)
    real = gainrl.angle_concentration(*arguments, return_directions=True)
    meta = gainrl.angle_concentration(*(x.to("meta") for x in arguments), return_directions=True)
    for name in ("values", "counts", "directions", "score", "status"):
        a, b = getattr(real, name), getattr(meta, name)
        assert (a.shape, a.dtype, b.device.type) == (b.shape, b.dtype, "meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(gainrl.angle_concentration(*arguments).values, real.values)


def test_parameters_inference_mode_and_lazily_negated_tensors_give_the_same_bits(hidden, need):
    need("native")
    expected = gainrl.angle_concentration(hidden, OFFSETS, ROLES).values
    assert equal(gainrl.angle_concentration(torch.nn.Parameter(hidden), OFFSETS, ROLES).values, expected)
    with torch.inference_mode():
        assert equal(gainrl.angle_concentration(hidden.clone(), OFFSETS, ROLES).values, expected)
    negated = torch.complex(torch.zeros_like(hidden), -hidden).conj().imag
    found = gainrl.angle_concentration(negated, OFFSETS, ROLES, return_directions=True)
    assert torch.equal(
        found.directions, gainrl.angle_concentration(hidden, OFFSETS, ROLES, return_directions=True).directions
    )


class ThroughDLPack:
    """An array of some other framework: nothing but the protocol."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_anything_with_dlpack_gives_numpy_arrays(hidden, dtype, backend):
    hidden = hidden.to(dtype)
    expected = gainrl.angle_concentration(hidden, OFFSETS, ROLES, backend=backend, return_directions=True)
    wrapped = [ThroughDLPack(t) for t in (hidden, OFFSETS, ROLES)]
    found = gainrl.angle_concentration(*wrapped, backend=backend, return_directions=True)
    assert isinstance(found.values, np.ndarray)
    np.testing.assert_array_equal(found.values, expected.values.numpy())
    np.testing.assert_array_equal(found.directions, expected.directions.numpy())


def test_numpy_arrays_give_numpy_arrays_also_read_only_and_padded(hidden, need):
    need("native")
    rows = hidden.view(2, 3, 16).numpy()
    rows.flags.writeable = False
    mask = np.array([[False, True, True], [True, True, True]])
    found = gainrl.angle_concentration(rows, None, mask)
    expected = gainrl.angle_concentration(hidden.view(2, 3, 16), None, torch.from_numpy(mask))
    np.testing.assert_array_equal(found.whole, expected.whole.numpy())
    prefix = gainrl.shared_prefix(rows[0])
    assert isinstance(prefix.sum, np.ndarray)
    assert prefix.tokens == 3
    with pytest.raises(UserError, match="hidden has dtype >f4"):
        gainrl.angle_concentration(rows.astype(rows.dtype.newbyteorder()), None, mask)


def test_importing_the_op_imports_neither_torch_nor_the_compiled_module():
    script = "import sys, gainrl.angle; assert not {'torch', 'gainrl._native', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_compiled_module_holds_no_framework_symbol_and_exports_one(need):
    need("native")
    symbols = subprocess.run(
        ["nm", "-D", backends.native_module().__file__], check=True, capture_output=True, text=True
    ).stdout
    defined = [line.split()[-1] for line in symbols.splitlines() if line.split()[-2] not in ("U", "w")]
    assert defined == ["PyInit__native"]
    names = [line.split()[-1] for line in symbols.splitlines()]  # their addresses may well hold "c10"
    assert not [name for name in names if "torch" in name or "c10" in name]
