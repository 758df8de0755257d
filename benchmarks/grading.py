"""What grading costs: a sandboxed program against a bare interpreter, and gradings per second.

    python benchmarks/grading.py [--programs 60] [--output benchmarks/results/grading.json]

One pair at a time: a bare interpreter that runs the program, the same interpreter in bubblewrap alone, and the whole
grading of it (sandbox, harness, limits, filter, comparison).  Reported are medians of the differences of neighbours,
so that other work on the machine weighs on both sides alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from harness import table, write_result

from gainrl.tasks import load_task
from gainrl.tasks.sandbox import GraderPool, Limits, jail, require_isolation
from gainrl.tasks.sandbox.pool import packed

CODE = "def f(x):\n    return x + 1\n"
CALLS = {"kind": "calls", "code": CODE, "entry": "f", "tests": packed([((1,), {}, 2)])}
STDIN = {"kind": "stdin", "code": "print(int(input()) + 1)", "tests": [["1\n", "2\n"]]}
CHECK = {"kind": "check", "code": CODE, "entry": "f", "prompt": CODE, "test": "def check(c):\n    assert c(1) == 2\n"}


def seconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cost(programs: int) -> dict[str, float]:
    """Milliseconds of one grading beyond a bare interpreter's run of the same program, by kind."""
    pool = GraderPool(1)
    bare = [str(jail.interpreter()), "-I", "-S", "-B", "-c", CODE]
    boxed = [*jail.command()[:-1], "-c", CODE]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": True}
    times: dict[str, list[float]] = {"bare": [], "bubblewrap": [], "calls": [], "stdin": [], "check": []}
    pool.grade([CALLS], Limits())
    for _ in range(programs):
        times["bare"].append(seconds(lambda: subprocess.run(bare, **quiet)))
        times["bubblewrap"].append(seconds(lambda: subprocess.run(boxed, **quiet)))
        for name, request in (("calls", CALLS), ("stdin", STDIN), ("check", CHECK)):
            times[name].append(seconds(lambda request=request: pool.grade([request], Limits())))
    pool.close()
    figures = {"bare_ms": statistics.median(times["bare"]) * 1e3}
    for name in ("bubblewrap", "calls", "stdin", "check"):
        beyond = [a - b for a, b in zip(times[name], times["bare"], strict=True)]
        figures[f"{name}_beyond_bare_ms"] = statistics.median(beyond) * 1e3
    return {name: round(value, 2) for name, value in figures.items()}


def throughput(programs: int) -> dict[str, float]:
    """Gradings per second with one grader, with one a core, and the share of the cores' time that was used."""
    out: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))
    for workers in dict.fromkeys((1, cores)):
        pool = GraderPool(workers)
        pool.grade([CALLS] * 2 * workers, Limits())
        idle, began = _idle(), time.perf_counter()
        pool.grade([{**CALLS, "tests": packed([((n,), {}, n + 1)])} for n in range(programs)], Limits())
        took = time.perf_counter() - began
        out[f"programs_per_second_{workers}_graders"] = round(programs / took, 1)
        out[f"machine_busy_{workers}_graders"] = round(1 - (_idle() - idle) / (took * (os.cpu_count() or 1)), 3)
        pool.close()
    return out


def _idle() -> float:
    """Idle seconds of all cores together since the machine started."""
    return float(Path("/proc/uptime").read_text().split()[1])


def answers() -> dict[str, float]:
    """Comparisons of mathematical answers per second: plain numbers, and what a worker has to decide."""
    task = load_task("gsm8k")
    pairs = [(f"\\frac{{{n}}}{{{n + 1}}}", f"\\boxed{{{n}/{n + 1}}}") for n in range(2, 402)]
    asked = [{"question": "?", "answer": gold} for gold, _ in pairs]
    given = [answer for _, answer in pairs]
    task.grade_many(given[:4], asked[:4])
    symbolic = len(pairs) / seconds(lambda: task.grade_many(given, asked))
    rows = [{"question": "?", "answer": str(n)} for n in range(20_000)]
    texts = [f"The answer is \\boxed{{{n:,}}}." for n in range(20_000)]
    plain = len(rows) / seconds(lambda: task.grade_many(texts, rows))
    return {"symbolic_answers_per_second": round(symbolic, 1), "plain_answers_per_second": round(plain, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    require_isolation()
    rows = [{"what": name, "value": value} for name, value in figures(arguments.programs).items()]
    print(table(rows))
    write_result(
        "grading", rows, path=arguments.output, kernel=platform.release(), load_average=round(os.getloadavg()[0], 2)
    )


def figures(programs: int) -> dict[str, float]:
    return {**cost(programs), **throughput(4 * programs), **answers()}


if __name__ == "__main__":
    main()
