"""How fast is angle concentration, against the memory's ceiling and against other ways to compute it?

    python benchmarks/angle.py                             # CPU, or the GPU where torch sees one
    python benchmarks/angle.py --widths 1536 --compare compiled eager published
    python benchmarks/angle.py --isa avx2                  # the kernels and torch as on a CPU without AVX-512

For every shape, dtype and width: time per call, bytes of activations read per second, and the share of the ceiling, a
read-only pass over the same buffer measured in the same rounds.  `--compare` adds providers at `--compare-widths`.
Every provider's scores are checked against float64 first (`--no-check` leaves that out); one that fails is left out of
its row, which says why, and the exit status is 1 at the end.  Ratios are medians over rounds.  The JSON is written
again, whole, after every row.

The kernels' instruction set is held down by GAINRL_CPU_ISA (plain, avx2, avx512), that of torch, and so of the ceiling,
by ATEN_CPU_CAPABILITY (avx2); `--isa avx2` sets both and runs anew.  "isa" in the JSON is what the kernels used.

On a GPU, times are those of CUDA events, with caches that hold other data, begun while the GPU is still busy so that
the host's part is not in them; up to 128 MiB of activations, where launches matter, the replay of a CUDA graph is
timed if the call can be captured (`timed` says which).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from angle_providers import PROVIDERS, Call, Inputs, copy_pass, exact_scores, read_passes
from harness import Timing, quantile, side_by_side, write_result

import gainrl
from gainrl.angle.backends import native_module

WIDTHS = (576, 896, 1536, 2048, 3584, 4096, 8192)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPES = ("prompts", "batch", "long", "tokens")
# Largest error of a provider's score; those that compute in half precision are not held to float32's.
TOLERANCE = dict.fromkeys(("native", "triton", "torch", "eager", "compiled"), 5e-6) | {"published": 3e-2}
FAST = ("native", "triton", "compiled")
MOST_CAPTURED = 128 << 20
SLEEP_CYCLES = 1_000_000  # half a millisecond: longer than any call's launches take the host


class WrongScore(Exception):
    """A provider's scores are further from float64's than its tolerance."""


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
        if shape != "prompts" or rows >= 20 or not taken:  # what is left must still be a prompt with a prefix
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
    index = torch.arange(rows) - torch.repeat_interleave(offsets[:-1], torch.tensor(lengths))
    prefix = torch.repeat_interleave(torch.tensor([n // 3 for n in lengths]), torch.tensor(lengths))
    roles = torch.where(index < prefix, 1, 2).to(torch.int8)
    return Inputs(hidden, offsets.to(device), roles.to(device), lengths)


def error_of(name: str, call: Call, expected: torch.Tensor) -> float:
    """Largest error over the first sequences; WrongScore where it is more than the provider's tolerance."""
    found = torch.as_tensor(call()).cpu().double()[: len(expected)]
    error = float((found - expected).abs().max())
    if not error <= TOLERANCE[name]:
        raise WrongScore(f"error {error:.2e} against float64 is more than {TOLERANCE[name]:.0e}")
    return error


def captured(call: Call) -> Call | None:
    """The replay of a CUDA graph of `call`; None where it cannot be captured (because it waits for the GPU, say)."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def gpu_side_by_side(cases: dict[str, Call], rounds: int) -> list[Timing]:
    """GPU time of each call by events.

    Before each, a buffer larger than the level-2 cache is read: what the cache then holds is of no use to the call and
    need not be written back either.  A kernel that only waits comes next, while the host launches the call behind it.
    """
    other = torch.zeros(64 << 20, dtype=torch.float32, device="cuda")  # 256 MiB
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(-3, rounds):
        for name, call in cases.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            other.sum()
            torch.cuda._sleep(SLEEP_CYCLES)
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


def cpu_side_by_side(calls: dict[str, Call], passes: dict[str, Call], rounds: int) -> list[Timing]:
    """Seconds of each call; the slow ones get fewer rounds, beside the first call again."""
    first = next(iter(calls), "")
    fast = {name: call for name, call in calls.items() if name in FAST or name == first}
    timings = side_by_side({**fast, **passes}, rounds=rounds)
    slow = {name: call for name, call in calls.items() if name not in fast}
    if slow:
        timings += side_by_side({first: calls[first], **slow}, rounds=max(3, rounds // 5))[1:]
    return timings


def prepared(
    inputs: Inputs, providers: list[str], checked: bool
) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """Calls that give the right scores, their errors, and why the others are left out."""
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    failed: dict[str, str] = {}
    expected: torch.Tensor | None = None
    for name in providers:
        if name == "published" and (max(inputs.lengths) > 8192 or len(inputs.lengths) > 20_000):
            continue  # its matrix alone would be gigabytes, or hours of one call per prompt
        try:
            call = PROVIDERS[name](inputs)
            if checked:
                if expected is None:
                    expected = exact_scores(inputs, min(32, len(inputs.lengths)))
                errors[name] = error_of(name, call, expected)
        except Exception as problem:  # the other providers and rows still count
            failed[name] = f"{type(problem).__name__}: {problem}"[:1000]
        else:
            calls[name] = call
    return calls, errors, failed


def measure(row: dict[str, Any], inputs: Inputs, providers: list[str], rounds: int, checked: bool, device: str) -> None:
    """Fills `row` in."""
    calls, errors, failed = prepared(inputs, providers, checked)
    if failed:
        row["failed"] = failed
    passes = read_passes(inputs.hidden)
    timed = dict.fromkeys(calls, "clock")
    if device == "cuda":
        cases = {**calls, **passes, "copy": copy_pass(inputs.hidden)}
        timed = dict.fromkeys(cases, "events")
        for name, call in cases.items():
            # `published` waits for the GPU in the middle of its call.
            if inputs.bytes <= MOST_CAPTURED and name != "published" and (replay := captured(call)) is not None:
                cases[name], timed[name] = replay, "graph replay"
        timings = gpu_side_by_side({**cases, "nothing": lambda: None}, rounds)
    else:
        timings = cpu_side_by_side(calls, passes, rounds)
    by_name = {t.name: t for t in timings}
    ceiling = min((by_name[name] for name in passes), key=lambda t: t.median_s)
    row |= {
        "bytes": inputs.bytes,
        "sequences": len(inputs.lengths),
        "rows": sum(inputs.lengths),
        "ceiling_gb_s": inputs.bytes / ceiling.median_s / 1e9,
        "ceiling": ceiling.name,
    }
    if device == "cuda":
        row["copy_gb_s"] = 2 * inputs.bytes / by_name["copy"].median_s / 1e9
        row["between_events_s"] = by_name["nothing"].median_s  # part of every time of the row, and not taken off
    row["providers"] = {
        name: {
            "seconds": by_name[name].median_s,
            "gb_s": inputs.bytes / by_name[name].median_s / 1e9,
            "share_of_ceiling": ceiling.ratio / by_name[name].ratio,
            "times_first": by_name[name].ratio,
            "error": errors.get(name),
            "timed": timed[name],
        }
        for name in calls
    }


def host_cost(device: str) -> float:
    """Seconds that a call takes the host for a training micro-batch, 16 x 512 x 1536 bf16, without the kernel.

    The GPU is not waited for; on the CPU the compiled kernel is replaced by a function that does nothing.
    """
    inputs = make_inputs([512] * 16, 1536, torch.bfloat16, device)
    samples = []
    with patch.object(native_module(), "angle_cpu", lambda params, threads: None):
        for _ in range(50):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(20):
                gainrl.angle_concentration(inputs.hidden, inputs.offsets, inputs.roles, backend="native", check=False)
            samples.append((time.perf_counter() - start) / 20)
    return statistics.median(samples)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    head = f"{row['shape']:8} {row['dtype']:9} {row['width']:5}"
    cells = [f"{name} FAILED: {why}" for name, why in row.get("failed", {}).items()]
    if "bytes" in row:
        head += f" {row['bytes'] / 1e6:6.0f} {row['ceiling_gb_s']:8.1f}"
        cells += [
            f"{name} {r['gb_s']:.2f} ({r['share_of_ceiling']:.0%}"
            + (f", {r['times_first']:.1f}x slower)" if r["times_first"] > 1.05 else ")")
            for name, r in row["providers"].items()
        ]
    return f"{head}   {'  '.join(cells)}"


def parsed() -> argparse.Namespace:
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
    parser.add_argument("--isa", choices=["own", "avx2"], default="own", help="avx2: without AVX-512, on the CPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison with float64")
    parser.add_argument("--output", type=Path, default=None, help="default: in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    avx2 = {"GAINRL_CPU_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2"}
    if arguments.isa == "avx2" and not avx2.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **avx2})  # both are read once
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = arguments.device
    providers = arguments.providers or (["native", "triton"] if device == "cuda" else ["native"])
    most = (arguments.most_mib or (4096 if device == "cuda" else 256)) << 20
    rows: list[dict[str, Any]] = []
    more: dict[str, Any] = {"backends": gainrl.available_backends(), "threads": torch.get_num_threads()}
    if not isinstance(module := native_module(), str):
        more["isa"] = module.cpu_isa()

    def write() -> Path:
        name = f"angle_{device}" + ("_avx2" if arguments.isa == "avx2" else "")
        return write_result(name, rows, path=arguments.output, **more)

    print(f"{'shape':8} {'dtype':9} {'D':>5} {'MB':>6} {'ceiling':>8}   provider GB/s (share of the ceiling)")
    for shape, dtype_name, width in itertools.product(arguments.shapes, arguments.dtypes, arguments.widths):
        dtype = DTYPES[dtype_name]
        chosen = providers + [
            name for name in arguments.compare if width in arguments.compare_widths and name not in providers
        ]
        row: dict[str, Any] = {"shape": shape, "dtype": dtype_name, "width": width}
        try:
            lengths = shape_lengths(shape, width, dtype.itemsize, most, arguments.fill)
            inputs = make_inputs(lengths, width, dtype, device)
            measure(row, inputs, chosen, arguments.rounds, not arguments.no_check, device)
            del inputs
        except Exception as problem:  # no memory for the case, say
            row["failed"] = row.get("failed", {}) | {"case": f"{type(problem).__name__}: {problem}"[:1000]}
        rows.append(row)
        print(line(row), flush=True)
        write()
    if "isa" in more and "batch" in arguments.shapes and "native" in providers:
        more["host_s"] = host_cost(device)
        print(f"host cost of a call, 16 x 512 x 1536 bf16: {more['host_s'] * 1e6:.1f} us")
    print(json.dumps({"written": write().name, "cases": len(rows)}))
    if any("failed" in row for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
