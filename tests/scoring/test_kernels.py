"""The forward pass's own CPU kernels equal their formulas in float64; modules that borrow them are as before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.scoring import AngleScorer, ScoringPrompt, kernels
from gainrl.scoring.fused import FusedLayers

pytestmark = pytest.mark.skipif(
    isinstance(native_module(), str), reason="native: the forward kernels are part of the compiled module"
)

# Of a result whose terms are of order 1: rounding of the inputs' dtype, and of weights to it in the second product.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def expected(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shared: tuple[Tensor, Tensor] | None,
    lengths: list[int],
    scale: float,
    softcap: float,
    window: int,
) -> Tensor:
    """The attention of `kernels.attention` by its definition, one sequence and matrix at a time, in float64."""
    repeat = query.shape[0] // key.shape[0]
    results, first = [], 0
    for length in lengths:
        rows = slice(first, first + length)
        first += length
        q, k, v = query[:, rows].double(), key[:, rows].double(), value[:, rows].double()
        if shared is not None:
            k, v = torch.cat([shared[0].double(), k], 1), torch.cat([shared[1].double(), v], 1)
        logits = q @ k.repeat_interleave(repeat, 0).transpose(1, 2) * scale
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        own = torch.arange(k.shape[1] - length, k.shape[1])[:, None]
        seen = torch.arange(k.shape[1])[None]
        allowed = (seen <= own) & ((seen > own - window) if window else True)
        weights = logits.masked_fill(~allowed, float("-inf")).softmax(-1)
        results.append((weights @ v.repeat_interleave(repeat, 0)).transpose(0, 1))
    return torch.cat(results)


def states(generator: torch.Generator, dtype: torch.dtype, heads: int, rows: int, width: int) -> Tensor:
    """(heads, rows, width), with the rows' heads side by side in memory, as models make them, amid other memory."""
    wide = torch.randn(rows, heads, width + 3, generator=generator).to(dtype)
    return wide[:, :, 1 : width + 1].transpose(0, 1)


CASES = [
    # heads per key head, key heads, width, value width, lengths, shared, softcap, window
    (3, 3, 64, 64, [62, 62, 7, 0, 31], 87, 0.0, 0),
    (1, 1, 1, 1, [1], 0, 0.0, 0),
    (4, 2, 33, 17, [5, 1, 40, 40], 1, 0.0, 0),
    (2, 1, 80, 96, [30, 600], 300, 0.0, 0),
    (1, 4, 16, 32, [100, 3], 20, 5.0, 0),
    (7, 1, 24, 24, [64, 9], 50, 0.0, 7),
    (2, 2, 40, 40, [700], 0, 3.0, 130),
    (5, 1, 8, 200, [13, 290], 15, 0.0, 1),
    (1, 2, 128, 128, [1200], 40, 0.0, 0),
]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@torch.inference_mode()
def test_attention_equals_its_definition(case: Any, dtype: torch.dtype) -> None:
    group, kv_heads, width, value_width, lengths, shared, softcap, window = case
    generator = torch.Generator().manual_seed(len(lengths) * 1000 + width)
    rows = sum(lengths)
    query = states(generator, dtype, group * kv_heads, rows, width)
    key = states(generator, dtype, kv_heads, rows, width)
    value = states(generator, dtype, kv_heads, rows, value_width)
    before = None
    if shared:
        before = (
            states(generator, dtype, kv_heads, shared, width),
            states(generator, dtype, kv_heads, shared, value_width),
        )
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    scale = width**-0.5
    given = kernels.attention(query, key, value, before, offsets, scale=scale, softcap=softcap, window=window)
    assert given is not None
    wanted = expected(query, key, value, before, lengths, scale, softcap, window)
    assert given.shape == wanted.shape
    assert float((given.double() - wanted).abs().max()) <= TOLERANCE[dtype]


@torch.inference_mode()
def test_attention_does_not_depend_on_threads_or_neighbours() -> None:
    generator = torch.Generator().manual_seed(5)
    query, key, value = (states(generator, torch.bfloat16, heads, 300, 64) for heads in (6, 2, 2))
    offsets = torch.tensor([0, 100, 100, 250, 300])

    def attend(first: int, last: int, bounds: Tensor) -> Tensor:
        parts = (states_[:, first:last] for states_ in (query, key, value))
        result = kernels.attention(*parts, None, bounds, scale=0.125, softcap=0.0, window=0)  # type: ignore[misc]
        assert result is not None
        return result

    together = attend(0, 300, offsets)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(attend(0, 300, offsets), together)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(attend(100, 250, torch.tensor([0, 150])), together[100:250])


@pytest.mark.parametrize("softcap", [0.0, 5.0])
@torch.inference_mode()
def test_non_finite_tokens_stay_in_their_sequence(softcap: float) -> None:
    generator = torch.Generator().manual_seed(6)
    query, key, value = (states(generator, torch.float32, 2, 60, 16) for _ in range(3))
    bounds = torch.tensor([0, 20, 60])
    clean = kernels.attention(query, key, value, None, bounds, scale=1.0, softcap=softcap, window=0)
    key[:, 30] = float("nan")
    spoilt = kernels.attention(query, key, value, None, bounds, scale=1.0, softcap=softcap, window=0)
    assert clean is not None
    assert spoilt is not None
    assert torch.equal(spoilt[:20], clean[:20])
    assert spoilt[30:].isnan().all()


@torch.inference_mode()
def test_minus_infinity_weighs_nothing_whichever_block_it_is_in() -> None:
    """A shared token of logit -infinity, alone in its block; and a row that sees nothing else."""
    one = torch.ones(1, 1, 1)
    never = torch.full((1, 1, 1), float("-inf"))
    bounds = torch.tensor([0, 1])
    seen = kernels.attention(one, one, one, (never, one), bounds, scale=1.0, softcap=0.0, window=0)
    nothing = kernels.attention(one, never, one, (never, one), bounds, scale=1.0, softcap=0.0, window=0)
    assert seen is not None
    assert nothing is not None
    assert seen.item() == 1.0
    assert nothing.isnan().all()


@torch.inference_mode()
def test_arguments_that_do_not_fit_are_not_served() -> None:
    state = torch.randn(2, 6, 8)
    good = torch.tensor([0, 6])
    options = {"scale": 1.0, "softcap": 0.0, "window": 0}
    assert kernels.attention(state, state[:, :5], state, None, good, **options) is None
    assert kernels.attention(state, state[..., :4], state, None, good, **options) is None
    assert kernels.attention(state[:1], state, state, None, good, **options) is None
    for bounds in (torch.tensor([0, 5]), torch.tensor([0, 7]), good.int()):
        with pytest.raises(ValueError, match="offsets must be"):
            kernels.attention(state, state, state, None, bounds, **options)
    assert kernels.rms_norm(state, torch.ones(1), 0.0, 1e-5) is None
    assert kernels.silu_mul(state, state[:, :5]) is None
    assert kernels.add_(state, state[:, :5]) is None
    assert kernels.add_rms_norm(state, state, torch.ones(7), 0.0, 1e-5, state.clone()) is None
    for cosine in (torch.ones(2, 7), torch.ones(6, 8), torch.ones(2, 8).bfloat16()):
        assert kernels.rotate_(state, cosine, cosine) is None
    assert kernels.rotate_(state[..., :7].contiguous(), torch.ones(2, 7), torch.ones(2, 7)) is None


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [1, 15, 64, 576, 1000])
@torch.inference_mode()
def test_norm_and_gate_equal_their_definitions(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    x, other = (torch.randn(37, width, generator=generator).mul(4).to(dtype) for _ in range(2))
    weight = torch.randn(width, generator=generator).to(dtype)
    kept = x.clone()
    given = kernels.rms_norm(x, weight, 1.0, 1e-5)
    exact = x.double() / torch.sqrt(x.double().square().mean(-1, keepdim=True) + 1e-5) * (weight.double() + 1)
    assert given is not None
    assert torch.equal(x, kept)
    torch.testing.assert_close(given.double(), exact.to(dtype).double(), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    exact = torch.nn.functional.silu(x.double()) * other.double()
    gated = kernels.silu_mul(x, other)
    assert gated is not None
    assert torch.equal(x, kept)
    torch.testing.assert_close(gated.double(), exact.to(dtype).double(), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("width", [2, 30, 64, 72, 578])
@torch.inference_mode()
def test_sums_and_rotations_equal_their_definitions(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    x, y = (torch.randn(37, width, generator=generator).mul(4).to(dtype) for _ in range(2))
    weight = torch.randn(width, generator=generator).to(dtype)
    kept, normed = x.clone(), torch.empty_like(x)
    total = kernels.add_rms_norm(x, y, weight, 0.5, 1e-5, normed)
    assert total is not None
    assert torch.equal(total, x + y)
    assert torch.equal(normed, kernels.rms_norm(total, weight, 0.5, 1e-5))
    assert torch.equal(x, kept)
    assert kernels.add_(x, y) is x
    assert torch.equal(x, total)
    assert kernels.rms_norm(x, weight, 0.5, 1e-5, out=x) is x
    assert torch.equal(x, normed)
    states = torch.randn(11, 3, width, generator=generator).to(dtype)
    cosine, sine = (torch.randn(11, width, generator=generator).to(dtype) for _ in range(2))
    low, high = states.double().chunk(2, -1)
    turned = torch.cat([-high, low], -1)
    exact = states.double() * cosine.double()[:, None] + turned * sine.double()[:, None]
    assert kernels.rotate_(states, cosine, sine) is states
    torch.testing.assert_close(states.double(), exact, rtol=torch.finfo(dtype).eps, atol=2e-6)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@torch.inference_mode()
def test_extreme_values_of_the_gate(dtype: torch.dtype) -> None:
    values = torch.tensor(
        [0.0, -0.0, 1e-4, -1e-4, 89.0, -89.0, 500.0, -500.0, 6e4, -6e4, -3e38, np.inf, -np.inf, np.nan]
    ).to(dtype)
    gate = values.repeat(3)  # more than one vector
    given = kernels.silu_mul(gate.clone(), torch.ones_like(gate))
    wanted = torch.nn.functional.silu(gate.double()).to(dtype)
    assert given is not None
    torch.testing.assert_close(given, wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-30, equal_nan=True)


@pytest.mark.full
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_other_instruction_sets(isa: str) -> None:
    """The same tests with a lower instruction set, in a process of its own."""
    if os.environ.get("GAINRL_CPU_ISA"):
        pytest.skip("native: already in such a process")
    environment = {**os.environ, "GAINRL_CPU_ISA": isa, "GAINRL_REQUIRE": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "definition or extreme"]
    done = subprocess.run([*command, str(Path(__file__))], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no call is served by the kernels."""
    return lambda: monkeypatch.setattr(kernels, "_serve", lambda *tensors: None)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Gemma2", "Mistral"])
def test_scores_are_those_of_torch(
    kind: str, make_model: Callable[..., Any], tokenizer: Any, torch_only: Callable[[], None]
) -> None:
    """Behind a prefix and without, prompts of several lengths."""
    model = make_model(kind)
    prompts = [ScoringPrompt(f"Read this. {'Add 12 to 30. ' * n}How many?", "How many?") for n in (1, 1, 4, 9)]
    fast = AngleScorer(model, tokenizer).score(prompts)
    torch_only()
    slow = AngleScorer(model, tokenizer).score(prompts)
    np.testing.assert_allclose(fast.score, slow.score, atol=2e-6)


def test_the_model_is_as_before(make_model: Callable[..., Any], tokenizer: Any) -> None:
    """Norms and gates are found, run while scoring with their hooks, and are given back, after an error too."""
    model = make_model("Llama")
    with torch.inference_mode():
        fused = FusedLayers(model)
    assert len(fused) == 2 * (2 + 1 + 1) + 1  # of each layer two norms, the gate and the whole, and the last norm
    called: list[str] = []
    norm = model.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: called.append("norm"))

    def fail() -> None:
        with fused.installed():
            assert "forward" in vars(norm)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any("forward" in vars(module) for module in model.modules())
    AngleScorer(model, tokenizer).score([ScoringPrompt("How many?", "How many?")])
    assert called
    assert not any("forward" in vars(module) for module in model.modules())


class MeanNorm(torch.nn.Module):
    """By the mean magnitude, not by the root of the mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(32)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight


class PairNorm(torch.nn.RMSNorm):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class ScalarNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(1)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Gate(torch.nn.Module):
    def __init__(self, *, swapped: bool = False, limit: float = float("inf")) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48)
        self.down_proj, self.act_fn = torch.nn.Linear(48, 32), torch.nn.SiLU()
        self.swapped, self.limit = swapped, limit

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x).clamp(-self.limit, self.limit)
        if self.swapped:
            gate, up = up, gate
        return self.down_proj(self.act_fn(gate) * up)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (torch.nn.RMSNorm(32, eps=1e-5), 1),
        (torch.nn.RMSNorm(2048, eps=1e-6).bfloat16(), 1),
        (torch.nn.LayerNorm(4096, bias=False).bfloat16(), 0),  # centred rows hide the mean that it takes away
        (MeanNorm(), 0),
        (ScalarNorm(), 0),
        (PairNorm(32, eps=1e-5), 0),
        (Gate(), 1),
        (Gate().bfloat16(), 1),
        (Gate(swapped=True), 0),
        (torch.nn.ModuleList([Gate(), Gate(limit=50.0)]), 1),  # of one class, and only one is clamped
    ],
    ids=lambda value: value._get_name() if isinstance(value, torch.nn.Module) else None,
)
@torch.inference_mode()
def test_modules_that_only_look_alike_are_left_alone(module: torch.nn.Module, found: int) -> None:
    assert len(FusedLayers(module)) == found


@torch.inference_mode()
def test_hooks_and_keywords_work_as_before() -> None:
    """A hook on the activation steers, a hook on the gate's projection sees its output, keywords are passed on."""
    gate = Gate()
    rows = torch.randn(1, 3, 32)
    kept: list[Tensor] = []
    gate.gate_proj.register_forward_hook(lambda module, given, output: kept.append(output))
    fused = FusedLayers(torch.nn.ModuleList([gate]))
    assert kept == [], "trying a module does not run its hooks"
    with fused.installed():
        torch.testing.assert_close(gate(rows), gate(x=rows))
        assert torch.equal(kept[0], torch.nn.functional.linear(rows, gate.gate_proj.weight, gate.gate_proj.bias))
        gate.act_fn.register_forward_hook(lambda module, given, output: output * 0)
        torch.testing.assert_close(gate(rows), gate.down_proj.bias.expand(1, 3, 32))
