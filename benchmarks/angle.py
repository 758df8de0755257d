"""How fast is angle concentration, against the memory's ceiling and against other ways to compute it?

    python benchmarks/angle.py                             # CPU, or the GPU where torch sees one
    python benchmarks/angle.py --widths 1536 --compare compiled eager published

For every shape, dtype and width: time per call, bytes of activations read per second, and the share of the ceiling, a
read-only pass over the same buffer measured in the same rounds.  `--compare` adds providers at `--compare-widths`.
Every provider's scores are checked against float64 first (`--no-check` leaves that out).  Ratios are medians over
rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from angle_providers import PROVIDERS, Call, Inputs, copy_pass, exact_scores, read_passes
from harness import Timing, quantile, side_by_side, write_result

import gainrl

WIDTHS = (576, 896, 1536, 2048, 3584, 4096, 8192)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPES = ("prompts", "batch", "long", "tokens")
# Largest error of a provider's score; those that compute in half precision are not held to float32's.
TOLERANCE = {"native": 5e-6, "triton": 5e-6, "torch": 5e-6, "eager": 5e-6, "compiled": 5e-6, "published": 3e-2}


def shape_lengths(shape: str, width: int, item: int, most_bytes: int, fill: bool) -> list[int]:
    """Sequence lengths of a shape that occurs, cut to `most_bytes` of activations (with `fill`, repeated up to it)."""
    generator = torch.Generator().manual_seed(0)
    rows = max(1, most_bytes // (width * item))
    if shape == "prompts":  # 4096 prompts of 20 to 300 tokens
        lengths = torch.randint(20, 301, (4096,), generator=generator).tolist()
    elif shape == "batch":  # a training micro-batch
        lengths = [512] * 16
    elif shape == "long":
        lengths = [rows if fill else 131072]
    else:  # a million prompts of one token
        lengths = [1] * 1_000_000
    taken: list[int] = []
    for length in itertools.cycle(lengths) if fill else lengths:
        if rows <= 0:
            break
        taken.append(min(length, rows))
        rows -= length
    return taken if shape == "long" or len(taken) == 1 else [n for n in taken if n == lengths[0] or shape == "prompts"]


def make_inputs(lengths: list[int], width: int, dtype: torch.dtype, device: str) -> Inputs:
    """Rows around a common direction (cosines near 0.5), a third of each sequence prefix."""
    generator = torch.Generator(device=device).manual_seed(1)
    rows = sum(lengths)
    hidden = torch.empty(rows, width, dtype=dtype, device=device)
    for low in range(0, rows, 1 << 14):
        part = hidden[low : low + (1 << 14)]
        part.copy_(torch.rand(part.shape, generator=generator, device=device) - 0.2)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    place = torch.arange(rows) - torch.repeat_interleave(offsets[:-1], torch.tensor(lengths))
    prefix = torch.repeat_interleave(torch.tensor([n // 3 for n in lengths]), torch.tensor(lengths))
    roles = torch.where(place < prefix, 1, 2).to(torch.int8)
    return Inputs(hidden, offsets.to(device), roles.to(device), lengths)


def check(name: str, call: Call, inputs: Inputs) -> float:
    """Largest error over the first sequences; raises where it is more than the provider's tolerance."""
    expected = exact_scores(inputs, min(32, len(inputs.lengths)))
    found = torch.as_tensor(call()).cpu().double()[: len(expected)]
    error = float((found - expected).abs().max())
    if not error <= TOLERANCE[name]:
        raise SystemExit(f"{name}: error {error:.2e} against float64 is more than {TOLERANCE[name]:.0e}")
    return error


def gpu_side_by_side(cases: dict[str, Call], rounds: int) -> list[Timing]:
    """GPU time of each call by events, caches cold: a buffer larger than the level-2 cache is written before each."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(-3, rounds):
        for name, call in cases.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            begin.record()
            call()
            end.record()
            end.synchronize()
            if index >= 0:
                seconds[name].append(begin.elapsed_time(end) / 1e3)
    base = next(iter(seconds.values()))
    return [
        Timing(name, statistics.median(s), quantile(s, 0.2), quantile(s, 0.8),
               statistics.median(a / b for a, b in zip(s, base, strict=True)), rounds)
        for name, s in seconds.items()
    ]  # fmt: skip


def measure(inputs: Inputs, providers: list[str], rounds: int, checked: bool, device: str) -> dict[str, Any]:
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    for name in providers:
        if name == "published" and max(inputs.lengths) > 8192:
            continue  # its matrix alone would be gigabytes
        if name == "published" and len(inputs.lengths) > 20_000:
            continue  # hours of one call per prompt
        call = PROVIDERS[name](inputs)
        if checked:
            errors[name] = check(name, call, inputs)
        calls[name] = call
    passes = read_passes(inputs.hidden)
    if device == "cuda":
        passes["copy"] = copy_pass(inputs.hidden)
        timings = gpu_side_by_side({**calls, **passes}, rounds)
    else:
        fast = {name: call for name, call in calls.items() if name in ("native", "triton")}
        timings = side_by_side({**fast, **passes}, rounds=rounds)
        slow = {name: call for name, call in calls.items() if name not in fast}
        if slow:  # seconds per call: fewer rounds, beside the first provider again
            first = next(iter(fast))
            timings += side_by_side({first: fast[first], **slow}, rounds=max(3, rounds // 5))[1:]
    by_name = {t.name: t for t in timings}
    ceiling = min((by_name[name] for name in passes if name != "copy"), key=lambda t: t.median_s)
    row: dict[str, Any] = {
        "bytes": inputs.bytes,
        "sequences": len(inputs.lengths),
        "rows": sum(inputs.lengths),
        "ceiling_gb_s": inputs.bytes / ceiling.median_s / 1e9,
        "ceiling": ceiling.name,
    }
    if "copy" in by_name:
        row["copy_gb_s"] = 2 * inputs.bytes / by_name["copy"].median_s / 1e9
    row["providers"] = {
        name: {
            "seconds": by_name[name].median_s,
            "gb_s": inputs.bytes / by_name[name].median_s / 1e9,
            "share_of_ceiling": ceiling.ratio / by_name[name].ratio if ceiling.ratio else None,
            "times_first": by_name[name].ratio,
            "error": errors.get(name),
        }
        for name in calls
    }
    return row


def host_cost(device: str) -> dict[str, float]:
    """Seconds per call on the host for a training micro-batch, 16 x 512 x 1536 bf16, nothing waited for."""
    import time

    inputs = make_inputs([512] * 16, 1536, torch.bfloat16, device)
    call = PROVIDERS["native"](inputs)
    samples = []
    for _ in range(50):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            call()
        samples.append((time.perf_counter() - start) / 20)
    return {"host_s": statistics.median(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--providers", nargs="+", default=None, choices=list(PROVIDERS))
    parser.add_argument("--compare", nargs="*", default=[], choices=list(PROVIDERS))
    parser.add_argument("--compare-widths", nargs="+", type=int, default=[1536])
    parser.add_argument("--most-mib", type=int, default=None, help="most activations per case (CPU 256, GPU 4096)")
    parser.add_argument("--fill", action="store_true", help="repeat each shape until it has that much")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (torch's default otherwise)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison with float64")
    parser.add_argument("--output", type=Path, default=None, help="default: benchmarks/results/angle_<device>.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = arguments.device
    providers = arguments.providers or (["native", "triton"] if device == "cuda" else ["native"])
    most = (arguments.most_mib or (4096 if device == "cuda" else 256)) << 20
    rows = []
    print(f"{'shape':8} {'dtype':9} {'D':>5} {'MB':>6} {'ceiling':>8}   provider GB/s (share of the ceiling)")
    for shape in arguments.shapes:
        for dtype_name in arguments.dtypes:
            for width in arguments.widths:
                dtype = DTYPES[dtype_name]
                inputs = make_inputs(
                    shape_lengths(shape, width, dtype.itemsize, most, arguments.fill), width, dtype, device
                )
                chosen = providers + [
                    name for name in arguments.compare if width in arguments.compare_widths and name not in providers
                ]
                row = measure(inputs, chosen, arguments.rounds, not arguments.no_check, device)
                rows.append({"shape": shape, "dtype": dtype_name, "width": width, **row})
                cells = "  ".join(
                    f"{name} {r['gb_s']:.2f} ({r['share_of_ceiling']:.0%}"
                    + (f", {r['times_first']:.1f}x slower)" if r["times_first"] > 1.05 else ")")
                    for name, r in row["providers"].items()
                )
                head = f"{shape:8} {dtype_name:9} {width:5} {row['bytes'] / 1e6:6.0f} {row['ceiling_gb_s']:8.1f}"
                print(f"{head}   {cells}", flush=True)
                del inputs
    more = {"backends": gainrl.available_backends(), "threads": torch.get_num_threads(), **host_cost(device)}
    print(f"host cost of a call, 16 x 512 x 1536 bf16: {more['host_s'] * 1e6:.0f} us")
    path = arguments.output
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    written = write_result(f"angle_{device}", rows, path=path, **more)
    print(json.dumps({"written": str(written.name), "cases": len(rows)}))


if __name__ == "__main__":
    main()
