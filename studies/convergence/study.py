"""Which runs there are, which are missing, and where each one lands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from studies.convergence.arms import ARMS
from studies.convergence.held_out import FAMILIES
from studies.convergence.protocol import Protocol
from benchmarks.harness import RESULTS, commit, machine
from gainrl.files import write_text

RUNS = RESULTS / "convergence"
FIRST = ("uniform", "oracle", "gainrl", "posterior", "target", "probe")
"""The arms that come first, for all families and seeds."""
DEVELOPMENT = tuple(name for name, family in FAMILIES.items() if not family.held_out)
HELD_OUT = tuple(name for name, family in FAMILIES.items() if family.held_out)

Key = tuple[str, str, int]
"""Family, arm, seed."""


def result_path(key: Key, runs: Path = RUNS) -> Path:
    """Where a run's result lies."""
    family, arm, seed = key
    return runs / f"{family}.{arm}.{seed}.json"


def order(families: Iterable[str], arms: Iterable[str], seeds: Iterable[int]) -> Iterator[Key]:
    """All runs asked for: the first arms seed by seed over the families, then the others in the same way."""
    families, arms, seeds = list(families), list(arms), list(seeds)
    for chosen in ([arm for arm in FIRST if arm in arms], [arm for arm in ARMS if arm in arms and arm not in FIRST]):
        for seed in seeds:
            for arm in chosen:
                for family in families:
                    yield family, arm, seed


def missing(keys: Iterable[Key], runs: Path = RUNS) -> list[Key]:
    """The runs that have no result yet."""
    return [key for key in keys if not result_path(key, runs).is_file()]


@cache
def loaded() -> dict[str, Any]:
    """The commit of the code in this process, which may be older than the checkout by the time of a later run."""
    return commit()


def land(protocol: Protocol, key: Key, runs: Path = RUNS) -> dict[str, Any]:
    """Train one arm and write its result, whole or not at all."""
    family, arm, seed = key
    made = loaded()  # before the trainer is imported
    from studies.convergence.digests import code_of

    code = code_of(protocol, family, arm)
    from studies.convergence.training import run

    result = {
        "command": f"python -m studies.convergence run --family {family} --arm {arm} --seed {seed}",
        **made,
        "machine": {**machine(), "load_before": round(os.getloadavg()[0], 2)},
        "code": code,
        **run(protocol, family, arm, seed),
    }
    runs.mkdir(parents=True, exist_ok=True)
    write_text(result_path(key, runs), compact(result))
    return result


def walk(
    protocol: Protocol, keys: Sequence[Key], runs: Path, deadline: float, workers: int
) -> Iterator[tuple[Key, dict[str, Any], float]]:
    """Land these runs, so many at a time: (key, result, seconds with all else) as they end.

    None is begun after `deadline` (as time.time()).  More than one worker: processes that are kept from run to run.
    """
    if workers == 1:
        yield from (done for key in keys if (done := _timed(protocol, key, runs, deadline)) is not None)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_timed, protocol, key, runs, deadline) for key in keys]):
            if (result := done.result()) is not None:
                yield result


def _timed(protocol: Protocol, key: Key, runs: Path, deadline: float) -> tuple[Key, dict[str, Any], float] | None:
    if time.time() >= deadline:
        return None
    started = time.perf_counter()
    result = land(protocol, key, runs)
    return key, result, time.perf_counter() - started


def compact(result: dict[str, Any]) -> str:
    """JSON with one line for each field, and one for each point of the curve."""
    lines = []
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inside = ",\n  ".join(json.dumps(point) for point in value)
            lines.append(f"{json.dumps(name)}: [\n  {inside}\n ]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def results(runs: Path = RUNS) -> dict[Key, dict[str, Any]]:
    """All results that exist."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("*.json")))
    return {(one["family"], one["arm"], one["seed"]): one for one in found}
