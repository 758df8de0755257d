"""What does one decision of a navigator cost?  Milliseconds to observe 64 groups and draw 64 of N prompts.

    python benchmarks/draw.py

`build` is the time to construct the navigator; for `probe` it reads directions of 1,024 dimensions, made up block by
block, twice.  `state_kb` is the size of the state's arrays, which checkpoints carry.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from harness import side_by_side, table, write_result

from gainrl.curriculum import NAVIGATORS, Navigator, Outcomes, Prompts, make_navigator

SIZES = (10_000, 100_000, 1_000_000)
WIDTH, N, GROUP = 1024, 64, 8


def prompts(size: int) -> Prompts:
    rng = np.random.default_rng(size)

    def directions() -> Iterator[tuple[slice, np.ndarray]]:
        block = rng.standard_normal((4096, WIDTH), dtype=np.float32)
        for start in range(0, size, 4096):
            yield slice(start, start + 4096), block[: size - start]

    return Prompts(np.arange(size), rng.normal(size=size), rng.integers(10, 500, size=size), directions)


def decision(navigator: Navigator) -> Callable[[], object]:
    """A call that observes the last draw and makes the next one."""
    rng, full = np.random.default_rng(0), np.full(N, GROUP)
    rows = [navigator.draw(N)]

    def call() -> None:
        correct = rng.integers(0, GROUP + 1, size=N)
        navigator.observe(Outcomes(rows[0], full, full, correct, (correct > 0) & (correct < GROUP)), angle=0.3)
        rows[0] = navigator.draw(N)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in NAVIGATORS:
        built = {}
        for size in SIZES:
            given, start = prompts(size), time.perf_counter()
            built[size] = make_navigator(name, given), time.perf_counter() - start
        cases = {str(size): decision(navigator) for size, (navigator, _) in built.items()}
        for size, timing in zip(SIZES, side_by_side(cases, rounds=options.rounds), strict=True):
            navigator, seconds = built[size]
            arrays = [value for value in navigator.state_dict().values() if isinstance(value, np.ndarray)]
            results.append(
                {
                    "navigator": name,
                    "N": size,
                    "ms": 1e3 * timing.median_s,
                    "ms_20": 1e3 * timing.low_s,
                    "ms_80": 1e3 * timing.high_s,
                    "build_s": seconds,
                    "state_kb": sum(array.nbytes for array in arrays) / 1e3,
                }
            )
    print(table(results))
    print(f"written: benchmarks/results/{write_result('draw', results, rounds=options.rounds).name}")


if __name__ == "__main__":
    main()
