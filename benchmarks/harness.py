"""What every benchmark script shares: who measured, how two things are timed side by side, where the numbers go.

A benchmark asks one question, prints a plain table and writes `benchmarks/results/<question>.json` with the
command, the commit and a description of the machine (model names and counts; no host name, no path).  Scripts are
run as `python benchmarks/<question>.py` and say `from harness import ...`.

Timing on a shared machine: absolute times drift by tens of percent within minutes, ratios do not.
`side_by_side` therefore runs the cases in turn, round after round, and reports the median over rounds of each case's
ratio to the first one beside the plain medians.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gainrl.files import write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Timing:
    """One case: seconds per call (median, 20 % and 80 % quantiles over rounds), and its ratio to the first case.

    `ratio` is the median over rounds of this case's seconds over the first case's seconds in the same round:
    below 1 means faster than the first case.
    """

    name: str
    median_s: float
    low_s: float
    high_s: float
    ratio: float
    rounds: int


def side_by_side(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    calls: int = 1,
    synchronize: Callable[[], object] | None = None,
) -> list[Timing]:
    """Time `cases` in turn for `rounds` rounds; within a round each case is called `calls` times in a row.

    `synchronize` is called before a clock is read (`torch.cuda.synchronize` on a GPU).
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(-warmup, rounds):
        for name, call in cases.items():
            if synchronize is not None:
                synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            if synchronize is not None:
                synchronize()
            if index >= 0:
                seconds[name].append((time.perf_counter() - start) / calls)
    base = next(iter(seconds.values()))
    return [
        Timing(
            name=name,
            median_s=statistics.median(taken),
            low_s=quantile(taken, 0.2),
            high_s=quantile(taken, 0.8),
            ratio=statistics.median(one / other for one, other in zip(taken, base, strict=True)),
            rounds=rounds,
        )
        for name, taken in seconds.items()
    ]


def quantile(values: Sequence[float], q: float) -> float:
    """Linearly interpolated quantile, 0 <= q <= 1."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def machine() -> dict[str, Any]:
    """CPU model, usable cores, memory, GPU if torch is loaded and sees one, versions; nothing that names the host."""
    described: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
    for package in ("numpy", "torch", "transformers"):
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            described[package] = None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["cuda"] = torch.version.cuda
    return described


def commit() -> dict[str, Any]:
    """Commit measured, and whether tracked files under gainrl, csrc or benchmarks (results aside) differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        watched = ["gainrl", "csrc", "CMakeLists.txt", "benchmarks", ":!benchmarks/results"]
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", *watched)),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}  # a copy of the tree without git, as on a device machine


def command() -> str:
    """The command line that started this script; absolute paths are shown relative to the project's root."""
    words = [os.path.relpath(word, ROOT) if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["python", os.path.relpath(Path(sys.argv[0]).resolve(), ROOT), *words])


def write_result(
    name: str, rows: Sequence[Mapping[str, Any] | Timing], *, path: Path | None = None, **more: Any
) -> Path:
    """Write rows with their provenance to `benchmarks/results/<name>.json` (or `path`), whole or not at all."""
    path = RESULTS / f"{name}.json" if path is None else path
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [asdict(row) if isinstance(row, Timing) else dict(row) for row in rows]
    result = {"command": command(), **commit(), "machine": machine(), **more, "rows": plain}
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned plain text; floats with four significant digits, None as a dash."""
    if not rows:
        return "(no rows)"
    names = list(columns or rows[0])
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
