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


_SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_MIXED = ["sliding_attention", "full_attention"]
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 12, "attn_logit_softcapping": 5.0},
    "Gemma3": {"head_dim": 8, "sliding_window": 12, "layer_types": _MIXED},
    "Mistral": {"sliding_window": 12},
    "Phi": {},
    "Phi3": {},
    "Olmo": {},
    "Olmo2": {},
    "Olmo3": {"sliding_window": 12, "layer_types": _MIXED},
    "Granite": {"logits_scaling": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.7},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": {"logit_scale": 0.25, "sliding_window": 12, "layer_types": _MIXED},
    "SmolLM3": {},
    "Glm4": {"head_dim": 8},
    "GPTNeoX": {},
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "Qwen3Moe": {**_EXPERTS, "head_dim": 8},
}
"""Decoders whose attention goes through transformers' interface, with what makes each of them special."""
OTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12},
    "Llama4": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 16},
    "ModernBertDecoder": {"sliding_window": 12, "layer_types": _MIXED, "num_key_value_heads": 4},
    "Qwen3Next": {
        **_EXPERTS,
        "head_dim": 8,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "Bloom": {"n_layer": 2, "n_head": 4},
}
"""Decoders with sinks, chunks, recurrences, or code of their own: packed where it is the same, else padded."""


def make_family(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random two-layer model of `family`; weights large enough that tokens really mix, norms that matter."""
    import transformers

    torch.manual_seed(7)
    kind = f"{family}TextConfig" if family in ("Gemma3", "Llama4") else f"{family}Config"
    chosen = {**_SMALL, **FAMILIES.get(family, {}), **OTHER_FAMILIES.get(family, {}), **changes}
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, kind)(**chosen)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)
