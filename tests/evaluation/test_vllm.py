"""Generating with vLLM itself (its CPU build serves), against transformers: scripts/vllm_environment.sh."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gainrl.evaluation import Sampling
from gainrl.evaluation.engines import VLLMEngine
from tests.tiny_models import make_tokenizer

pytest.importorskip("vllm", reason="vllm: not installed here (scripts/vllm_environment.sh makes a place for it)")
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]  # vLLM's dependencies deprecate things

PROMPTS: list[Any] = ["What is 1 + 2?", [{"role": "user", "content": "What is 12 + 30?"}]]
TOKENS = 8


@pytest.fixture(scope="module")
def engine_and_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model in both; its heads are 32 wide, which is the least that vLLM takes."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = make_tokenizer(["What is 12 + 30? Add."] * 3)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        here = str(Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        engine = VLLMEngine(str(folder), tokenizer, enforce_eager=True, dtype="float32")
        yield engine, model
        engine._model.llm_engine.engine_core.shutdown()


def test_greedy_completions_are_those_of_transformers(engine_and_model: Any) -> None:
    engine, model = engine_and_model
    assert engine.room() == 512
    found = engine.generate(PROMPTS, Sampling(temperature=0.0, max_new_tokens=TOKENS), key=0)
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([engine.encode(prompt)])
        given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": TOKENS}
        expected = model.generate(ids, **given)[0, ids.shape[1] :]
        assert one.text == engine.tokenizer.decode(expected, skip_special_tokens=True)
        assert one.tokens == len(expected)


def test_a_seed_repeats_its_samples_and_another_key_draws_others(engine_and_model: Any) -> None:
    engine, _ = engine_and_model
    sampling = Sampling(temperature=1.0, max_new_tokens=TOKENS, seed=3)
    first, again, other = (
        [one.text for one in engine.generate(PROMPTS * 2, sampling, key=key)] for key in (1, 1, 2)
    )  # fmt: skip
    assert first == again
    assert first != other
    assert len(set(first)) > 1, "repeats of a prompt differ"
