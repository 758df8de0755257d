"""python -m studies.real_model study | report; README.md beside this file says what for."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine
from studies.convergence.measures import compared, factor, smoothed
from studies.convergence.report import table
from studies.convergence.study import append, loaded, results
from studies.real_model.problems import Protocol, load

RESULTS = Path(__file__).parents[1] / "results" / "real_model.jsonl"


def missing(
    protocol: Protocol, arms: Sequence[str], seeds: Sequence[int], done: Sequence[Any], rate: float | None = None
) -> list[Any]:
    """(arm, seed, rate) of the runs that are to come: uniform's tuning on the first seed, then every arm and seed.

    If the best of the protocol's rates is the lowest or the highest, one rate beyond it is tried too.  With `rate`,
    every arm and seed at that one.
    """
    there, rates = {(run["arm"], run["seed"], run["rate"]) for run in done}, sorted(protocol.rates)
    if rate is not None:
        return [key for seed in seeds for arm in arms if (key := (arm, seed, rate)) not in there]
    tuning = [("uniform", seeds[0], rate) for rate in protocol.rates]
    if there.issuperset(tuning):
        best = tuned([run for run in done if run["rate"] in rates])
        beyond = {rates[0]: rates[0] / 2, rates[-1]: 2 * rates[-1]}.get(best)
        tuning = [("uniform", seeds[0], beyond)] if beyond else []
        if there.issuperset(tuning):
            tuning = [(arm, seed, tuned(done)) for seed in seeds for arm in arms]
    return [key for key in tuning if key not in there]


def tuned(done: Sequence[Any]) -> float:
    """The rate at which uniform ends highest on the first seed."""
    first = [run for run in done if run["arm"] == "uniform" and run["seed"] == min(one["seed"] for one in done)]
    return float(max(first, key=lambda run: smoothed(run)[-1])["rate"])


def landed(protocol: Protocol, options: argparse.Namespace) -> list[Any]:
    """The runs of the protocol's family that are in the results."""
    return [run for run in results(options.output) if run["family"] == protocol.family]


def study(options: argparse.Namespace) -> None:
    """Every run that is missing, one after another."""
    made = loaded()  # before the trainer is imported
    from studies.real_model.training import run

    protocol = load(options.family)
    deadline = time.time() + 60 * options.minutes if options.minutes else math.inf
    wanted = options.arms, options.seeds
    while (keys := missing(protocol, *wanted, landed(protocol, options), options.rate)) and time.time() < deadline:
        arm, seed, rate = keys[0]
        result = run(protocol, arm, seed, rate)
        where = {**machine(), "load": round(os.getloadavg()[0], 2)}
        command = f"python -m studies.real_model study --family {options.family} --arms {arm} --seeds {seed}"
        command += f" --rate {rate:g}" if options.rate else ""
        append({"command": command, **made, "machine": where, **result}, options.output)
        first, last = (result["curve"][at]["accuracy"] for at in (0, -1))
        print(f"{arm} {seed} {rate:g}: {first:.3f} to {last:.3f}, {np.mean(result['mixed']):.0%} mixed, "
              f"{result['seconds']:.0f} s", flush=True)  # fmt: skip


def report(options: argparse.Namespace) -> None:
    """The tables, as Markdown."""
    protocol = load(options.family)
    done = landed(protocol, options)
    rate = tuned(done)
    runs = [{**run, "base": "", "usual": run["arm"] == "uniform" and run["rate"] == rate} for run in done]
    usual = {run["seed"]: run for run in runs if run["usual"]}
    rows, cells = (
        [],
        sorted({(run["arm"], run["rate"]) for run in runs}, key=lambda c: (list(protocol.arms).index(c[0]), c)),
    )
    for arm, at in cells:
        of = [run for run in runs if (run["arm"], run["rate"]) == (arm, at)]
        pairs = [(run["seed"], *pair) for run in of if run["seed"] in usual
                 if (pair := compared(runs, usual[run["seed"]], run)) is not None]  # fmt: skip
        ends = [smoothed(run)[-1] for run in of]
        rows.append([
            arm, f"{at:g}", len(of), f"{np.mean([run['curve'][0]['accuracy'] for run in of]):.3f}",
            f"{np.mean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f})",
            f"{np.mean([np.mean(run['mixed']) for run in of]):.0%}", factor(pairs), sum(pair[2] for pair in pairs),
            f"{np.mean([run['seconds'] - run['evaluation_seconds'] for run in of]) / protocol.steps:.1f}",
        ])  # fmt: skip
    header = ["arm", "rate", "seeds", "start", "end (range over seeds)", "mixed groups",
              "factor to uniform's end", "not reached", "seconds a step"]  # fmt: skip
    print(table(header, rows))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.real_model", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    walk, shown = verbs.add_parser("study", help="every run that is missing"), verbs.add_parser("report", help="tables")
    walk.add_argument("--arms", nargs="+", default=["uniform", "probe"], choices=list(load().arms))
    walk.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    walk.add_argument("--rate", type=float, help="this learning rate, not the one that is best for uniform")
    walk.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    for verb in (walk, shown):
        verb.add_argument("--family", default="arithmetic", choices=list(load().families), help="which problems")
        verb.add_argument("--output", type=Path, default=RESULTS, help="another file of results")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    {"study": study, "report": report}[options.verb](options)


if __name__ == "__main__":
    main()
