"""python -m studies.convergence run | study | select | report; README.md beside this file says what for."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from pathlib import Path

from gainrl.errors import UserError
from studies.convergence import protocol as protocols
from studies.convergence import study
from studies.convergence.arms import ARMS
from studies.convergence.held_out import FAMILIES
from studies.convergence.protocol import Shape


def shape_of(text: str) -> Shape:
    """`12x4@1e-4` as a shape."""
    try:
        prompts, rest = text.split("x")
        rollouts, rate = rest.split("@")
        return Shape(int(prompts), int(rollouts), float(rate))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give PROMPTSxROLLOUTS@RATE, as 12x4@1e-4") from None


def run(options: argparse.Namespace) -> None:
    """One run; its result is printed as a curve and kept."""
    protocol = protocols.load()
    key = study.Key(options.family, options.arm, options.seed, options.shape or protocol.usual)
    for point in study.land(protocol, key, options.output)["curve"]:
        print(f"{point['step']:4d} {point['rollouts']:7d} rollouts  {point['accuracy']:.4f}")


def walk(options: argparse.Namespace) -> None:
    """Every run of a stage that is missing, until --until or --limit."""
    protocol, done = protocols.load(), study.results(options.output)
    landed = {study.key_of(one) for one in done}
    todo = [key for key in study.plan(protocol, options.stage, options.arms, done) if key not in landed]
    deadline = time.time() + 60 * options.minutes if options.minutes else math.inf
    print(f"{len(todo)} runs are missing", flush=True)
    for number, (key, result) in enumerate(
        study.walk(protocol, todo[: options.limit], options.output, deadline, options.workers), start=1
    ):
        first, last = (result["curve"][at]["accuracy"] for at in (0, -1))
        print(f"{number}/{len(todo)} {key.family} {key.arm} {key.seed} {key.shape}: {first:.3f} to {last:.3f}, "
              f"{result['mixed'] / result['groups']:.0%} mixed, {result['seconds']:.0f} s", flush=True)  # fmt: skip


def select(options: argparse.Namespace) -> None:
    """Each arm's shapes by their factor on the tuning families, best first; protocol.yaml takes the choice by hand."""
    protocol, done = protocols.load(), study.results(options.output)
    for arm in options.arms:
        cells = ", ".join(f"{shape} {value:.2f}" for shape, value in study.ranked(protocol, arm, done))
        print(f"{arm}: {cells or 'no shape has all tuning families'}")


def report(options: argparse.Namespace) -> None:
    """The tables, as Markdown."""
    from studies.convergence.report import tables

    print(tables(protocols.load(), study.results(options.output)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.convergence", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="one arm, family, base and shape")
    one.add_argument("--family", required=True, choices=list(FAMILIES))
    one.add_argument("--arm", required=True, choices=list(ARMS))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--shape", type=shape_of, help="PROMPTSxROLLOUTS@RATE; the usual one if left out")
    many = verbs.add_parser("study", help="every run of a stage that is missing")
    many.add_argument("stage", choices=["shapes", "rates", "seeds", "heldout"])
    many.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    many.add_argument("--limit", type=int, help="at most so many runs")
    many.add_argument("--workers", type=int, default=1, help="runs at a time, each in a process of its own")
    chosen = verbs.add_parser("select", help="each arm's shapes, best first")
    for with_arms in (many, chosen):
        with_arms.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    shown = verbs.add_parser("report", help="the tables")
    for with_output in (one, many, chosen, shown):
        with_output.add_argument("--output", type=Path, default=study.RESULTS, help="another file of results")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        {"run": run, "study": walk, "select": select, "report": report}[options.verb](options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
