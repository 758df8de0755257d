"""`gainrl profile` on a tiny real model: the phases add up, the work is counted, the trace opens."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.profile import Profile, operations, profile

ROWS = [ScoringPrompt(f"2 + 2 = 4 and {'so ' * (n % 5)}{n}?", f"{n}?") for n in range(40)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_phases_add_up_to_the_pass_and_tokens_are_those_forwarded(model, tokenizer, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.profile.CEILING", {"cpu": 256})
    scorer = AngleScorer(model, tokenizer)
    found = profile(scorer, ROWS)
    assert set(found.phases) == {"tokenise", "transfer", "forward", "score", "write"}
    assert 0.3 * found.seconds < sum(found.phases.values()) <= found.seconds
    seen = []
    handle = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scorer.score(ROWS)
    handle.remove()
    assert found.forwarded_tokens == sum(seen)
    assert found.scored_bytes == found.forwarded_tokens * 32 * 4
    assert found.ceiling > 0


def test_work_is_that_of_the_linear_layers_and_of_attention(model):
    h, f = 32, 64
    layer = 2 * h * h + 2 * h * 16 + 3 * h * f  # q and o, k and v (half as many heads), gate, up and down
    assert operations(model, 10, 7) == 2 * 2 * layer * 10 + 4 * 32 * 7 * 2


def test_only_a_tokens_own_experts_are_counted():
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    attention, router, experts = 4 * 32 * 32, 32 * 8, 2 * 3 * 32 * 48
    counted = operations(MixtralForCausalLM(config), 1, 0) / 2
    assert counted in (attention + experts, attention + router + experts)


@pytest.mark.parametrize(
    ("phases", "flops", "words"),
    [
        ({"forward": 9.0}, 8e9, "limited by matrix products"),
        ({"forward": 9.0}, 1e9, "reaches only 11% of the ceiling"),
        ({"forward": 2.0, "tokenise": 7.0}, 1e9, "limited by tokenise (70% of the time)"),
        ({"forward": 1.0}, 1e9, "limited by other (90% of the time)"),
    ],
)
def test_one_line_says_what_limits_the_pass(phases, flops, words):
    assert words in Profile(1, 1, 1, 10.0, 10.0, phases, flops, 1e9, 1, 1).verdict()


def test_the_command_prints_everything_and_writes_a_trace_with_the_phases(model, tokenizer, tmp_path, run_cli):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": row.prompt, "question": row.question}) + "\n" for row in ROWS))
    arguments = ["profile", "--model", str(tmp_path / "model"), "--dataset", str(data), "--device", "cpu"]
    status, out, error = run_cli([*arguments, "--trace", str(tmp_path / "trace.json"), "--limit", "30"])
    assert status == 0, error
    for words in ("30 prompts", "forward", "tokens/s", "model FLOPs utilisation", "GB/s", "peak memory", "limited by"):
        assert words in out
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"gainrl:forward", "gainrl:score"} <= {event.get("name") for event in events}
    status, _, error = run_cli([*arguments, "--trace", str(tmp_path / "nowhere" / "t.json")])
    assert (status, "does not exist" in error) == (2, True)
