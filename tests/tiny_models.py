"""Tiny random models of real architectures, saved with a byte-level tokenizer and a chat template, built from seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CHAT_TEMPLATE = (  # ChatML, as Qwen writes it
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KINDS: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def make_tokenizer(
    texts: Iterable[str], *, size: int = 400, chat_template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `size` tokens, its merges learnt from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = chat_template
    return fast


def make_model(directory: Path, kind: str = "qwen2", *, texts: Iterable[str] = (), context: int = 4096) -> str:
    """Save a random two-layer model of this kind to `directory`; its tokenizer's merges come from `texts`."""
    fast = make_tokenizer(texts)
    config, model = KINDS[kind]
    torch.manual_seed(0)
    made = model(
        config(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            pad_token_id=fast.pad_token_id,
            eos_token_id=fast.eos_token_id,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    made.generation_config.do_sample = True  # as released chat models have it; servers take it from here
    made.save_pretrained(directory)
    fast.save_pretrained(directory)
    return str(directory)


def teach(directory: str, pairs: list[tuple[Any, str]], steps: int = 60) -> float:
    """Train the saved model to answer these (prompt, completion) pairs; returns the last loss.

    Prompts are chats or plain text, as a task gives them.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    rows = []
    for prompt, completion in pairs:
        before = prompt
        if not isinstance(prompt, str):
            before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        asked, answered = tokenizer(before)["input_ids"], tokenizer(completion + "<eos>")["input_ids"]
        rows.append((torch.tensor([asked + answered]), torch.tensor([[-100] * len(asked) + answered])))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack([model(input_ids=ids, labels=labels).loss for ids, labels in rows]).mean()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    return float(loss.detach())
