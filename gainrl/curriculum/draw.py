"""Exact draws without replacement from a Gaussian window over ranks, in time that does not depend on their number.

Law (design, part 3).  Rank r of 0 … N−1 has weight w_r = exp(−(r−μ)²/2σ²).  A draw of n takes n distinct ranks one
after another, each time with probability w_r / Σ of the weights still there (successive sampling).

Race.  Give every rank an exponential clock with rate w_r; the order in which the clocks ring is that law (the
first to ring is r with probability w_r/Σw, and the clocks of the others have no memory).  So the draw is the first n of
T_r = E_r / w_r with independent unit exponentials E_r, kept as log T_r = x_r + log E_r with x_r = (r−μ)²/2σ²: nothing
underflows, however small σ is or however far the draw must reach beyond the window.

Horizon.  Looking at N clocks would be O(N).  Choose a time t, log t = L, by which a little more than n ranks are
expected to have rung, M(t) = Σ (1 − exp(−t·w_r)) ≈ n + 6√n + 16, and split the ranks at t·w_r = 1:

  near   t·w_r ≥ 1, an interval around μ.  Each has rung by t with probability 1 − 1/e or more, so there are at
         most 1.6·M of them: their clocks are drawn singly.
  tail   everything else, up to N.  A clock is the first arrival of a Poisson process of the same rate, so all tail
         clocks up to t are the first arrivals of one Poisson process on (rank, time ≤ t).  It is drawn by blocks of
         neighbouring ranks over which the weight falls by e or less: arrivals at the weight of the
         block's nearest rank, each kept with probability w_r / that weight (thinning), each with a time uniform
         on (0, t].  Later arrivals of a rank are discarded.  About 64 blocks a side reach where weights are e^-64 of
         the edge's; one last block, thinned in the same exact way, holds the rest and is expected to be empty.

A fixed t does not disturb the law: it only says up to when everything is known.  If fewer than n ranks have rung by t
(probability e^-18, or a poor estimate of M), the race goes on from t to a later t': clocks that have not rung have
no memory, so the tail's process continues on (t, t'], and ranks that are near for t' but were tail before get
T_r = t + E_r/w_r (if such a rank had already rung, its earlier arrival stands).  Once n is a sizeable part of N all
ranks are near, and the draw is a plain sort of N = O(n) clocks.  The estimate of M decides the work, never the law.

Which numbers are used does not depend on the route: E_r is word r of its own Philox stream, arrival i of the tail
is block i of another, so a last-bit difference between mathematics libraries moves one time by one bit and no more.

Precision.  Variates are within 2^-52 of exact (gainrl.curriculum.philox).  With m = round(μ), k = r − m (both exact)
and f = μ − m, x_r = k(k−2f)/2σ², the constant f²/2σ² dropped: ranks equally far from μ get equal x to the last bit,
however large, and are told apart by E_r alone, so symmetric pairs stay fair coins.  Else x_r carries a relative
rounding error of 2^-51, which stays below 1e-6 in log weight while the draw reaches less than 6e4·σ from μ; further
out, neighbours differ by a factor of e^60000 and their order is certain.
"""

from __future__ import annotations

import itertools
import math
import operator

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import philox
from gainrl.errors import UserError

Ranks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_SIZE = philox.MAX_BOUND
"""Largest N: 4 294 967 296 ranks."""

_CLOCKS, _ARRIVALS, _ORDER = 0, 1, 2  # purposes of streams; 3 and 4 are those of gainrl.curriculum.beta
_PURPOSES = 16  # of one lot
_BLOCKS = 64
_GRID = np.arange(257) / 256.0
_GUARD = 2  # ranks that rounding of an edge may be off by, and one to spare


def draw_ranks(
    n: int,
    size: int,
    mean: float,
    sigma: float,
    *,
    seed: int,
    epoch: int,
    expected: float | None = None,
    lot: int = 0,
) -> Ranks:
    """Draw n of `size` ranks with weights exp(−(r−mean)²/2σ²), without replacement: (n,) int64, in order of the draw.

    mean in [0, size−1] and sigma > 0 are in ranks; sigma = inf gives every rank the same weight.  `seed` and `epoch`
    (integers in [0, 2^64)) choose the random numbers: equal arguments, equal draw, on every machine.  `expected`
    overrides how many ranks the first horizon is meant to reach (default n + 6√n + 16): it changes the
    work and which numbers are used, never the law; tests use it to force every branch.  Draws of the same
    epoch in different lots (0 to 2^32) are independent.

    Raises UserError for n outside [1, size], size outside [1, 2^32], a mean outside the ranks, sigma not positive.
    """
    _check(n, size, mean, sigma, seed, epoch)
    window = _Window(size, mean, sigma)
    clocks = philox.Stream(seed, epoch, _CLOCKS + _PURPOSES * lot)
    target = n + 6.0 * math.sqrt(n) + 16.0 if expected is None else expected

    # Candidates: log arrival time relative to `origin`, log E as the tie-break (0 in the tail), rank.
    times: list[Floats] = []
    breaks: list[Floats] = []
    found: list[Ranks] = []

    origin = 0.0
    reached = -math.inf  # log of the time up to which all arrivals are known
    near = (window.middle, window.middle)  # ranks whose clocks have been drawn singly
    for stage in itertools.count():
        everything = size <= 4.0 * target
        horizon = math.inf if everything else max(window.horizon(target), reached + 1e-3)
        if stage == 0 and not everything:
            origin = horizon
        low, high = (0, size) if everything else window.reach(horizon)
        low, high = min(low, near[0]), max(high, near[1])

        for start, stop in ((low, near[0]), (near[1], high)):
            if start < stop:
                ranks = np.arange(start, stop, dtype=np.int64)
                log_e = np.log(philox.exponential(clocks.words(start, stop - start)))
                time = (window.cost(ranks) - origin) + log_e
                times.append(np.logaddexp(reached - origin, time) if stage else time)
                breaks.append(log_e)
                found.append(ranks)
        if not everything:
            arrivals = philox.Stream(seed, epoch, _ARRIVALS + _PURPOSES * lot, stage)
            ranks, time = _tail(window, low, high, reached, horizon, arrivals)
            times.append(time + (horizon - origin))
            breaks.append(np.zeros(len(ranks)))
            found.append(ranks)

        picked = _first_arrivals(times, breaks, found, horizon - origin)
        if len(picked) >= n:
            return picked[:n]
        reached, near, target = horizon, (low, high), 2.0 * target
    raise AssertionError("unreachable")  # pragma: no cover


def shuffled(ranks: Ranks, *, seed: int, epoch: int) -> Ranks:
    """The same ranks in a uniformly random order, a pure function of the ranks, `seed` and `epoch`."""
    words = philox.Stream(seed, epoch, _ORDER).words(0, len(ranks))
    return ranks[philox.permutation(words)]


class _Window:
    """The weights: w_r = exp(−cost(r)), up to one common factor."""

    def __init__(self, size: int, mean: float, sigma: float) -> None:
        self.size = size
        self.mean = mean
        # Beyond these bounds all weights are equal, or all different ones infinitely so, to double precision.
        self.sigma = min(max(sigma, 1e-100), 1e100)
        self.middle = round(mean)
        self.offset = mean - self.middle  # exact, in [−½, ½]

    def cost(self, ranks: npt.ArrayLike) -> Floats:
        """x_r = k(k − 2f)/2σ² >= 0 with k = r − middle; the two factors make it the same for equidistant ranks."""
        k = np.asarray(ranks, dtype=np.float64) - self.middle
        result: Floats = 0.5 * (k / self.sigma) * ((k - 2.0 * self.offset) / self.sigma)
        return result

    def radius(self, cost: float) -> float:
        """Distance from the mean at which the cost is `cost` >= 0."""
        return math.hypot(self.sigma * math.sqrt(2.0 * cost), self.offset)

    def reach(self, cost: float) -> tuple[int, int]:
        """An interval [low, high) of ranks that holds every rank whose cost is at most max(cost, 0)."""
        radius = min(self.radius(max(cost, 0.0)), float(self.size))
        low = self.middle + math.floor(self.offset - radius) - _GUARD
        high = self.middle + math.ceil(self.offset + radius) + _GUARD + 1
        return max(low, 0), min(high, self.size)

    def horizon(self, target: float) -> float:
        """log t such that about `target` ranks have rung by t; meant for target < size/4.

        Bisection on M(L) = Σ_r g(L − x_r), g(y) = 1 − exp(−e^y), with the sum taken as an integral over the ranks'
        half-open cells.  M(log(target/N)) <= target, and at the upper end the nearest 2·target ranks alone
        contribute 1.8·target.  Accurate to a few per cent from about 16 ranks on.
        """
        low = float(math.floor(math.log(target / self.size)))
        high = float(math.ceil((2.0 * target / self.sigma) ** 2 / 2.0 + 1.0))
        while high - low > 0.03 + 1e-3 * abs(high):
            guess = 0.5 * (low + high)
            if self._reached_by(guess) < target:
                low = guess
            else:
                high = guess
        return high

    def _reached_by(self, horizon: float) -> float:
        cut = self.radius(max(horizon, 0.0) + 40.0)
        total = 0.0
        for side in (self.mean + 0.5, self.size - 0.5 - self.mean):
            grid = min(side, cut) * _GRID
            cost = 0.5 * np.maximum((grid / self.sigma) ** 2 - (self.offset / self.sigma) ** 2, 0.0)
            rung = -np.expm1(-np.exp(np.minimum(horizon - cost, 700.0)))
            total += float((rung.sum() - 0.5 * (rung[0] + rung[-1])) * grid[1])
        return total


def _tail(
    window: _Window, low: int, high: int, reached: float, horizon: float, stream: philox.Stream
) -> tuple[Ranks, Floats]:
    """Arrivals in (e^reached, e^horizon] of all ranks outside [low, high): ranks, and log times relative to horizon.

    A rank may occur several times.
    """
    first, count, sign = _blocks(window, low, high, horizon)
    past = math.exp(reached - horizon)  # the share of (0, t] that is already known
    cost = window.cost(first)
    rates = count * np.exp(horizon - cost) * (1.0 - past)
    edges = np.cumsum(rates)
    if not len(edges) or edges[-1] == 0.0:  # no tail, or a window so narrow that its weights underflow
        return np.empty(0, dtype=np.int64), np.empty(0)

    # One unit-rate process on [0, edges[-1]) serves all blocks: where a point falls says which block it is in.
    parts: list[Floats] = []
    fields: list[npt.NDArray[np.uint64]] = []
    last, made = 0.0, 0
    while last < edges[-1]:
        more = int((edges[-1] - last) + 6.0 * math.sqrt(edges[-1] - last) + 16.0)
        words = stream.words(4 * made, 4 * more).reshape(more, 4)  # gap, rank, thinning, time
        points = last + np.cumsum(philox.exponential(words[:, 0]))
        last, made = float(points[-1]), made + more
        parts.append(points)
        fields.append(words)
    points, words = np.concatenate(parts), np.concatenate(fields)
    inside = points < edges[-1]
    points, words = points[inside], words[inside]

    block = np.searchsorted(edges, points, side="right")
    ranks = first[block] + sign[block] * philox.below(words[:, 1], count[block])
    kept = np.log(philox.uniform(words[:, 2])) <= cost[block] - window.cost(ranks)
    share = past + (1.0 - past) * philox.uniform(words[kept, 3])
    return ranks[kept], np.log(share)


def _blocks(window: _Window, low: int, high: int, horizon: float) -> tuple[Ranks, Ranks, Ranks]:
    """Blocks that cover [0, low) and [high, size): nearest rank, number of ranks, direction away from the mean."""
    first: list[int] = []
    count: list[int] = []
    sign: list[int] = []
    left, right = low, high
    for j in range(1, _BLOCKS + 2):
        if left == 0 and right == window.size:
            break
        far_left, far_right = (0, window.size) if j > _BLOCKS else window.reach(max(horizon, 0.0) + j)
        if far_left < left:
            first.append(left - 1)
            count.append(left - far_left)
            sign.append(-1)
            left = far_left
        if far_right > right:
            first.append(right)
            count.append(far_right - right)
            sign.append(1)
            right = far_right
    return np.array(first, dtype=np.int64), np.array(count, dtype=np.int64), np.array(sign, dtype=np.int64)


def _first_arrivals(times: list[Floats], breaks: list[Floats], found: list[Ranks], limit: float) -> Ranks:
    """Distinct ranks in the order of their first arrival, up to and including time `limit`."""
    time, tie, ranks = np.concatenate(times), np.concatenate(breaks), np.concatenate(found)
    known = time <= limit
    time, tie, ranks = time[known], tie[known], ranks[known]
    ranks = ranks[np.lexsort((ranks, tie, time))]
    _, index = np.unique(ranks, return_index=True)
    return ranks[np.sort(index)]


def _check(n: int, size: int, mean: float, sigma: float, seed: int, epoch: int) -> None:
    for name, value in (("n", n), ("the number of ranks", size), ("seed", seed), ("epoch", epoch)):
        try:
            operator.index(value)
        except TypeError:
            raise UserError(f"{name} must be an integer, got {value!r}") from None
    if not 1 <= size <= MAX_SIZE:
        raise UserError(f"the number of ranks must be from 1 to {MAX_SIZE}, got {size}")
    if n < 1:
        raise UserError(f"n must be at least 1, got {n}")
    if n > size:
        raise UserError(f"cannot draw n = {n} distinct prompts of {size}: lower n to {size} or less")
    if not 0 <= mean <= size - 1:
        raise UserError(f"the mean must lie on the ranks 0 to {size - 1}, got {mean}")
    if not sigma > 0:
        raise UserError(f"sigma must be positive, got {sigma}")
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**64:
            raise UserError(f"{name} must be in [0, 2^64), got {value}")
