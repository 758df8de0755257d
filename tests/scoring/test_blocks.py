"""Whole blocks run by the package's own kernels: which are found, that nothing else changes, when they stand back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.scoring import AngleScorer, ScoringPrompt, blocks, kernels
from gainrl.scoring.fused import FusedLayers
from gainrl.scoring.taps import decoder_of

pytestmark = pytest.mark.skipif(
    isinstance(native_module(), str), reason="native: the forward kernels are part of the compiled module"
)

PROMPTS = [ScoringPrompt(f"Read this. {'Add 12 to 30. ' * n}How many?", "How many?") for n in (1, 1, 4, 9)]


@contextmanager
def counted() -> Iterator[list[bool]]:
    """Whether each block that ran inside was run by the kernels."""
    ran: list[bool] = []
    forward = blocks.Block._forward

    def noted(self: blocks.Block, *arguments: Any, **options: Any) -> Tensor | None:
        result = forward(self, *arguments, **options)
        ran.append(result is not None)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks.Block, "_forward", noted)
        yield ran


def found(model: Any) -> int:
    with torch.inference_mode():
        fused = FusedLayers(decoder_of(model))
    return sum(isinstance(fast, blocks.Block) for fast in fused._fast.values())


COMMON = ["Llama", "Mistral", "Qwen2", "Qwen3", "Granite"]
OTHERS = ["Olmo", "Olmo2", "Gemma2", "Phi", "GPTNeoX", "Qwen3Moe", "GptOss", "Cohere"]


@pytest.mark.parametrize("family", COMMON + OTHERS)
def test_blocks_of_the_common_form_are_found_and_no_others(family: str, make_model: Callable[..., Any]) -> None:
    assert found(make_model(family)) == (2 if family in COMMON else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", COMMON)
def test_scores_are_those_of_the_models_own_blocks(
    family: str, dtype: torch.dtype, make_model: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a prefix, which keeps its keys and values from layer to layer, with biases, norms of heads and windows."""
    changes = {"attention_bias": True, "mlp_bias": True} if family == "Llama" else {}
    model = make_model(family, dtype=dtype, **changes)
    with counted() as ran:
        fast = AngleScorer(model, tokenizer).score(PROMPTS)
    assert ran
    assert all(ran)
    monkeypatch.setattr("gainrl.scoring.fused.find_block", lambda *_: None)
    slow = AngleScorer(model, tokenizer).score(PROMPTS)
    np.testing.assert_allclose(fast.score, slow.score, atol=2e-6 if dtype == torch.float32 else 2e-2)
    monkeypatch.setattr(kernels, "_serve", lambda *_: None)
    np.testing.assert_allclose(
        fast.score, AngleScorer(model, tokenizer).score(PROMPTS).score, atol=2e-6 if dtype == torch.float32 else 2e-2
    )


def test_a_model_that_is_trained_or_asked_for_hidden_states_between_is_followed(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    """Weights changed in place, parameters exchanged, and the hooks that transformers leaves behind."""
    model = make_model("Llama")
    scorer = AngleScorer(model, tokenizer)
    before = scorer.score(PROMPTS).score
    ids = torch.tensor([[1, 2, 3]])
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states) == 3
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + 0.05 * (number % 3))
        layer = model.model.layers[1]
        layer.mlp.up_proj.weight = torch.nn.Parameter(-2 * layer.mlp.up_proj.weight)
        layer.input_layernorm.weight = torch.nn.Parameter(layer.input_layernorm.weight + 1)
    with counted() as ran:
        after = scorer.score(PROMPTS).score
    assert ran
    assert all(ran)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, AngleScorer(model, tokenizer).score(PROMPTS).score, atol=1e-7)
    changed = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert not torch.equal(states[1], changed[1])


def test_plain_settings_that_change_after_a_score_are_followed(make_model: Callable[..., Any], tokenizer: Any) -> None:
    """An attention's scale is no parameter; after a change the block runs its own code."""
    model = make_model("Llama")
    scorer = AngleScorer(model, tokenizer)
    before = scorer.score(PROMPTS).score
    model.model.layers[0].self_attn.scaling *= 4
    model.model.layers[1].input_layernorm.variance_epsilon = 1.0
    with counted() as ran:
        after = scorer.score(PROMPTS).score
    assert not ran
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, AngleScorer(model, tokenizer).score(PROMPTS).score, atol=2e-6)


def test_a_gate_with_a_scale_of_its_own_is_left_alone(make_model: Callable[..., Any]) -> None:
    """The scale is 1 when the gate is tried, and something else after training."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.silu(x) * self.beta

    model = make_model("Llama")
    one, other = (layer.mlp for layer in model.model.layers)
    one.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    other.act_fn = Scaled()
    with torch.inference_mode():
        fused = FusedLayers(decoder_of(model))
    assert not {one, other} & set(fused._fast)
    assert found(model) == 0


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16], ids=str)
def test_trials_draw_nothing_from_the_callers_random_stream_and_are_in_float32(
    default: torch.dtype, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("Qwen3")
    state = torch.get_rng_state()
    torch.set_default_dtype(default)
    try:
        with counted() as ran:
            AngleScorer(model, tokenizer).score(PROMPTS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert ran
    assert torch.equal(torch.get_rng_state(), state)


class Doubled(torch.nn.Module):
    """An adapter of a sort around a linear layer."""

    def __init__(self, inner: torch.nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)


def test_a_block_whose_parts_are_watched_or_exchanged_runs_its_own_code(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    model = make_model("Llama")
    scorer = AngleScorer(model, tokenizer, tokens_per_batch=1000)
    plain = scorer.score(PROMPTS).score
    seen: list[Tensor] = []
    first, second = model.model.layers
    with counted() as ran:
        handle = first.self_attn.o_proj.register_forward_hook(lambda _, __, output: seen.append(output))
        watched = scorer.score(PROMPTS).score
        handle.remove()
        own = first.register_forward_hook(lambda _, __, output: seen.append(output))  # a block's own hook is no reason
        scorer.score(PROMPTS)
        own.remove()
    assert len(ran) == 2 + 4  # a prefix and a batch: the second block alone, then both
    assert all(ran)
    assert len(seen) == 2 + 2
    np.testing.assert_allclose(watched, plain, atol=2e-6)
    second.mlp.down_proj = Doubled(second.mlp.down_proj)
    with counted() as ran:
        exchanged = scorer.score(PROMPTS).score
    assert len(ran) == 2
    assert np.abs(exchanged - plain).max() > 1e-4
    np.testing.assert_allclose(exchanged, AngleScorer(model, tokenizer).score(PROMPTS).score, atol=2e-6)


def test_only_blocks_that_are_tried_alike_are_taken(make_model: Callable[..., Any]) -> None:
    """Each of these looks like the common form but for one line of its code."""
    from transformers.models.llama import modeling_llama as llama

    class Scaled(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            return 0.5 * super().forward(hidden_states, *arguments, **options)

    class Parallel(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            mixed, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **options)
            return hidden_states + mixed + self.mlp(self.post_attention_layernorm(hidden_states))

    class Unmasked(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            rotary = tuple(part * 1 for part in options.pop("position_embeddings"))
            return super().forward(hidden_states, *arguments, position_embeddings=rotary, **options)

    class Swapped(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            parts = self._modules
            one, two = parts["input_layernorm"], parts["post_attention_layernorm"]
            parts["input_layernorm"], parts["post_attention_layernorm"] = two, one
            try:
                return super().forward(hidden_states, *arguments, **options)
            finally:
                parts["input_layernorm"], parts["post_attention_layernorm"] = one, two

    def clipped(attention: Any, name: str, change: Callable[[Tensor], Tensor]) -> None:
        forward = type(attention).forward

        class Clipped(type(attention)):  # type: ignore[misc]
            def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
                if name == "input":
                    hidden_states = change(hidden_states)
                result, weights = forward(self, hidden_states, *arguments, **options)
                return (change(result) if name == "output" else result), weights

        attention.__class__ = Clipped

    class Tempered(llama.LlamaAttention):
        """Far positions ask more loudly."""

        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            far = torch.log1p(torch.floor(options["position_ids"] / 8192))[..., None]
            return super().forward(hidden_states * (1 + 0.1 * far), *arguments, **options)

    class Windowed(llama.LlamaDecoderLayer):
        def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
            return super().forward(hidden_states, *arguments, sliding_window=32, **options)

    for kind, expected in ((Scaled, 1), (Parallel, 1), (Unmasked, 1), (Windowed, 1), (Swapped, 2)):
        model = make_model("Llama")
        model.model.layers[0].__class__ = kind
        assert found(model) == expected, kind.__name__
    assert found(make_model("Granite", residual_multiplier=0.5)) == 0
    for name, change in (("input", lambda x: x.clamp(-50, 50)), ("output", lambda x: 1.01 * x)):
        model = make_model("Llama")
        clipped(model.model.layers[0].self_attn, name, change)
        assert found(model) == 1, name
    model = make_model("Llama")
    model.model.layers[0].self_attn.__class__ = Tempered
    assert found(model) == 1
    model = make_model("Llama")
    model.model.layers[0].register_buffer("layer_scalar", torch.ones(1))
    model.model.layers[1].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    assert found(model) == 0
