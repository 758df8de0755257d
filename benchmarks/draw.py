"""What does one epoch's draw cost?  Milliseconds for n of N ranks, over N, sigma and mean.

    python benchmarks/draw.py

All cells are timed in turn, round after round; `ratio` is against N = 10 thousand at the same sigma and mean in the
same rounds.  Also timed: the draws of the posterior and probe navigators, which look at every prompt; and the published
way (propose ranks from the Gaussian, throw repeats away), in NumPy, with the proposals that it needed per prompt.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable

import numpy as np
from harness import side_by_side, table, write_result

from gainrl.curriculum import Navigator, PosteriorNavigator, ProbeNavigator, PromptFeatures, Ranking, draw_ranks

SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
SIGMAS = (1.0, 250.0, 1000.0, math.inf)
POSTERIOR_SIZES = (10_000, 100_000, 1_000_000)
PROBE_SIZES = (10_000, 100_000)
COMPONENTS = 32
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}


def draws(n: int, size: int, mean: float, sigma: float) -> Callable[[], object]:
    """A call that draws the next epoch each time it is called."""
    epochs = itertools.count()
    return lambda: draw_ranks(n, size, mean, sigma, seed=0, epoch=next(epochs))


def posterior_draws(n: int, size: int) -> Callable[[], object]:
    """A call that draws the next epoch of a posterior navigator of which half of the prompts were tried."""
    navigator = PosteriorNavigator(ranking(size), n)
    generator = np.random.default_rng(0)
    navigator._tried = 8 * generator.integers(0, 2, size)
    navigator._solved = (256 * navigator._tried * generator.random(size)).astype(np.int64)
    return next_epochs(navigator)


def probe_draws(n: int, size: int) -> Callable[[], object]:
    """A call that draws the next epoch of a probe on COMPONENTS components that has seen one epoch."""
    prompts = ranking(size)
    directions = np.random.default_rng(0).normal(size=(size, 2 * COMPONENTS)).astype(np.float32)
    navigator = ProbeNavigator(prompts, n, PromptFeatures(prompts, prompts.ids, directions, components=COMPONENTS))
    for at, name in enumerate(navigator.draw()):
        record = {"id": name, "scored": True, "angle": None, "reward": None, "tokens": 1}
        navigator.observe([record | {"correct": float(i < at % 9)} for i in range(8)])
    navigator.draw()
    return next_epochs(navigator)


def ranking(size: int) -> Ranking:
    """Prompts in the order of their ids."""
    return Ranking([f"{i:08d}" for i in range(size)], -np.arange(size), "benchmark")


def next_epochs(navigator: Navigator) -> Callable[[], object]:
    """A call that draws the next epoch as if the one before had taught nothing."""

    def draw() -> object:
        navigator._epoch += 1
        navigator._forget()
        return navigator.ranks

    return draw


def by_rejection(n: int, size: int, mean: float, sigma: float, limit: int) -> tuple[float, float, bool]:
    """Seconds, proposals per prompt, and whether n prompts were found within `limit` proposals."""
    generator = np.random.default_rng(0)
    seen: set[int] = set()
    proposals = 0
    start = time.perf_counter()
    while len(seen) < n and proposals < limit:
        ranks = np.rint(generator.normal(mean, sigma, size=n)).astype(np.int64)
        for rank in ranks[(ranks >= 0) & (ranks < size)].tolist():
            seen.add(rank)
            if len(seen) == n:
                break
        proposals += len(ranks)
    return time.perf_counter() - start, proposals / n, len(seen) == n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1024, help="prompts per draw (default 1024)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--proposals", type=int, default=2_000_000, help="where rejection gives up")
    options = parser.parse_args()

    rows = []
    for sigma, (place, share) in itertools.product(SIGMAS, PLACES.items()):
        cases = {str(size): draws(options.n, size, share * (size - 1), sigma) for size in SIZES}
        for size, timing in zip(SIZES, side_by_side(cases, rounds=options.rounds, warmup=2), strict=True):
            rows.append(
                {
                    "how": "race",
                    "n": options.n,
                    "N": size,
                    "sigma": "inf" if math.isinf(sigma) else sigma,
                    "mean": place,
                    "ms": 1e3 * timing.median_s,
                    "ms_20": 1e3 * timing.low_s,
                    "ms_80": 1e3 * timing.high_s,
                    "ratio": timing.ratio,
                }
            )
    print(table(rows))

    remembering = [
        {
            "how": how,
            "n": options.n,
            "N": size,
            "ms": 1e3 * timing.median_s,
            "ms_20": 1e3 * timing.low_s,
            "ms_80": 1e3 * timing.high_s,
            "ratio": timing.ratio,
        }
        for how, make, sizes in (
            ("posterior", posterior_draws, POSTERIOR_SIZES),
            ("probe", probe_draws, PROBE_SIZES),
        )
        for size, timing in zip(
            sizes,
            side_by_side({str(size): make(options.n, size) for size in sizes}, rounds=options.rounds, warmup=1),
            strict=True,
        )
    ]
    print(table(remembering))

    rejection = []
    for sigma, (place, share) in itertools.product((250.0, 1000.0), PLACES.items()):
        seconds, per_prompt, finished = by_rejection(options.n, 7473, share * 7472, sigma, options.proposals)
        rejection.append(
            {
                "how": "rejection",
                "n": options.n,
                "N": 7473,
                "sigma": sigma,
                "mean": place,
                "ms": 1e3 * seconds,
                "proposals_per_prompt": per_prompt,
                "finished": finished,
            }
        )
    print(table(rejection))
    path = write_result("draw", [*rows, *remembering, *rejection], rounds=options.rounds)
    print(f"written: benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
