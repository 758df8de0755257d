"""python -m studies.convergence run | study | report | levels; README.md beside this file says what for."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import sys
import tempfile
import time
from pathlib import Path

from studies.convergence import protocol as protocols
from studies.convergence import study
from studies.convergence.arms import ARMS, arm
from studies.convergence.held_out import FAMILIES
from gainrl.errors import UserError
from gainrl.files import write_text

QUICK_STEPS, QUICK_ARMS = 12, ("uniform", "oracle", "gainrl", "probe")


def run(options: argparse.Namespace) -> None:
    """One run; its result is printed as a curve and kept."""
    key = (options.family, arm(options.arm) and options.arm, options.seed)
    protocol = protocols.load()
    if options.steps:
        protocol = dataclasses.replace(protocol, steps=options.steps)
    runs = options.output
    if runs is None:
        if options.steps:
            raise UserError("--steps is not the protocol's budget: name another place for the result with --output DIR")
        runs = study.RUNS
    result = study.land(protocol, key, runs)
    for point in result["curve"]:
        print(f"{point['step']:4d} {point['rollouts']:7d} rollouts {point['seconds']:7.1f} s  {point['accuracy']:.4f}")


def next_time(clock: str, now: float | None = None) -> float:
    """Seconds since the epoch of the next time that it is `clock` (HH:MM UTC); UserError for anything else."""
    now = time.time() if now is None else now
    try:
        hours, minutes = (int(part) for part in clock.split(":"))
    except ValueError:
        raise UserError(f"--until {clock!r}: give a time of day in UTC, such as 23:45") from None
    today = now - now % 86400 + 3600 * hours + 60 * minutes
    return today if today > now else today + 86400


def walk(options: argparse.Namespace) -> None:
    """Every run that is missing, in order, until --until or --limit."""
    protocol, runs, arms, seeds = protocols.load(), options.output or study.RUNS, options.arms, options.seeds
    if options.quick:
        protocol = dataclasses.replace(protocol, steps=QUICK_STEPS)
        runs, seeds = options.output or Path(tempfile.mkdtemp(prefix="convergence-")), [0]
        arms = [name for name in QUICK_ARMS if name in arms]
    if options.prompts:
        if options.output is None:
            raise UserError("--prompts is not the protocol's: name another place for the results with --output DIR")
        protocol = dataclasses.replace(protocol, prompts=options.prompts)
    deadline = next_time(options.until) if options.until else math.inf
    todo = study.missing(study.order(options.families, arms, seeds), runs)[: options.limit]
    print(f"{len(todo)} runs are missing", flush=True)
    ended = study.walk(protocol, todo, runs, deadline, options.workers)
    for number, (key, result, seconds) in enumerate(ended, start=1):
        first, last = (result["curve"][at]["accuracy"] for at in (0, -1))
        print(
            f"{number}/{len(todo)} {' '.join(map(str, key))}: {first:.3f} to {last:.3f} in {result['seconds']:.0f} s, "
            f"{seconds:.0f} s in all",
            flush=True,
        )
    if options.quick:
        from studies.convergence.report import report

        report(runs, runs / "report")


def levels(options: argparse.Namespace) -> None:
    """What each family's base can do before training."""
    import numpy as np

    protocol = protocols.load()
    for name in options.families:
        for seed in options.seeds:
            bed = protocol.bed(name, seed)
            passes = bed.pass_rates(bed.model(), bed.problems)
            of = np.array([problem.level for problem in bed.problems])
            cells = [f"{level.name} {passes[of == at].mean():.2f}" for at, level in enumerate(bed.family.levels)]
            print(f"{name} {seed}: {passes.mean():.3f}, below 0.02 {(passes < 0.02).mean():.2f}, "
                  f"above 0.98 {(passes > 0.98).mean():.2f}; {', '.join(cells)}", flush=True)  # fmt: skip


def make_report(options: argparse.Namespace) -> None:
    """Tables, plots and convergence.json from whatever runs exist."""
    from studies.convergence.report import report

    report(options.output or study.RUNS, study.RUNS if options.output is None else options.output / "report")
    if options.page:
        from studies.convergence.page import filled

        text = filled(options.page.read_text(encoding="utf-8"), study.results(options.output or study.RUNS))
        write_text(options.page, text)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.convergence", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="one arm, family and seed")
    one.add_argument("--family", required=True, choices=list(FAMILIES))
    one.add_argument("--arm", required=True, choices=list(ARMS))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, help="another budget, for trials")
    many = verbs.add_parser("study", help="every run that is missing")
    many.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    many.add_argument("--until", help="begin no run after this time of day, HH:MM UTC")
    many.add_argument("--limit", type=int, help="at most so many runs")
    many.add_argument("--prompts", type=int, help="another size of the dataset, for --output elsewhere")
    many.add_argument("--workers", type=int, default=1, help="runs at a time, each in a process of its own")
    many.add_argument("--quick", action="store_true", help="a first look in ten minutes: 12 steps, one seed")
    cells = verbs.add_parser("levels", help="pass rates of the bases")
    for with_families in (many, cells):
        with_families.add_argument("--families", nargs="+", default=list(study.DEVELOPMENT), choices=list(FAMILIES))
        with_families.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    page = verbs.add_parser("report", help="tables, plots and convergence.json")
    page.add_argument("--page", type=Path, help="a Markdown page whose marked tables are filled in (docs/evidence.md)")
    for with_output in (one, many, page):
        with_output.add_argument("--output", type=Path, help="folder of the runs")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        {"run": run, "study": walk, "levels": levels, "report": make_report}[options.verb](options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
