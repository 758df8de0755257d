"""Tables, plots and `convergence.json` from whatever runs exist, and which ones are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence import study
from benchmarks.convergence.arms import ARMS
from benchmarks.convergence.digests import differences
from benchmarks.convergence.held_out import FAMILIES
from benchmarks.convergence.statistics import COSTS, Interval, Run, across, column, compare, interval
from benchmarks.harness import table, write_result

SEEDS = range(5)
NOTE = (
    "factor_seconds compares wall-clock seconds of runs made at different times: on a shared machine it says nothing "
    "unless the loads in the runs' files are alike"
)
Runs = Mapping[study.Key, Run]


def comparisons(runs: Runs) -> list[dict[str, Any]]:
    """Every arm that ran beside uniform, family by family."""
    pairs = [(family, arm) for family in FAMILIES for arm in ARMS]
    return [found for family, arm in pairs if (found := compare(runs, family, arm)) is not None]


def rows(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The main table: one row for each family and arm; seconds are in convergence.json alone (see NOTE)."""
    return [
        {
            "family": one["family"],
            "arm": one["arm"],
            "seeds": len(one["seeds"]),
            "no level": one["without_level"],
            "censored": one["censored"],
            "rollouts, factor": ("≤ " if one["censored"] else "") + one["factor_rollouts"].text(),
            "even factor": one["even"].text(),
            "tokens, factor": one["factor_tokens"].text(),
            "area": one["area"].text("+.3f"),
            "final": one["final"].text("+.3f"),
        }
        for one in compared
    ]


def overall(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm over the families of a kind: means over all their seeds, families weighing by their seeds."""
    found = []
    for kind, held_out in (("development", False), ("held out", True)):
        for arm in ARMS:
            seeds = [seed | {"family": one["family"]} for one in compared for seed in one["seeds"]
                     if one["arm"] == arm and FAMILIES[one["family"]].held_out == held_out]  # fmt: skip
            defined = [seed for seed in seeds if seed["level"] is not None]
            of, of_defined = ([seed["family"] for seed in some] for some in (seeds, defined))
            if seeds and arm != "uniform":
                found.append({
                    "families": kind, "arm": arm, "runs": len(seeds), "no level": len(seeds) - len(defined),
                    "censored": sum(seed["censored"] for seed in defined),
                    "rollouts, factor": interval(
                        [seed["factor_rollouts"] for seed in defined], geometric=True, families=of_defined
                    ).text(),
                    "even factor": interval([seed["even"] for seed in seeds], geometric=True, families=of).text(),
                    "worst family": _worst(seeds),
                    "area": interval([seed["area"] for seed in seeds], families=of).text("+.4f"),
                    "final": interval([seed["final"] for seed in seeds], families=of).text("+.4f"),
                })  # fmt: skip
    return found


def sampled(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm over all families, development and held out, as a sample of those that there might be."""
    found = []
    for arm in ARMS:
        seeds = [seed | {"family": one["family"]} for one in compared for seed in one["seeds"] if one["arm"] == arm]
        defined = [seed for seed in seeds if seed["level"] is not None]
        if seeds and arm != "uniform":
            found.append({
                "arm": arm, "families": len({seed["family"] for seed in seeds}),
                "censored": sum(seed["censored"] for seed in defined),
                "rollouts, factor": _across(defined, "factor_rollouts"),
                "even factor": _across(seeds, "even"),
            })  # fmt: skip
    return found


def _across(seeds: list[dict[str, Any]], name: str) -> str:
    return across([seed[name] for seed in seeds], [seed["family"] for seed in seeds], geometric=True).text()


def against(compared: list[dict[str, Any]], chosen: str = "probe") -> list[dict[str, Any]]:
    """How many times fewer rollouts than each other arm the chosen one needs to uniform's end, paired by seed.

    A censored arm counts with its budget: the ratio is then a lower bound.
    """
    seeds = {(one["arm"], one["family"], seed["seed"]): seed for one in compared for seed in one["seeds"]}
    found = []
    for kind, held_out in (("development", False), ("held out", True)):
        for arm in ARMS:
            pairs = [
                (own["factor_rollouts"] / other["factor_rollouts"], own["even"] / other["even"], family)
                for (name, family, seed), other in seeds.items()
                if name == arm != chosen and FAMILIES[family].held_out == held_out
                and (own := seeds.get((chosen, family, seed))) and own["level"] is not None
            ]  # fmt: skip
            if pairs:
                ratios, even, of = zip(*pairs, strict=True)
                found.append({
                    "families": kind, f"{chosen} against": arm, "runs": len(pairs),
                    "times fewer rollouts": interval(ratios, geometric=True, families=of).text(),
                    "even": interval(even, geometric=True, families=of).text(),
                })  # fmt: skip
    return found


def _worst(seeds: list[dict[str, Any]]) -> str:
    """The lowest even factor of a family (geometric mean over its seeds), and which."""
    names = sorted({seed["family"] for seed in seeds})
    means = {name: interval([s["even"] for s in seeds if s["family"] == name], geometric=True).mean for name in names}
    lowest = min(names, key=means.__getitem__, default=None)
    return "-" if lowest is None else f"{means[lowest]:.2f} ({lowest})"


def each_seed(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run."""
    return [
        {
            "family": one["family"],
            "arm": one["arm"],
            "seed": seed["seed"],
            "level": seed["level"],
            "rollouts, factor": seed.get("factor_rollouts"),
            "even factor": seed["even"],
            "reached": None if seed["level"] is None else "no" if seed["censored"] else "yes",
            "area": seed["area"],
            "final": seed["final"],
        }
        for one in compared
        for seed in one["seeds"]
    ]


def still_missing(runs: Runs) -> list[study.Key]:
    """Runs of the whole study (five families, five seeds, all arms) that have no result."""
    return [key for key in study.order(FAMILIES, ARMS, SEEDS) if key not in runs]


def rising(runs: Runs) -> list[dict[str, Any]]:
    """Uniform's mean gain in accuracy in each third of its budget, with intervals over seeds."""
    found = []
    for family in FAMILIES:
        gains = []
        for (name, arm, _), run in runs.items():
            if (name, arm) == (family, "uniform"):
                rollouts, accuracy = column(run, "rollouts"), column(run, "accuracy")
                ends = np.interp(np.linspace(0, rollouts[-1], 4), rollouts, accuracy)
                gains.append([*np.diff(ends), ends[0], ends[-1]])
        if gains:
            thirds = [interval(values) for values in zip(*gains, strict=True)]
            names = ("first third", "second third", "last third", "start", "end")
            found.append({"family": family, "seeds": len(gains)}
                         | {name: one.text("+.3f") for name, one in zip(names, thirds, strict=True)})  # fmt: skip
    return found


def plot(runs: Runs, path: Path) -> None:
    """Learning curves: a panel for each family, a colour for each arm, every seed thin and their mean thick."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    present = [name for name in FAMILIES if any(family == name for family, _, _ in runs)]
    arms = [arm for arm in ARMS if any(name == arm for _, name, _ in runs)]
    if not present:
        return
    figure, axes = plt.subplots(1, len(present), figsize=(4.2 * len(present), 3.6), squeeze=False, layout="constrained")
    colours = {arm: plt.get_cmap("tab20")(index) for index, arm in enumerate(ARMS)}
    for panel, family in zip(axes[0], present, strict=True):
        for arm in arms:
            curves = [run for (name, kind, _), run in runs.items() if (name, kind) == (family, arm)]
            if not curves:
                continue
            grid = np.linspace(0, min(column(run, "rollouts")[-1] for run in curves), 41)
            lines = [np.interp(grid, column(run, "rollouts"), column(run, "accuracy")) for run in curves]
            for line in lines:
                panel.plot(grid, line, color=colours[arm], linewidth=0.5, alpha=0.5)
            label = f"{arm} ({len(lines)})"
            panel.plot(grid, np.mean(lines, axis=0), color=colours[arm], linewidth=1.8, label=label)
        panel.set(title=family, xlabel="rollouts")
        panel.legend(fontsize=6)
    axes[0][0].set_ylabel("accuracy on fresh problems")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def report(runs_at: Path, output: Path) -> None:
    """Print the tables; write `convergence.json` and the plot to `output`, beside the runs for a trial."""
    runs = study.results(runs_at)
    compared, absent, unlike = comparisons(runs), still_missing(runs), differences(runs)
    print("Uniform's gain in accuracy by thirds of its budget\n" + table(rising(runs)))
    print("\nAgainst uniform: factors above 1 are savings; mean over seeds (95 % interval)\n" + table(rows(compared)))
    print("\nOver all families of a kind\n" + table(overall(compared)))
    print("\nOver all families as a sample, each family one value\n" + table(sampled(compared)))
    print("\nThe probe against each arm, to uniform's final accuracy\n" + table(against(compared)))
    print("\nEvery seed\n" + table(each_seed(compared)))
    print(f"\n{len(runs)} runs; {len(absent)} of the whole study's {len(runs) + len(absent)} are missing:")
    for family in FAMILIES:
        lacking: dict[str, list[str]] = {}
        for name, arm, seed in absent:
            if name == family:
                lacking.setdefault(arm, []).append(str(seed))
        print(f"  {family}: " + "; ".join(f"{arm} {','.join(seeds)}" for arm, seeds in lacking.items()))
    if unlike:
        print("\nResults held against each other that come from different code (no digest: made before there were any)")
        print(table([one | {"results": len(one["results"]), "such as": one["results"][0]} for one in unlike]))
    output.mkdir(parents=True, exist_ok=True)
    at_home = output == study.RUNS
    plot(runs, output / "curves.svg")
    write_result(
        "convergence",
        [plain(one) for one in compared],
        path=None if at_home else output / "convergence.json",
        command="python -m benchmarks.convergence report",
        note=NOTE,
        rising=rising(runs),
        overall=overall(compared),
        sampled=sampled(compared),
        against=against(compared),
        runs=len(runs),
        missing=[" ".join(map(str, key)) for key in absent],
        different_code=unlike,
    )


def plain(compared: dict[str, Any]) -> dict[str, Any]:
    """A comparison as JSON types; a mean over no seed is null."""
    found = dict(compared)
    for name in (*(f"factor_{cost}" for cost in COSTS), "even", "area", "final"):
        one: Interval = compared[name]
        found[name] = asdict(one) | ({} if one.seeds else {"mean": None})
    return found
