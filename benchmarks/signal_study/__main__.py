"""Command line of the signal study; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time

import torch

from benchmarks.signal_study import stability, tables
from benchmarks.signal_study.cases import CASES, find
from benchmarks.signal_study.measure import Measurement
from benchmarks.signal_study.results import RUNS, write_case
from gainrl.errors import UserError


def measure(names: list[str], minutes: float | None, only: str) -> None:
    """Measure cases: scores and rollouts of all first, then gradients; results are written after each stage."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    cases = [Measurement(name, find(name), RUNS, deadline=deadline) for name in names]
    for case in cases:
        started = time.process_time()
        case.scores()
        case.samples()
        print(f"{case.name}: scores and rollouts, {time.process_time() - started:.0f} s of CPU", flush=True)
        write_case(case)
    if only == "samples":
        return
    for case in cases:
        started = time.process_time()
        done = case.gradients()
        print(f"{case.name}: {len(done)} gradients, {time.process_time() - started:.0f} s of CPU", flush=True)
        write_case(case)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signal_study", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure", help="measure cases and write their result files")
    measuring.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all without")
    measuring.add_argument("--minutes", type=float, help="begin no new part after so many; the same command goes on")
    measuring.add_argument("--stage", choices=["samples", "all"], default="all", help="samples: no gradients")
    moving = verbs.add_parser("stability", help="the ranking before and after training")
    moving.add_argument("case", help="whose prompts are ranked; a tiny one is trained here")
    moving.add_argument("--after", nargs="+", default=[], help="model directories (checkpoints) in order")
    verbs.add_parser("tables", help="tables of the result files there are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if arguments.verb == "measure":
            measure(arguments.cases or list(CASES), arguments.minutes, arguments.stage)
        elif arguments.verb == "stability":
            stability.run(arguments.case, arguments.after)
        else:
            print(tables.everything())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
