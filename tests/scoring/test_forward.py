"""Hidden states of every form of the forward pass, against one prompt at a time, for every family."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, OTHER_FAMILIES

from gainrl.angle.reference import angle_concentration_reference
from gainrl.errors import UserError
from gainrl.models import decoder_of
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.attention import Flex, Grouped, Settings
from gainrl.scoring.forward import tapped

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
WORDS = ("how", "many", "apples", "does", "Tom", "buy", "when", "a", "train", "leaves", "at", "noon")
SYSTEM = {"role": "system", "content": "You are a helpful assistant. Answer step by step."}
# how the padded form serves models of other kinds; ModernBERT's decoder has the common form, its parts have other names
PADDED = {
    "GptOss": "s_aux",
    "Llama4": "chunked_attention",
    "Qwen3Next": "linear_attention",
    "Bloom": "AttentionInterface",
}


def prompts(count: int, seed: int = 0) -> list[ScoringPrompt]:
    """Chats behind one prefix, of 1 to 30 words, some of equal length; and one of plain text."""
    random = np.random.default_rng(seed)
    questions = [" ".join(random.choice(WORDS, n)) for n in random.choice([1, 2, 5, 5, 9, 30], count)]
    chats = [ScoringPrompt([SYSTEM, {"role": "user", "content": question}]) for question in questions]
    return [*chats[1:], ScoringPrompt("2 + 2 = 4\nhow many?", "how many?")]


def assert_like_one_at_a_time(model, scorer, rows, oracle, tolerance=5e-6):
    scores = scorer.score(rows)
    assert scores.status == ["ok"] * len(rows)
    wanted = np.array([oracle(model, r.tokens, r.prefix) for r in scorer.renderer(rows)])
    np.testing.assert_allclose(np.stack([scores.intra, scores.inter], 1), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("form", ["grouped", "flex"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_the_definition_one_prompt_or_many(make_model, tokenizer, oracle, family, form):
    model = make_model(family)
    try:
        scorer = AngleScorer(model, tokenizer, attention=form, tokens_per_batch=100)
    except UserError:
        assert family == "Gemma2", "an old transformers leaves the soft cap out of its own attention"
        pytest.skip("this transformers' own attention has no soft cap")
    assert_like_one_at_a_time(model, scorer, prompts(14), oracle)
    assert_like_one_at_a_time(model, scorer, prompts(1), oracle)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_other_models_are_the_definition_too_in_whatever_form(make_model, tokenizer, oracle, caplog, family):
    model = make_model(family)
    with caplog.at_level(logging.INFO, "gainrl.scoring"):
        scorer = AngleScorer(model, tokenizer, tokens_per_batch=100)
    assert scorer.form == ("padded" if family in PADDED else "grouped")
    said = [record.getMessage() for record in caplog.records if "padded batches" in record.getMessage()]
    assert len(said) == (family in PADDED)
    assert all(PADDED[family] in words for words in said)
    assert_like_one_at_a_time(model, scorer, prompts(9), oracle)
    assert_like_one_at_a_time(model, AngleScorer(model, tokenizer, attention="padded"), prompts(2), oracle)


def test_a_form_that_was_named_and_does_not_serve_is_refused(make_model, tokenizer):
    with pytest.raises(UserError, match="does not serve BloomModel"):
        AngleScorer(make_model("Bloom"), tokenizer, attention="flex")
    with pytest.raises(UserError, match="choose auto"):
        AngleScorer(make_model(), tokenizer, attention="fast")


@pytest.mark.parametrize("form", ["grouped", "flex"])
def test_bf16_scores_stay_near_fp32(make_model, tokenizer, form):
    rows = prompts(30)
    full = AngleScorer(make_model(), tokenizer).score(rows).score
    half = AngleScorer(make_model(dtype=torch.bfloat16), tokenizer, attention=form).score(rows).score
    assert np.abs(full - half).max() < 1e-2
    assert np.abs(full - half).mean() < 3e-3


def test_a_model_that_attends_otherwise_in_a_batch_gets_the_padded_form(make_model, tokenizer, oracle):
    # its sliding window is in the mask alone, which packed rows make themselves
    sliding = make_model("Qwen2Moe", sliding_window=12, use_sliding_window=True, max_window_layers=0)
    assert_like_one_at_a_time(sliding, AngleScorer(sliding, tokenizer), prompts(6), oracle)
    # one long prompt switches the rotary factors of its whole batch
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope["original_max_position_embeddings"] = 40
    model = make_model("Phi3", original_max_position_embeddings=40, rope_parameters=rope)
    rows = prompts(6) + [ScoringPrompt(f"{'word ' * n} why?", "why?") for n in (4, 9, 15, 20)]
    assert_like_one_at_a_time(model, AngleScorer(model, tokenizer), rows, oracle)


def test_equal_lengths_behind_a_long_prefix_are_attended_to_in_slices(make_model, tokenizer, oracle, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.attention._COPIED", 64)
    model = make_model("Mistral")
    rows = [ScoringPrompt(f"{'a b c d e f g h ' * 3}{n}{n}?", f"{n}{n}?") for n in range(9)]
    assert_like_one_at_a_time(model, AngleScorer(model, tokenizer), rows, oracle)


LENGTHS = {"short": ([3, 5, 5, 1], 0), "shared": ([3, 5, 5, 1], 7), "long": ([200, 3, 130, 128, 60], 300)}


@pytest.mark.parametrize("span", [0, 4, 140])
@pytest.mark.parametrize("case", LENGTHS)
def test_the_block_mask_leaves_out_no_block_that_is_seen(case, span):
    from torch.nn.attention.flex_attention import create_block_mask

    layout = Flex(*LENGTHS[case], torch.device("cpu"))
    mask, tokens = layout.block_mask(span), len(layout.document)
    exact = create_block_mask(mask.mask_mod, 1, 1, tokens, tokens, device="cpu").to_dense()
    ours = mask.to_dense()
    assert not (exact.bool() & ~ours.bool()).any()
    whole = torch.zeros_like(ours[0, 0], dtype=torch.bool)
    for row, count in enumerate(mask.full_kv_num_blocks[0, 0].tolist()):
        whole[row, mask.full_kv_indices[0, 0, row, :count].long()] = True
    grid = torch.arange(tokens)
    seen = mask.mask_mod(0, 0, grid[:, None], grid[None, :])
    for row, column in whole.nonzero().tolist():
        assert seen[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128].all()


@pytest.mark.parametrize("case", LENGTHS)
def test_both_layouts_are_the_same_attention(case):
    lengths, shared = LENGTHS[case]
    torch.manual_seed(0)
    query, key, value = (torch.randn(heads, shared + sum(lengths), 8) for heads in (4, 2, 2))
    module, asked = torch.nn.Identity(), Settings(0.3, 0, 0.0)
    flex = Flex(lengths, shared, torch.device("cpu")).attend(module, query, key, value, asked)
    before = {module: (key[:, :shared], value[:, :shared])} if shared else None
    own = [x[:, shared:] for x in (query, key, value)]
    grouped = Grouped(lengths, shared, before, None).attend(module, *own, asked)
    torch.testing.assert_close(grouped, flex[shared:], atol=1e-5, rtol=0)


def layer_states(model: Any, tokens: Any, layer: int) -> torch.Tensor:
    """(L, D) what leaves a block, for one prompt alone, caught by a hook of our own."""
    seen: list[Any] = []
    block, _ = tapped(decoder_of(model), f"layer:{layer}")
    handle = block.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None])
    handle.remove()
    state: torch.Tensor = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return state.reshape(len(tokens), -1)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPTNeoX", "Bloom"])
@pytest.mark.parametrize(("tap", "layer"), [("layer:0", 0), ("layer:-1", 1)])
def test_a_tap_scores_what_leaves_that_layer(make_model, tokenizer, family, tap, layer):
    model, rows = make_model(family), prompts(8)
    scorer = AngleScorer(model, tokenizer, tap=tap, tokens_per_batch=90)
    assert scorer.tap == f"layer:{layer}"
    scores = scorer.score(rows)
    for i, rendered in enumerate(scorer.renderer(rows)):
        roles = np.full(len(rendered.tokens), 2)
        roles[: rendered.prefix] = 1
        exact = angle_concentration_reference(layer_states(model, rendered.tokens, layer), [0, len(roles)], roles)
        assert scores.score[i] == pytest.approx(float(exact.score[0]), abs=5e-6)


def test_nothing_beyond_the_tap_is_computed_and_no_hook_is_left_behind(make_model, tokenizer):
    model = make_model("Llama", num_hidden_layers=4)
    scorer, calls = AngleScorer(model, tokenizer, tap="layer:1"), []
    handle = model.model.layers[2].register_forward_hook(lambda *_: calls.append(1))
    scorer.score(prompts(5))
    handle.remove()
    assert not calls
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("tap", "words"), [("layer:2", "2 layers"), ("layer:x", "give final"), ("last", "give final")])
def test_a_tap_that_is_none_is_refused_with_what_there_is(make_model, tokenizer, tap, words):
    with pytest.raises(UserError, match=words):
        AngleScorer(make_model(), tokenizer, tap=tap)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Granite", "Cohere", "Bloom"])
def test_likelihoods_are_those_of_the_models_own_logits(make_model, tokenizer, family, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.nll.CHUNK_BYTES", {"cpu": 320 * 4 * 20})  # several chunks
    model, rows = make_model(family), prompts(9)
    scorer = AngleScorer(model, tokenizer, nll=True, tokens_per_batch=80)
    found = scorer.score(rows).nll
    assert found is not None
    for i, rendered in enumerate(scorer.renderer(rows)):
        ids = torch.from_numpy(rendered.tokens.astype(np.int64))[None]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0].log_softmax(-1)
        first = max(rendered.prefix, 1)
        wanted = -logits[first - 1 : -1].gather(1, ids[0, first:, None]).mean()
        assert found[i] == pytest.approx(float(wanted), abs=1e-4)
