"""How much faster is the scoring pass than the published procedure, and is it exact?

    python benchmarks/scoring.py --data <gsm8k/train.jsonl> --prefix <prefix.json> [--dtype float32] [--isa avx2]

Published procedure (arXiv 2506.02281's code, here in our own words): one prompt per forward through the whole causal
model, logits of every token included; the prompt rendered with the template's tail; the hidden states copied to the
host; and a similarity matrix per prompt, of which the means of two blocks are taken.  It is given the right token roles
and the same final hidden states as ours, so that the two compute the same scores.

The prompts are taken in blocks, and both procedures do each block in turn: reported is the median of the blocks' ratios
with their spread, with the prefix and without.  `--isa avx2` tells torch, oneDNN and MKL to use no AVX-512, which
approximates a processor without it.  Accuracy: the pass in float32 against the float64 quadratic definition on each
prompt's own forward pass, and the pass in `--dtype` against the pass in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def questions(path: Path, count: int) -> list[str]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["question"] for line, _ in zip(lines, range(count), strict=False)]


def published(model: Any, tokenizer: Any, rows: Sequence[Any], rendered: Sequence[Any]) -> list[float]:
    """The published procedure; returns the scores."""
    import torch

    scores = []
    with torch.inference_mode():
        for row, roles in zip(rows, rendered, strict=True):
            ids = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, return_tensors="pt")[
                "input_ids"
            ]
            states = model(input_ids=ids.to(model.device), output_hidden_states=True).hidden_states[-1][0]
            unit = torch.nn.functional.normalize(states.cpu().float(), dim=-1)
            similarity = unit @ unit.T
            prefix, end = roles.prefix, len(roles.tokens)
            question = similarity[prefix:end, prefix:end].mean()
            scores.append(float(question + similarity[prefix:end, :prefix].mean()))
    return scores


def speed(name: str, scorer: Any, rows: Sequence[Any], blocks: int) -> dict[str, Any]:
    """Both procedures over `rows`, block by block in turn."""
    import numpy as np

    rendered = scorer.renderer(rows)
    size = -(-len(rows) // blocks)
    published(scorer.model, scorer.tokenizer, rows[:2], rendered[:2])
    scorer.score(rows[:8])
    ours, theirs, differences = [], [], []
    for first in range(0, len(rows), size):
        block, roles = rows[first : first + size], rendered[first : first + size]
        start = time.perf_counter()
        wanted = published(scorer.model, scorer.tokenizer, block, roles)
        middle = time.perf_counter()
        found = scorer.score(block)
        ours.append(time.perf_counter() - middle)
        theirs.append(middle - start)
        differences.append(float(np.abs(found.score - np.array(wanted)).max()))
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    return {
        "case": name,
        "prompts": len(rows),
        "prefix_tokens": min(row.prefix for row in rendered),
        "question_tokens": sum(row.question for row in rendered),
        "published_prompts_per_s": len(rows) / sum(theirs),
        "gainrl_prompts_per_s": len(rows) / sum(ours),
        "times_faster": statistics.median(ratios),
        "slowest_block": min(ratios),
        "fastest_block": max(ratios),
        "blocks": len(ratios),
        "form": scorer.form,
        "largest_score_difference": max(differences),
    }


def accuracy(scorer: Any, single: Any, rows: Sequence[Any]) -> dict[str, Any]:
    """float32 against the definition on one prompt at a time; the dtype under test against float32."""
    import numpy as np
    import torch

    from gainrl.angle.reference import angle_concentration_reference
    from gainrl.models import decoder_of

    full, low = single.score(rows).score, scorer.score(rows).score
    wanted = []
    for rendered in single.renderer(rows):
        ids = torch.from_numpy(rendered.tokens.astype(np.int64))[None].to(single.device)
        with torch.inference_mode():
            hidden = decoder_of(single.model)(input_ids=ids, use_cache=False).last_hidden_state[0]
        roles = np.full(len(rendered.tokens), 2)
        roles[: rendered.prefix] = 1
        wanted.append(float(angle_concentration_reference(hidden, [0, len(roles)], roles).score[0]))
    return {
        "prompts": len(rows),
        "fp32_vs_definition_max": float(np.abs(full - np.array(wanted)).max()),
        "dtype_vs_fp32_max": float(np.abs(low - full).max()),
        "dtype_vs_fp32_mean": float(np.abs(low - full).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--prefix", type=Path, required=True, help="JSON with the messages before the question")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--accuracy-prompts", type=int, default=64, help="0: only the speed")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--tokens-per-batch", type=int)
    parser.add_argument(
        "--isa", choices=["own", "avx2"], default="own", help="avx2: without AVX-512 (an approximation)"
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: benchmarks/results/scoring.json)")
    options = parser.parse_args()
    if options.isa == "avx2" and os.environ.get("ATEN_CPU_CAPABILITY") != "avx2":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **AVX2})  # read when torch is loaded
    import torch
    from harness import table, write_result

    from gainrl.scoring import AngleScorer, ScoringPrompt

    if options.threads:
        torch.set_num_threads(options.threads)
    before = json.loads(options.prefix.read_text(encoding="utf-8"))["messages"]
    asked = [{"role": "user", "content": text} for text in questions(options.data, options.prompts)]
    chats, bare = [ScoringPrompt([*before, turn]) for turn in asked], [ScoringPrompt([turn]) for turn in asked]
    scorer = AngleScorer(
        options.model, dtype=options.dtype, device=options.device, tokens_per_batch=options.tokens_per_batch
    )
    results = [speed("with prefix", scorer, chats, options.blocks), speed("bare", scorer, bare, options.blocks)]
    print(table(results))
    exact: dict[str, Any] = {}
    if options.accuracy_prompts:
        single = AngleScorer(options.model, dtype="float32", device=options.device)
        exact = accuracy(scorer, single, chats[: options.accuracy_prompts])
        print(table([exact]))
    settings = {
        "model": options.model, "dtype": scorer.dtype, "threads": torch.get_num_threads(),
        "tokens_per_batch": scorer.tokens_per_batch, "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    write_result("scoring", results, path=options.output, settings=settings, accuracy=exact)


if __name__ == "__main__":
    main()
