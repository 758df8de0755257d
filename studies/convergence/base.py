"""Small models that are partly able: Llama-style, pretrained on a family's graded problems, cached by content."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gainrl.files import cache_directory, write_text
from studies.convergence.families import Family
from studies.convergence.tokens import encode, make_tokenizer

VERSION = 2
"""Raise it when pretraining changes in a way that its settings and problems do not show."""
QUESTION_WEIGHT = 0.02
"""Questions are random, so that there is little to learn from them; enough for a likelihood that means something."""
WARMUP = 20
MATRICES = 5.0
"""Muon's learning rate over AdamW's."""


@dataclass(frozen=True)
class Size:
    """Shape of the transformer."""

    hidden: int = 96
    intermediate: int = 256
    layers: int = 3
    heads: int = 4


@dataclass(frozen=True)
class Pretraining:
    """Supervised training before the study: warm-up, then one cosine to a tenth of `learning_rate`.

    AdamW, but for the layers' matrices, which Muon trains with MATRICES times this rate.
    """

    steps: int
    batch: int = 128
    learning_rate: float = 3e-3

    def share(self, step: int) -> float:
        """Share of `learning_rate` in a step."""
        if step < WARMUP:
            return (step + 1) / WARMUP
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, self.steps - WARMUP)))


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A random model of this shape; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.intermediate,
                num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
                max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.05,
                pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip


def language_loss(model: LlamaForCausalLM, ids: Tensor, answer: Tensor, skip: int, pad: int) -> Tensor:
    """Cross-entropy of ids (B, L) after the first `skip` tokens, padding left out.

    The mean over the answers' tokens (`answer` (B, L) bool) plus QUESTION_WEIGHT times the mean over the questions'.
    """
    logits = model(input_ids=ids).logits[:, skip - 1 : -1]
    each = cross_entropy(logits.flatten(0, 1), ids[:, skip:].flatten(), reduction="none")
    of_answer = answer[:, skip:].flatten()
    of_question = (ids[:, skip:].flatten() != pad) & ~of_answer
    return each[of_answer].mean() + QUESTION_WEIGHT * each[of_question].mean()


def pretrain(family: Family, size: Size, settings: Pretraining, seed: int) -> LlamaForCausalLM:
    """Train a model on questions and answers (the examples in front carry no loss)."""
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer, seed)
    random = Random(f"{family.name}/pretraining/{seed}")
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "layers" in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "layers" not in name]
    rate = settings.learning_rate
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRICES * rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, settings.share) for one in optimizers]
    skip = len(family.examples) + 1
    model.train()
    for _ in range(settings.steps):
        problems = family.problems(settings.batch, random, pretraining=True)
        ids, answer = encode(tokenizer, [family.prompt(p) for p in problems], [p.answer for p in problems])
        loss = language_loss(model, ids, answer, skip, tokenizer.pad_token_id)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for step in (*optimizers, *schedules):
            step.step()
    return model.eval()


def content_key(family: Family, size: Size, settings: Pretraining, seed: int) -> str:
    """What a cached base was made from: settings, and the first problems that pretraining draws."""
    sample = family.problems(200, Random("content key"), pretraining=True)
    made: dict[str, Any] = {
        "version": VERSION, "family": family.name, "examples": family.examples, "size": asdict(size),
        "pretraining": asdict(settings), "seed": seed, "problems": [asdict(problem) for problem in sample],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:20]


def base_directory(family: Family, size: Size, settings: Pretraining, seed: int) -> Path:
    """Directory of the pretrained base and its tokenizer, made if it is not there."""
    directory = cache_directory() / "convergence" / f"{family.name}-{seed}-{content_key(family, size, settings, seed)}"
    done = directory / "complete.json"
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "made.lock"):  # workers of one study
        if not done.is_file():
            started = time.perf_counter()
            model = pretrain(family, size, settings, seed)
            model.save_pretrained(directory)
            make_tokenizer().save_pretrained(directory)
            write_text(done, json.dumps({"seconds": time.perf_counter() - started}))
    return directory
