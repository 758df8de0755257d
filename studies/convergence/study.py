"""Which runs there are, which are missing, and where each one lands: a line of studies/results/convergence_2.jsonl."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import commit, machine
from studies.convergence.arms import ARMS
from studies.convergence.held_out import FAMILIES
from studies.convergence.measures import Run, compared, factor
from studies.convergence.protocol import Protocol, Shape

RESULTS = Path(__file__).parents[1] / "results" / "convergence_2.jsonl"
HELD_OUT = [name for name, family in FAMILIES.items() if family.held_out]
SEEDS = range(5)


class Key(NamedTuple):
    """What tells one run from another."""

    family: str
    arm: str
    seed: int
    shape: Shape


def key_of(run: Run) -> Key:
    """The key of a result."""
    return Key(run["family"], run["arm"], run["seed"], Shape(*run["shape"]))


def results(path: Path = RESULTS) -> list[dict[str, Any]]:
    """All results that exist, in the order in which they landed."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def plan(protocol: Protocol, stage: str, arms: Sequence[str], done: Sequence[Run]) -> list[Key]:
    """The runs of a stage, most telling first.

    shapes    every shape at the usual rate, on one base of each tuning family
    rates     half and twice the rate at each arm's best shape so far
    seeds     each arm's best two of all that on two more bases
    heldout   uniform in the usual shape, and each arm in the one that protocol.yaml has for it, on five bases
    """
    if stage == "shapes":
        cells = [Shape(*shape, protocol.usual.rate) for shape in protocol.shapes]
        return [Key(f, arm, 0, cell) for cell in cells for arm in arms for f in protocol.tuning]
    if stage == "heldout":
        pairs = [("uniform", protocol.usual), *((arm, protocol.chosen[arm]) for arm in arms if arm in protocol.chosen)]
        return [Key(f, arm, s, shape) for s in SEEDS for arm, shape in dict.fromkeys(pairs) for f in HELD_OUT]
    best = {arm: [shape for shape, _ in ranked(protocol, arm, done)] for arm in arms}
    if stage == "rates":
        return [
            Key(f, arm, 0, best[arm][0]._replace(rate=rate))
            for arm in arms if best[arm] for rate in protocol.rates if rate != best[arm][0].rate
            for f in protocol.tuning
        ]  # fmt: skip
    extra = [Key(f, "uniform", s, protocol.usual) for s in (1, 2) for f in protocol.tuning]
    cells = [(arm, shape) for arm in arms for shape in best[arm][:2]]
    return list(
        dict.fromkeys([*extra, *(Key(f, arm, s, c) for arm, c in cells for s in (1, 2) for f in protocol.tuning)])
    )


def ranked(protocol: Protocol, arm: str, runs: Sequence[Run]) -> list[tuple[Shape, float]]:
    """The arm's shapes on the tuning families, best first, with their factors over uniform in the usual shape.

    A shape that lacks a tuning family on the first base is left out.
    """
    found: dict[Shape, list[tuple[int, float, bool]]] = {}
    families: dict[Shape, set[str]] = {}
    for run in runs:
        if run["arm"] == arm and run["family"] in protocol.tuning:
            usual = next((one for one in runs if one["usual"] and one["family"] == run["family"]
                          and one["base"] == run["base"]), None)  # fmt: skip
            pair = None if usual is None else compared(runs, usual, run)
            if pair is not None:
                shape = Shape(*run["shape"])
                found.setdefault(shape, []).append((run["seed"], *pair))
                families.setdefault(shape, set()).add(run["family"])
    whole = {
        shape: factor(pairs).mean for shape, pairs in found.items() if len(families[shape]) == len(protocol.tuning)
    }
    return sorted(whole.items(), key=lambda item: -item[1])


@cache
def loaded() -> Mapping[str, Any]:
    """The commit of the code in this process, which may be older than the checkout by the time of a later run."""
    return commit()


def land(protocol: Protocol, key: Key, path: Path = RESULTS) -> dict[str, Any]:
    """Train one arm and append its result."""
    made = loaded()  # before the trainer is imported
    from studies.convergence.training import run

    result = {
        "command": "python -m studies.convergence run "
        f"--family {key.family} --arm {key.arm} --seed {key.seed} --shape {key.shape}",
        **made, "machine": {**machine(), "load": round(os.getloadavg()[0], 2)},
        **run(protocol, key.family, key.arm, key.seed, key.shape),
    }  # fmt: skip
    append(result, path)
    return result


def append(result: Mapping[str, Any], path: Path) -> None:
    """Add a line to a file of results that other processes may add to as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(result) + "\n")
        file.flush()
        os.fsync(file.fileno())


def walk(
    protocol: Protocol, keys: Sequence[Key], path: Path, deadline: float, workers: int
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Land these runs, so many at a time, as they end; none is begun after `deadline` (as time.time())."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_in_time, protocol, key, path, deadline) for key in keys]):
            if (result := done.result()) is not None:
                yield result


def _in_time(protocol: Protocol, key: Key, path: Path, deadline: float) -> tuple[Key, dict[str, Any]] | None:
    return None if time.time() >= deadline else (key, land(protocol, key, path))


__all__ = ["ARMS", "HELD_OUT", "RESULTS", "Key", "key_of", "land", "plan", "ranked", "results", "walk"]
