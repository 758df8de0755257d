"""Does a scoring run's memory grow with the number of prompts, and what takes its time besides the model?

    python benchmarks/scoring_memory.py [--rows 10000 100000 1000000] [--directions] [--without-model]

A tiny random Llama scores datasets of short prompts, read as they are needed from a JSON lines file of that many rows,
through the whole path: parts, table, summary.  Each size runs in a process of its own; reported is the peak of its
private memory (RssAnon, sampled every 5 ms from the first batch to the end), over that of the first size.  With
--without-model random results stand for those of a model: what is left is reading, hashing, parts and table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import table, write_result

WIDTH = 64
IDENTITY = {
    "model": "none", "model_hash": "none", "tokenizer_hash": "none", "chat_template_hash": "", "template_date": "",
    "chat_template_kwargs": {}, "question_after": None, "too_long": "skip", "dtype": "float32", "tap": "final",
    "definition": "intra+inter", "diagonal": True,
}  # fmt: skip


def private_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Sampler(threading.Thread):
    """The largest private memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.peak = max(self.peak, private_bytes())


class NoModel:
    """Random results in batches of 64."""

    def __init__(self, directions: bool) -> None:
        from gainrl.scoring import Definition

        self.directions, self.nll, self.width, self.definition = directions, False, WIDTH, Definition()
        self.settings = SimpleNamespace(direction_dtype="float16")
        self._random = np.random.default_rng(0)

    def identity(self) -> dict[str, Any]:
        return IDENTITY

    def batches(self, prompts: Any) -> Any:
        from gainrl.scoring import Scores

        for first in range(0, len(prompts), 64):
            n = min(64, len(prompts) - first)
            intra, inter = self._random.random((2, n))
            counts = np.full(n, 8)
            rows = self._random.standard_normal((n, WIDTH), dtype=np.float32) if self.directions else None
            scores = Scores(
                status=["ok"] * n, reasons=[None] * n, intra=intra, inter=inter, score=intra + inter,
                prefix_tokens=counts, question_tokens=counts, directions=rows,
            )  # fmt: skip
            yield list(range(first, first + n)), scores


def tiny_scorer(directions: bool) -> Any:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from gainrl.scoring import AngleScorer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = LlamaConfig(
        vocab_size=256, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    model = LlamaForCausalLM(config).eval()
    return AngleScorer(model, tokenizer, tokens_per_batch=4096, directions=directions)


def measure(rows: int, directions: bool, without_model: bool) -> dict[str, float]:
    """Score `rows` prompts; peak private memory in bytes and seconds, whole and from the last row scored on."""
    from gainrl.scoring import Source, open_rows, score_dataset, scoring_prompts
    from gainrl.scoring.summary import summary

    sampler, last = Sampler(), [0.0]

    def progress(finished: int, tokens: int) -> None:
        if not sampler.is_alive():
            sampler.start()  # after the imports and the model, whose memory is no matter of the dataset
        last[0] = time.perf_counter()

    scorer = NoModel(directions) if without_model else tiny_scorer(directions)
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data.jsonl", Path(folder) / "scores.parquet"
        with open(data, "w", encoding="utf-8") as file:
            for n in range(rows):
                question = f"{n} + {n * n % 97}?"
                file.write(json.dumps({"prompt": f"What is {question}", "question": question}) + "\n")
        start = time.perf_counter()
        prompts = scoring_prompts(open_rows(str(data)))
        summary(score_dataset(scorer, prompts, output, Source("data"), progress=progress))
        end = time.perf_counter()
    sampler.over.set()
    sampler.join()
    return {"peak": sampler.peak, "seconds": end - start, "table_seconds": end - last[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--directions", action="store_true")
    parser.add_argument("--without-model", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.directions, options.without_model)))
        return
    chosen = [f"--{name}" for name in ("directions", "without-model") if getattr(options, name.replace("-", "_"))]
    results: list[dict[str, float]] = []
    for rows in options.rows:
        child = [sys.executable, __file__, "--measure", str(rows), *chosen]
        printed = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout
        seen = json.loads(printed.strip().splitlines()[-1])
        peak = seen["peak"] / 2**20
        over = peak / results[0]["peak_mib"] if results else 1.0
        timing = {"seconds": seen["seconds"], "table_seconds": seen["table_seconds"]}
        results.append({"rows": rows, "peak_mib": peak, "over_first": over, **timing})
    print(table(results))
    marks = [mark.removeprefix("--").replace("-", "_") for mark in chosen]
    write_result("_".join(["scoring_memory", *marks]), results, path=options.output)


if __name__ == "__main__":
    main()
