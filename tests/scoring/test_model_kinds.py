"""Models that are more than a plain decoder: tied heads, quantised weights, no chat template."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scoring_runs import gainrl_score

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.table import ScoreTable

ROWS = [ScoringPrompt(f"You add up. {'tom buys apples ' * (n % 5 + 1)}{n}?", f"{'tom buys apples ' * (n % 5 + 1)}{n}?")
        for n in range(11)]  # fmt: skip


def assert_like_one_at_a_time(model, tokenizer, oracle, tolerance):
    scorer = AngleScorer(model, tokenizer, tokens_per_batch=100)
    scores = scorer.score(ROWS)
    assert scores.status == ["ok"] * len(ROWS)
    for i, rendered in enumerate(scorer.renderer(ROWS)):
        intra, inter = oracle(model, rendered.tokens, rendered.prefix)
        assert scores.intra[i] == pytest.approx(intra, abs=tolerance)
        assert scores.inter[i] == pytest.approx(inter, abs=tolerance)
    return scorer


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Qwen2"])
def test_a_head_tied_to_the_embeddings_changes_nothing(make_model, tokenizer, oracle, family):
    model = make_model(family, tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert_like_one_at_a_time(model, tokenizer, oracle, 5e-6)
    assert np.isfinite(AngleScorer(model, tokenizer, nll=True).score(ROWS).nll).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes")
def test_quantised_weights_are_scored_as_they_are(make_model, tokenizer, oracle, tmp_path, bits):
    """bitsandbytes on the CPU: the oracle runs the same quantised model, one prompt at a time."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model("Llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    options = {f"load_in_{bits}bit": True} | ({"bnb_4bit_quant_type": "nf4"} if bits == 4 else {})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
    ).eval()
    kinds = {type(m).__name__ for m in model.modules()}
    assert {8: "Linear8bitLt", 4: "Linear4bit"}[bits] in kinds
    scorer = assert_like_one_at_a_time(model, tokenizer, oracle, {8: 2e-2, 4: 1e-4}[bits])
    apart = np.abs(scorer.score(ROWS).score - AngleScorer(plain.eval(), tokenizer).score(ROWS).score)
    assert apart.max() > 1e-3, "the quantised weights are the ones that were scored"


def test_a_base_model_without_a_template_ranks_plain_text_and_says_so_for_chats(make_model, tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="<|end|>")
    model = tmp_path / "model"
    make_model().save_pretrained(model)
    bare.save_pretrained(model)
    data = tmp_path / "text.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"Q: {n} apples?\nA:", "question": f"{n} apples?"}) + "\n" for n in range(6))
    )
    done = gainrl_score(model, data, tmp_path / "s.parquet")
    assert done.returncode == 0, done.stderr
    table = ScoreTable.read(tmp_path / "s.parquet")
    assert table.status_counts() == {"ok": 6}
    assert (table.metadata.chat_template_hash, table.metadata.template_date) == ("", "")
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"prompt": [{"role": "user", "content": "a?"}]}) + "\n")
    refused = gainrl_score(model, chats, tmp_path / "t.parquet")
    assert refused.returncode == 2
    assert "no chat template" in refused.stderr
    with pytest.raises(UserError, match="no chat template"):
        AngleScorer(make_model(), bare).score([[{"role": "user", "content": "a?"}]])
