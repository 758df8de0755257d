"""Does the scoring pass's memory grow with the number of prompts?

    python benchmarks/scoring_memory.py [--rows 10000 100000 1000000] [--parts] [--kind json] [--task gsm8k]
    python benchmarks/scoring_memory.py --engine ray --rows 150000 300000

A million rows take 500 s on a quiet core.

A tiny random Llama scores datasets of short prompts, read as they are needed from a file of that many rows (--kind;
with --task, mapped by that task), through the whole path: journal, table, ranks, summary.  Each size runs in a process
of its own; reported is the peak of its private memory (RssAnon, sampled every 5 ms from the first batch to the end),
over that of the first size.  With --parts the table is a folder of parts sorted by rank.  With --engine ray the peak of
the largest of Ray Data's workers stands beside that of this process; 33 windows of 4,096 prompts are then held (16 that
Ray works on, 16 that wait, one being made), so memory is to be compared from 135,168 rows on.
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


def private_bytes(process: Path = Path("/proc/self")) -> int:
    with open(process / "status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def workers_bytes() -> int:
    """Private memory of the largest of Ray Data's workers on this machine; 0 without any."""
    largest = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                largest = max(largest, private_bytes(process))
        except (OSError, StopIteration):  # it has ended
            continue
    return largest


class Sampler(threading.Thread):
    """The largest private memory seen while it runs, of this process and of Ray's workers."""

    def __init__(self, workers: bool) -> None:
        super().__init__(daemon=True)
        self.peak = self.workers_peak = 0
        self.over = threading.Event()
        self._workers = workers

    def run(self) -> None:
        count = 0
        while not self.over.wait(0.005):
            self.peak = max(self.peak, private_bytes())
            count += 1
            if self._workers and count % 20 == 0:
                self.workers_peak = max(self.workers_peak, workers_bytes())


def write_rows(path: Path, rows: int) -> None:
    """Short prompts that also are questions with answers, in the kind of file that `path` ends in."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("[" * (path.suffix == ".json"))
        for n in range(rows):
            question = f"{n} + {n * n % 97}?"
            row = {"prompt": f"What is {question}", "question": question, "answer": "0"}
            file.write(",\n" * (n > 0 and path.suffix == ".json") + json.dumps(row) + "\n" * (path.suffix == ".jsonl"))
        file.write("]" * (path.suffix == ".json"))


def measure(rows: int, parts: bool, engine: str, kind: str, task: str | None) -> dict[str, float]:
    """Score `rows` prompts; peak private memory in bytes, here and of the largest worker, and seconds."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from gainrl.cli.score import prompts_of
    from gainrl.scoring import AngleScorer, score_dataset
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
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"

    sampler = Sampler(engine == "ray")

    def progress(finished: int, tokens: int) -> None:
        if not sampler.is_alive():
            sampler.start()  # after the imports and the model, whose memory is no matter of the dataset

    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / f"data.{kind}", Path(folder) / "scores.parquet"
        write_rows(data, rows)
        if engine == "ray":
            from gainrl.scoring.ray_engine import RayScorer

            model.save_pretrained(Path(folder) / "model")
            tokenizer.save_pretrained(Path(folder) / "model")
            scorer = RayScorer(str(Path(folder) / "model"), device="cpu", tokens_per_batch=4096)
        else:
            scorer = AngleScorer(model.eval(), tokenizer, tokens_per_batch=4096)
        prompts, source = prompts_of(str(data), task, None, None)
        start = time.perf_counter()
        run = score_dataset(
            scorer, prompts, output, source, model_name="tiny", model_hash="weights:0", shards=0 if parts else None,
            progress=progress,
        )  # fmt: skip
        summary(run, output)
        seconds = time.perf_counter() - start
        if engine == "ray":
            scorer.close()
    sampler.over.set()
    sampler.join()
    return {"peak": sampler.peak, "workers": sampler.workers_peak, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--engine", choices=["torch", "ray"], default="torch")
    parser.add_argument("--kind", choices=["jsonl", "json"], default="jsonl")
    parser.add_argument("--task", help="gsm8k, say, whose columns the file has too")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        how = (options.parts, options.engine, options.kind, options.task)
        print(json.dumps(measure(options.measure, *how)))
        return
    results: list[dict[str, float]] = []
    for rows in options.rows:
        child = [sys.executable, __file__, "--measure", str(rows), "--engine", options.engine, "--kind", options.kind]
        child += ["--parts"] * options.parts + (["--task", options.task] if options.task else [])
        printed = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout
        seen = json.loads(printed.strip().splitlines()[-1])
        found = {
            "rows": rows,
            "peak_mib": seen["peak"] / 2**20,
            "over_first": seen["peak"] / 2**20 / results[0]["peak_mib"] if results else 1.0,
            "seconds": seen["seconds"],
            "prompts_per_s": rows / seen["seconds"],
        }
        if options.engine == "ray":
            found["workers_peak_mib"] = seen["workers"] / 2**20
            first = results[0]["workers_peak_mib"] if results else found["workers_peak_mib"]
            found["workers_over_first"] = found["workers_peak_mib"] / first
        results.append(found)
    print(table(results))
    marks = [options.kind] * (options.kind != "jsonl") + [options.task] * (options.task is not None)
    marks += ["ray"] * (options.engine == "ray") + ["parts"] * options.parts
    write_result("_".join(["scoring_memory", *marks]), results, path=options.output)


if __name__ == "__main__":
    main()
