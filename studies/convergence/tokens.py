"""One character, one token: a fast tokenizer with offsets, the same for all families."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CHARACTERS = string.digits + string.ascii_lowercase[:8] + "ABCDFLMNQRSTVWX" + "+-*=>;()[]{}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Puts BOS in front; pads on the left, as generation wants it."""
    vocabulary = {token: index for index, token in enumerate((PAD, BOS, EOS, *CHARACTERS))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    plain.decoder = decoders.Fuse()
    plain.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def encode(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts with their answers and EOS behind: ids (B, L) int64, padded on the right, and where the answer is.

    The second tensor is (B, L) bool, true for the tokens of the answer, EOS included.
    """
    asked = tokenizer(list(prompts))["input_ids"]
    answered = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    rows = [a + b + [tokenizer.eos_token_id] for a, b in zip(asked, answered, strict=True)]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    answer = torch.zeros(ids.shape, dtype=torch.bool)
    for index, (row, start) in enumerate(zip(rows, map(len, asked), strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        answer[index, start : len(row)] = True
    return ids, answer
