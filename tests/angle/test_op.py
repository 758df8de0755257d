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


def test_the_readme_equivalent_in_plain_pytorch(hidden):
    result = gainrl.angle_concentration(hidden[:4], torch.tensor([0, 4]), ROLES[:4])
    u = torch.nn.functional.normalize(hidden[:4], dim=-1)
    q, p = u[2:], u[:2]
    torch.testing.assert_close(result.score[0], (q @ q.T).mean() + (q @ p.T).mean())


def test_a_prefix_that_some_sequences_lack_leaves_their_score_undefined(hidden):
    result = gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert result.status.tolist() == [0, int(Status.EMPTY_PREFIX)]
    assert result.score.isnan().tolist() == [False, True]
    assert not result.intra.isnan().any()


def test_without_any_prefix_the_score_is_intra_alone(hidden):
    roles = torch.where(ROLES == 1, 0, ROLES).to(torch.int8)
    result = gainrl.angle_concentration(hidden, OFFSETS, roles)
    assert torch.equal(result.score, result.intra)
    assert result.inter.isnan().all()
    assert result.status.tolist() == [int(Status.EMPTY_PREFIX)] * 2


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_shared_prefix_gives_what_the_same_rows_in_each_sequence_give(backend, hidden, need):
    need(backend)
    first = torch.randn(5, 16)
    prefix = gainrl.shared_prefix(first, backend=backend)
    assert (prefix.sum.dtype, prefix.sum.shape, prefix.tokens) == (torch.float32, (16,), 5)
    found = gainrl.angle_concentration(
        hidden[4:], torch.tensor([0, 2]), ROLES[4:], shared_prefix=prefix, backend=backend
    )
    whole = torch.cat([first, hidden[4:]])
    roles = torch.cat([torch.ones(5, dtype=torch.int8), ROLES[4:]])
    expected = gainrl.angle_concentration(whole, torch.tensor([0, 7]), roles, backend=backend)
    torch.testing.assert_close(found.values, expected.values, atol=1e-6, rtol=0)
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


def test_the_offset_by_one_norm_is_folded_in(hidden):
    weight = torch.randn(16)
    folded = gainrl.angle_concentration(hidden, OFFSETS, ROLES, norm_weight=weight, norm_offset=1.0)
    normalised = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight)
    plain = gainrl.angle_concentration(normalised, OFFSETS, ROLES)
    torch.testing.assert_close(folded.values, plain.values, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": torch.zeros(6, 16, dtype=torch.float64)}, "hidden has dtype float64; it must be one of float32"),
        ({"hidden": torch.zeros(2, 3, 16)}, r"hidden has shape \(2, 3, 16\); with cu_seqlens it must be packed"),
        ({"cu_seqlens": None}, r"hidden has shape \(6, 16\); without cu_seqlens it must be padded"),
        ({"cu_seqlens": torch.tensor([0.0, 6.0])}, "cu_seqlens has dtype float32"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, r"cu_seqlens has shape \(0,\)"),
        (
            {"token_role": torch.zeros(5, dtype=torch.int8)},
            r"token_role has shape \(5,\); for hidden",
        ),
        ({"token_role": torch.zeros(6, dtype=torch.int64)}, "token_role has dtype int64; it must be one of int8"),
        ({"token_role": torch.zeros(6, dtype=torch.int8, device="meta")}, "token_role is on meta and hidden on cpu"),
        ({"norm_weight": torch.ones(15)}, r"norm_weight has shape \(15,\); hidden has width 16"),
        ({"shared_prefix": (torch.zeros(16), 3)}, "shared_prefix is a tuple"),
        ({"shared_prefix": SharedPrefix(torch.zeros(8), 3)}, r"shared_prefix.sum has shape \(8,\)"),
        ({"shared_prefix": SharedPrefix(torch.zeros(16), -1)}, "shared_prefix.tokens is -1"),
        ({"backend": "cuda"}, "backend is 'cuda'; it must be one of auto, native"),
        ({"cu_seqlens": [0, 6]}, "cu_seqlens is a list; it must be a torch tensor or an array with __dlpack__"),
    ],
)
def test_a_mistake_is_an_error_that_names_argument_and_values(hidden, changed, message):
    arguments = {"hidden": hidden, "cu_seqlens": OFFSETS, "token_role": ROLES, **changed}
    with pytest.raises(UserError, match=message):
        gainrl.angle_concentration(**arguments)


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("offsets", [[0, 5, 3], [-1, 4, 6], [0, 4, 7]])
def test_offsets_out_of_order_raise_or_are_reported(hidden, offsets, backend, need):
    need(backend)
    arguments = (hidden, torch.tensor(offsets), ROLES)
    with pytest.raises(UserError, match="cu_seqlens must not decrease"):
        gainrl.angle_concentration(*arguments, backend=backend)
    result = gainrl.angle_concentration(
        *arguments, backend=backend, check=False, return_directions=True, return_contributions=True
    )
    assert result.status.tolist() == [int(Status.INVALID_OFFSETS)] * 2
    assert result.values.isnan().all()
    assert result.contributions.isnan().all()
    assert not result.directions.any()


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_role_out_of_range_raises_or_is_reported(hidden, backend, need):
    need(backend)
    roles = ROLES.clone()
    roles[5] = 7
    with pytest.raises(UserError, match=r"role other than 0 .* in sequence 1"):
        gainrl.angle_concentration(hidden, OFFSETS, roles, backend=backend)
    result = gainrl.angle_concentration(hidden, OFFSETS, roles, backend=backend, check=False)
    assert result.status[0] == 0
    assert result.status[1] & Status.INVALID_ROLE
    assert result.values[:, 1].isnan().all()


def test_a_shared_prefix_with_nan_is_refused(hidden):
    hidden[2, 3] = float("nan")
    with pytest.raises(UserError, match="must be finite in every row"):
        gainrl.shared_prefix(hidden)


def test_a_named_backend_never_falls_back(hidden):
    with pytest.raises(UserError, match="backend 'triton' cannot serve cpu tensors"):
        gainrl.angle_concentration(hidden, OFFSETS, ROLES, backend="triton")


def test_auto_says_once_what_it_chose(hidden, caplog):
    backends._automatic.cache_clear()
    with caplog.at_level(logging.INFO, "gainrl.angle"):
        for _ in range(3):
            gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert len(caplog.records) == 1
    assert "on cpu uses the" in caplog.text


def test_without_the_compiled_module_torch_serves_and_says_why(hidden, caplog, monkeypatch):
    backends._automatic.cache_clear()
    monkeypatch.setattr(backends, "native_module", lambda: "there is no compiled module")
    with caplog.at_level(logging.WARNING, "gainrl.angle"):
        result = gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert "uses the torch backend; not native: there is no compiled module" in caplog.text
    assert gainrl.available_backends()["native"] == "there is no compiled module"
    assert result.intra.isfinite().all()
    backends._automatic.cache_clear()
    backends._native_cuda.cache_clear()  # asked by available_backends while there was no module


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
        (hidden, OFFSETS, ROLES, None, 0, None, 0.0, True, 7, "auto", True),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", ["auto", "native", "triton", "torch", "reference"])
def test_meta_tensors_have_the_shapes_of_real_ones(backend, hidden):
    real = gainrl.angle_concentration(hidden, OFFSETS, ROLES, return_directions=True, return_contributions=True)
    meta = gainrl.angle_concentration(
        hidden.to("meta"), OFFSETS.to("meta"), ROLES.to("meta"), return_directions=True, return_contributions=True,
        backend=backend,
    )  # fmt: skip
    for name in ("values", "counts", "directions", "contributions", "score", "status"):
        a, b = getattr(real, name), getattr(meta, name)
        assert (a.shape, a.dtype, b.device.type) == (b.shape, b.dtype, "meta")


def test_autocast_leaves_the_op_alone(hidden):
    expected = gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert torch.equal(found.values.nan_to_num(9), expected.values.nan_to_num(9))


class ThroughDLPack:
    """An array of some other framework: nothing but the protocol."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_anything_with_dlpack_is_accepted_without_a_copy(hidden, dtype, backend, need):
    need(backend)
    hidden = hidden.to(dtype)
    weight = torch.rand(16)
    expected = gainrl.angle_concentration(
        hidden, OFFSETS, ROLES, norm_weight=weight, backend=backend, return_contributions=True
    )
    wrapped = [ThroughDLPack(t) for t in (hidden, OFFSETS, ROLES)]
    found = gainrl.angle_concentration(
        *wrapped, norm_weight=ThroughDLPack(weight), backend=backend, return_contributions=True
    )
    assert isinstance(found.values, np.ndarray)
    np.testing.assert_array_equal(found.values, expected.values.numpy())
    np.testing.assert_array_equal(found.contributions, expected.contributions.numpy())


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


def test_arrays_of_the_other_byte_order_are_refused(hidden, need):
    need("native")
    rows = hidden.numpy()
    with pytest.raises(UserError, match="byte order"):
        gainrl.angle_concentration(rows.astype(rows.dtype.newbyteorder()), np.array([0, 6]), np.full(6, 2, np.int8))


def test_the_op_works_on_numpy_where_torch_is_not_installed(need):
    need("native")
    script = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
import numpy as np
import gainrl
rows = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
result = gainrl.angle_concentration(rows, np.array([0, 5]), np.array([1, 1, 2, 2, 2], dtype=np.int8))
u = rows / np.linalg.norm(rows, axis=1, keepdims=True)
expected = (u[2:] @ u[2:].T).mean() + (u[2:] @ u[:2].T).mean()
assert abs(result.score[0] - expected) < 1e-6
assert gainrl.available_backends()["native"] == "ok"
assert "torch does not import" in gainrl.available_backends()["torch"]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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
