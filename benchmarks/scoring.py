"""How fast is the scoring pass, against the published procedure and against the machine?

    python benchmarks/scoring.py --data <gsm8k/train.jsonl> --prefix <prefix.json> [--prompts 1000] [--blocks 4]

Published procedure (arXiv 2506.02281's code, here in our own words): one prompt per forward through the whole causal
model, logits of every token included; the prompt rendered with the template's tail; the hidden states copied to
the host; and a similarity matrix per prompt, of which the means of two blocks are taken.  It is given the right token
roles and the same final hidden states as ours, so that the two compute the same scores.

The prompts are taken in blocks, and both procedures do each block in turn.  Reported with and without the prefix:
prompts per second, the ratio (median over blocks), our share of a 4096x4096x4096 matrix product in the same dtype
measured around each block, over the tokens really forwarded; and beside it the share of that product which the model's
own linear layers reach when torch runs nothing but them, on as many tokens as the pass has in a row: what is left for a
pass that spends no time elsewhere.
The time inside the scorer is reported twice: as its share of the pass by the clock of `gainrl profile`, and as the
median difference between the pass and the same forwards without the scorer, side by side.
Then accuracy: the pass in float32 against the float64 quadratic definition on each prompt's own forward pass, and
the pass in `--dtype` against the pass in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import table, write_result

from gainrl.angle.reference import angle_concentration_reference
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.phases import NO_CLOCK, PhaseClock
from gainrl.scoring.prompts import Rendered
from gainrl.scoring.taps import decoder_of

SHARE_PROMPTS = 100  # a share needs no more, and its 15 passes would take longer than all the rest


def questions(path: Path, count: int) -> list[str]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["question"] for line, _ in zip(lines, range(count), strict=False)]


def chats(asked: Sequence[str], prefix: Sequence[dict[str, str]]) -> list[ScoringPrompt]:
    return [ScoringPrompt([*prefix, {"role": "user", "content": question}]) for question in asked]


@torch.inference_mode()
def published(model: Any, tokenizer: Any, rows: Sequence[ScoringPrompt], rendered: Sequence[Rendered]) -> list[float]:
    """The published procedure; returns the scores."""
    scores = []
    for row, roles in zip(rows, rendered, strict=True):
        ids = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        states = model(input_ids=ids.to(model.device), output_hidden_states=True).hidden_states[-1][0]
        unit = torch.nn.functional.normalize(states.cpu().float(), dim=-1)
        similarity = unit @ unit.T
        prefix, end = roles.prefix, len(roles.tokens)
        question = similarity[prefix:end, prefix:end].mean()
        scores.append(float(question + similarity[prefix:end, :prefix].mean()))
    return scores


def matrix_product(dtype: torch.dtype, device: torch.device, size: int = 4096) -> Callable[[], float]:
    """A function that returns GFLOP/s of one size^3 product."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def measure() -> float:
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 2 * size**3 / (time.perf_counter() - start) / 1e9

    measure()
    return measure


def linear_layers(model: Any) -> list[torch.nn.Linear]:
    return [m for m in decoder_of(model).modules() if isinstance(m, torch.nn.Linear)]


def linear_parameters(model: Any) -> int:
    """Weights of the decoder's linear layers: 2 operations each per token."""
    return sum(layer.weight.numel() for layer in linear_layers(model))


def linear_layers_alone(model: Any, tokens: int) -> Callable[[], float]:
    """A function that returns GFLOP/s of the decoder's linear layers, one after another, on `tokens` rows each."""
    layers, weight = linear_layers(model), next(model.parameters())
    inputs = {n: torch.randn(tokens, n, device=weight.device).to(weight.dtype) for n in {m.in_features for m in layers}}

    @torch.inference_mode()
    def measure() -> float:
        start = time.perf_counter()
        for layer in layers:
            layer(inputs[layer.in_features])
        if weight.device.type == "cuda":
            torch.cuda.synchronize()
        return 2 * tokens * linear_parameters(model) / (time.perf_counter() - start) / 1e9

    measure()
    return measure


def speed(name: str, scorer: AngleScorer, rows: Sequence[ScoringPrompt], blocks: int) -> dict[str, Any]:
    model, tokenizer = scorer.model, scorer.tokenizer
    rendered = scorer.renderer(rows)
    shared = len(next(iter({r.tokens[: r.prefix].tobytes() for r in rendered}))) // 4
    product = matrix_product(next(model.parameters()).dtype, scorer.device)
    in_a_row = [
        sum(rendered[i].question for i in batch.members)  # behind a prefix that was forwarded before
        for batch in scorer.prepare(rows).batches
    ]
    linear = linear_layers_alone(model, int(statistics.median(in_a_row)))
    size = -(-len(rows) // blocks)
    published(model, tokenizer, rows[:2], rendered[:2])
    scorer.score(rows[:8])
    ours_s, theirs_s, shares, ceilings, linear_shares, differences = [], [], [], [], [], []
    for first in range(0, len(rows), size):
        block, roles = rows[first : first + size], rendered[first : first + size]
        work = 2 * linear_parameters(model) * (sum(r.question for r in roles) + shared) / 1e9
        before = product()
        start = time.perf_counter()
        theirs = published(model, tokenizer, block, roles)
        theirs_s.append(time.perf_counter() - start)
        middle = product()
        start = time.perf_counter()
        scores = scorer.score(block)
        ours_s.append(time.perf_counter() - start)
        linears, after = linear(), product()
        ceilings.append(statistics.median([before, middle, after]))
        shares.append(work / ours_s[-1] / ceilings[-1])
        linear_shares.append(linears / ceilings[-1])
        differences.append(float(np.abs(scores.score - np.array(theirs)).max()))
    return {
        "case": name,
        "prompts": len(rows),
        "prefix_tokens": shared,
        "tokens_forwarded": sum(r.question for r in rendered) + shared * len(ours_s),
        "published_prompts_per_s": len(rows) / sum(theirs_s),
        "gainrl_prompts_per_s": len(rows) / sum(ours_s),
        "times_faster": statistics.median(t / o for t, o in zip(theirs_s, ours_s, strict=True)),
        "gemm_gflops": statistics.median(ceilings),
        "share_of_gemm": statistics.median(shares),
        "linear_layers_share_of_gemm": statistics.median(linear_shares),
        "row_tokens": int(statistics.median(in_a_row)),
        "largest_score_difference": max(differences),
        "blocks": len(ours_s),
        "ratios": [t / o for t, o in zip(theirs_s, ours_s, strict=True)],
        "form": type(scorer.forward).__name__,
        **scorer_share(scorer, rows[: min(size, SHARE_PROMPTS)], 5),
    }


def scorer_share(scorer: AngleScorer, rows: Sequence[ScoringPrompt], rounds: int) -> dict[str, Any]:
    """Time inside the scorer as a share of the pass: by the clock, and by leaving the scorer out."""

    @torch.inference_mode()
    def forwards_alone() -> None:
        prepared, kept = scorer.prepare(rows), (b"", None)
        for batch in prepared.batches:
            key = batch.shared.tobytes()
            if key != kept[0]:
                kept = (key, scorer.forward.prefix(batch.shared) if len(batch.shared) else None)
            scorer.forward([prepared.rendered[i].tokens[len(batch.shared) :] for i in batch.members], kept[1])
        if scorer.device.type == "cuda":
            torch.cuda.synchronize()

    whole, alone, clocked = [], [], []
    for _ in range(rounds):
        clock = PhaseClock(scorer.device)
        start = time.perf_counter()
        scorer.score(rows)
        middle = time.perf_counter()
        forwards_alone()
        alone.append(time.perf_counter() - middle)
        whole.append(middle - start)
        scorer.measure(clock)
        start = time.perf_counter()
        scorer.score(rows)
        clocked.append(clock.seconds()["score"] / (time.perf_counter() - start))
        scorer.measure(NO_CLOCK)
    return {
        "scorer_share_by_clock": statistics.median(clocked),
        "scorer_share_side_by_side": statistics.median(1 - a / w for a, w in zip(alone, whole, strict=True)),
    }


@torch.inference_mode()
def accuracy(scorer: AngleScorer, single: AngleScorer, rows: Sequence[ScoringPrompt]) -> dict[str, Any]:
    """float32 against the definition on one prompt at a time; the dtype under test against float32."""
    full, low = single.score(rows).score, scorer.score(rows).score
    wanted = []
    for rendered in single.renderer(rows):
        ids = torch.from_numpy(rendered.tokens.astype(np.int64))[None].to(single.device)
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
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--accuracy-prompts", type=int, default=128)
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: benchmarks/results/scoring.json)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    prefix = json.loads(options.prefix.read_text(encoding="utf-8"))["messages"]
    asked = questions(options.data, options.prompts)
    scorer = AngleScorer(options.model, dtype=options.dtype, device=options.device)
    results = [
        speed("with prefix", scorer, chats(asked, prefix), options.blocks),
        speed("without prefix", scorer, chats(asked, []), options.blocks),
    ]
    print(table(results, [name for name in results[0] if name != "ratios"]))
    single = AngleScorer(options.model, dtype="float32", device=options.device)
    exact = accuracy(scorer, single, chats(asked[: options.accuracy_prompts], prefix))
    print(table([exact]))
    settings = {"model": options.model, "dtype": options.dtype, "threads": torch.get_num_threads()}
    write_result("scoring", results, path=options.output, settings=settings, accuracy=exact)


if __name__ == "__main__":
    main()
