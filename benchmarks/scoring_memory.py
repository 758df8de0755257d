"""Does the scoring pass's memory grow with the number of prompts?

    python benchmarks/scoring_memory.py [--rows 10000 100000 1000000] [--parts]

A tiny random Llama scores datasets of short prompts, read as they are needed from a JSONL file of that many rows,
through the whole path: journal, table, ranks, summary.  Each size runs in a process of its own; reported is the
peak of its private memory (RssAnon, sampled every 5 ms from the first batch to the end), over that of the first size.
With --parts the table is a folder of parts sorted by rank.
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

from harness import table, write_result


def private_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Sampler(threading.Thread):
    """The largest private memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.peak = max(self.peak, private_bytes())


def measure(rows: int, parts: bool) -> dict[str, float]:
    """Score `rows` prompts; peak private memory in bytes, and seconds."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from gainrl.scoring import AngleScorer, Source, open_rows, score_dataset, scoring_prompts
    from gainrl.scoring.summary import summary

    torch.manual_seed(0)
    torch.set_num_threads(1)
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
    )
    scorer = AngleScorer(model.eval(), PreTrainedTokenizerFast(tokenizer_object=backend), tokens_per_batch=4096)

    sampler = Sampler()

    def progress(finished: int, tokens: int) -> None:
        if not sampler.is_alive():
            sampler.start()  # after the imports and the model, whose memory is no matter of the dataset

    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data.jsonl", Path(folder) / "scores.parquet"
        with open(data, "w", encoding="utf-8") as file:
            for n in range(rows):
                question = f"{n} + {n * n % 97}?"
                file.write(json.dumps({"prompt": f"What is {question}", "question": question}) + "\n")
        opened = open_rows(str(data))
        start = time.perf_counter()
        run = score_dataset(
            scorer, scoring_prompts(opened), output, Source("generated", size=opened.size), model_name="tiny",
            model_hash="weights:0", shards=0 if parts else None, progress=progress,
        )  # fmt: skip
        summary(run, output)
        seconds = time.perf_counter() - start
    sampler.over.set()
    sampler.join()
    return {"peak": sampler.peak, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.parts)))
        return
    results: list[dict[str, float]] = []
    for rows in options.rows:
        child = [sys.executable, __file__, "--measure", str(rows), *(["--parts"] if options.parts else [])]
        seen = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
        results.append(
            {
                "rows": rows,
                "peak_mib": seen["peak"] / 2**20,
                "over_first": seen["peak"] / 2**20 / results[0]["peak_mib"] if results else 1.0,
                "seconds": seen["seconds"],
                "prompts_per_s": rows / seen["seconds"],
            }
        )
    print(table(results))
    write_result("scoring_memory_parts" if options.parts else "scoring_memory", results, path=options.output)


if __name__ == "__main__":
    main()
