"""Does the scoring pass's memory grow with the number of prompts?

    python benchmarks/scoring_memory.py [--rows 4000 16000 64000]

A tiny random Llama scores datasets of short prompts that are generated as they are read, through the whole path:
journal, table, ranks.  Each size runs in a process of its own; reported is the peak of its private memory (RssAnon,
read after every batch and after the table is written) over that of the first 4096 rows, and the growth per row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import table, write_result


def private_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(rows: int) -> dict[str, int]:
    """Score `rows` prompts; peak private memory, and that at the end of the first window."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from gainrl.scoring import AngleScorer, ScoringPrompt, Source, score_dataset
    from gainrl.scoring.scorer import WINDOW

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

    def prompts() -> Iterator[ScoringPrompt]:
        for n in range(rows):
            yield ScoringPrompt(f"What is {n} + {n * n % 97}?", f"{n} + {n * n % 97}?")

    seen = {"rows": 0, "first": 0, "peak": 0}

    def progress(finished: int, tokens: int) -> None:
        seen["rows"] += finished
        now = private_bytes()
        seen["peak"] = max(seen["peak"], now)
        if seen["rows"] <= WINDOW:
            seen["first"] = max(seen["first"], now)

    with tempfile.TemporaryDirectory() as folder:
        score_dataset(
            scorer, prompts(), Path(folder) / "scores.parquet", Source("generated"), model_name="tiny",
            model_hash="weights:0", progress=progress,
        )  # fmt: skip
        seen["peak"] = max(seen["peak"], private_bytes())
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4000, 16000, 64000])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = []
    for rows in options.rows:
        child = [sys.executable, __file__, "--measure", str(rows)]
        seen = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
        results.append(
            {
                "rows": rows,
                "peak_mib": seen["peak"] / 2**20,
                "first_window_mib": seen["first"] / 2**20,
                "grown_mib": (seen["peak"] - seen["first"]) / 2**20,
                "grown_bytes_per_row": (seen["peak"] - seen["first"]) / rows,
            }
        )
    print(table(results))
    write_result("scoring_memory", results, path=options.output)


if __name__ == "__main__":
    main()
