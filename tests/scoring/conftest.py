"""Tiny real models and a tiny real tokenizer, made here: no download, no mock."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the helper modules tiny_models
sys.path.insert(0, str(Path(__file__).parent))  # and scoring_runs

from scoring_runs import gainrl_score
from tiny_models import make_family

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXTS = [
    "What is 12 + 30? How many apples does Tom have if he buys three more apples?",
    "You are a helpful assistant. Answer the question step by step, then give the answer.",
    "A train leaves at noon and travels 60 miles per hour. When does it arrive?",
] * 3


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a BOS token and a chat template."""
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """`make_model("Qwen2")` is a tiny random model of that family (`tiny_models.make_family`)."""

    def make(family: str = "Llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
        return make_family(family, dtype, **{"max_position_embeddings": 256, **changes})

    return make


@pytest.fixture(scope="session")
def oracle() -> Callable[..., Any]:
    """The definition on one prompt's own forward pass: `oracle(model, tokens, prefix)` -> (intra, inter), float64."""
    from gainrl.angle.reference import angle_concentration_reference

    def score(model: Any, tokens: Any, prefix: int) -> tuple[float, float]:
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64))[None]
        with torch.inference_mode():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        roles = np.full(len(tokens), 2)
        roles[:prefix] = 1
        result = angle_concentration_reference(hidden, [0, len(tokens)], roles)
        return float(result.intra[0]), float(result.inter[0])

    return score


@pytest.fixture(scope="session")
def model_directory(make_model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """200 chats of a few words, every tenth one a repeat, one of them empty, one without a user turn."""
    random = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    system = {"role": "system", "content": "Answer the question step by step."}
    rows = []
    for n in range(200):
        question = " ".join(random.choice(["tom", "buys", "3", "apples", "at", "noon"], random.integers(1, 9)))
        rows.append([system, {"role": "user", "content": "repeat me" if n % 10 == 0 else f"{n} {question}"}])
    rows[17] = [system, {"role": "user", "content": ""}]
    rows[18] = [system]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def whole(model_directory, dataset, tmp_path_factory) -> Path:
    """The table of one uninterrupted run of the command."""
    output = tmp_path_factory.mktemp("whole") / "scores.parquet"
    done = gainrl_score(model_directory, dataset, output)
    assert done.returncode == 0, done.stderr
    assert "prompts/s" in done.stdout
    assert "1 undefined, 1 failed" in done.stdout
    assert "row 17 (" in done.stdout
    assert "failed: the chat has no user message" in done.stdout
    assert "Spearman" in done.stdout
    return output
