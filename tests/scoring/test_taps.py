"""Hidden states from other places than the end, found by structure, against transformers' own outputs and hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gainrl.angle.reference import angle_concentration_reference
from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.forward import PackedForward
from gainrl.scoring.taps import Tap, blocks_of, decoder_of

ROWS = [ScoringPrompt(f"You add up. {'tom buys apples ' * (n % 5 + 1)}{n}?", f"{'tom buys apples ' * (n % 5 + 1)}{n}?")
        for n in range(9)]  # fmt: skip
# how each family names the parts of a block; the code under test does not look at names
PARTS = {
    "Llama": ("self_attn", "mlp"),
    "GPTNeoX": ("attention", "mlp"),
    "Gemma2": ("self_attn", "mlp"),
    "Phi": ("self_attn", "mlp"),
    "Mixtral": ("self_attn", "mlp"),
    "Cohere": ("self_attn", "mlp"),
    "Bloom": ("self_attention", "mlp"),
}


def states(model: Any, tokens: Any, layer: int, part: str | None, end: str) -> torch.Tensor:
    """(L, D) what enters or leaves a block or its part, for one prompt alone, caught by hooks of our own."""
    block = blocks_of(decoder_of(model))[layer]
    module = block if part is None else getattr(block, part)
    seen: list[torch.Tensor] = []

    def caught(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        value = output if end == "output" else (args[0] if args else kwargs["hidden_states"])
        seen.append(value[0] if isinstance(value, tuple) else value)

    handle = module.register_forward_hook(caught, with_kwargs=True)
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None])
    handle.remove()
    return seen[0].reshape(len(tokens), -1)


@pytest.mark.parametrize("family", list(PARTS))
@pytest.mark.parametrize("tap", ["layer:0", "layer:-1", "layer:0.mlp-input", "layer:-1.mlp-output",
                                 "layer:1.attention-input", "layer:0.attention-output"])  # fmt: skip
def test_every_tap_scores_what_passes_that_place(make_model, tokenizer, family, tap):
    model = make_model(family)
    scorer = AngleScorer(model, tokenizer, tap=tap, tokens_per_batch=90)
    scores = scorer.score(ROWS)
    place, _, half = tap.removeprefix("layer:").partition(".")
    name, _, end = half.partition("-")
    part = None if not half else PARTS[family][name == "mlp"]
    assert str(scorer.forward.tap) == f"layer:{int(place) % 2}" + (f".{half}" if half else "")
    for i, rendered in enumerate(scorer.renderer(ROWS)):
        hidden = states(model, rendered.tokens, int(place) % 2, part, end or "output")
        roles = np.full(len(rendered.tokens), 2)
        roles[: rendered.prefix] = 1
        exact = angle_concentration_reference(hidden, [0, len(roles)], roles)
        assert scores.intra[i] == pytest.approx(float(exact.intra[0]), abs=5e-6)
        assert scores.inter[i] == pytest.approx(float(exact.inter[0]), abs=5e-6)


def test_nothing_beyond_the_tap_is_computed(make_model, tokenizer):
    model = make_model("Llama", num_hidden_layers=4)
    calls = []
    scorer = AngleScorer(model, tokenizer, tap="layer:1.mlp-input")
    assert isinstance(scorer.forward, PackedForward)
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: calls.append(number))
    scorer.score(ROWS)
    assert set(calls) == {0}  # the second layer's MLP is not run: its input is all that is asked for
    final = AngleScorer(model, tokenizer).score(ROWS).score
    assert not np.allclose(final, AngleScorer(model, tokenizer, tap="layer:1").score(ROWS).score, atol=1e-3)


def test_likelihoods_of_another_tap_come_from_the_end(make_model, tokenizer):
    model = make_model()
    expected = AngleScorer(model, tokenizer, nll=True).score(ROWS)
    scores = AngleScorer(model, tokenizer, nll=True, tap="layer:0").score(ROWS)
    np.testing.assert_allclose(scores.nll, expected.nll, atol=1e-5)
    plain = AngleScorer(model, tokenizer, tap="layer:0").score(ROWS)
    np.testing.assert_allclose(scores.score, plain.score, atol=5e-6)


def test_no_hook_is_left_behind(make_model, tokenizer):
    model = make_model()
    AngleScorer(model, tokenizer, tap="layer:0.mlp-input").score(ROWS[:2])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("tap", "words"),
    [
        ("layer:2", "2 layers, 0 to 1"),
        ("layer:-3", "2 layers"),
        ("layer:x", "give final, layer:K"),
        ("layer:0.norm-input", "give final, layer:K"),
        ("last", "give final, layer:K"),
    ],
)
def test_a_tap_that_is_none_is_refused_with_what_there_is(make_model, tokenizer, tap, words):
    with pytest.raises(UserError, match=words):
        AngleScorer(make_model(), tokenizer, tap=tap)


def test_a_block_whose_halves_cannot_be_told_is_refused(make_model):
    decoder = decoder_of(make_model("Llama"))
    decoder.layers[0].second = torch.nn.Linear(4, 4)
    with pytest.raises(UserError, match="cannot tell the mlp"):
        Tap(decoder, "layer:0.mlp-input")
    Tap(decoder, "layer:0.attention-input")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft calls it
def test_taps_are_found_inside_a_peft_adapter(make_model, tokenizer):
    peft = pytest.importorskip("peft")
    model = make_model()
    plain = AngleScorer(model, tokenizer, tap="layer:-1.mlp-input").score(ROWS).score
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["gate_proj", "q_proj"]))
    np.testing.assert_allclose(  # its B matrices are zero: the same function
        AngleScorer(adapted, tokenizer, tap="layer:-1.mlp-input").score(ROWS).score, plain, atol=1e-6
    )
