"""Beta variates from raw Philox words, so that no release of any library changes them.

Gamma variates by Marsaglia and Tsang (2000, "A simple method for generating gamma variables"), with normals by Box
and Muller (1958); X/(X+Y) of Gamma(a) and Gamma(b) is Beta(a, b).  Everything stays in logarithms, so that shapes far
below 1 do not underflow.  Each element has words of its own, whatever happens to its neighbours.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import philox

Floats = npt.NDArray[np.float64]

_FIRST, _SECOND = 3, 4  # purposes of streams; 0 to 2 are those of gainrl.curriculum.draw


def beta(a: Floats, b: Floats, *, seed: int, epoch: int) -> Floats:
    """(N,) independent Beta(a_i, b_i) variates in [0, 1] for a, b (N,) > 0: a function of the arguments alone."""
    first = _log_gamma(a, seed, epoch, _FIRST)
    second = _log_gamma(b, seed, epoch, _SECOND)
    result: Floats = 1.0 / (1.0 + np.exp(np.clip(second - first, -700.0, 700.0)))
    return result


def _log_gamma(shape: Floats, seed: int, epoch: int, purpose: int) -> Floats:
    """(N,) logarithms of Gamma(shape_i, 1) variates, shape (N,) > 0."""
    size = len(shape)
    small = shape < 1.0
    d = np.where(small, shape + 1.0, shape) - 1.0 / 3.0  # Gamma(a) = Gamma(a + 1)·U^(1/a)
    result = np.empty(size)
    left = np.arange(size)
    boost: Floats = np.empty(0)
    for attempt in itertools.count():
        words = philox.Stream(seed, epoch, purpose, attempt).words(0, 4 * size).reshape(size, 4)[left]
        one, two, accept, fourth = (philox.uniform(words[:, i]) for i in range(4))
        if attempt == 0:
            boost = np.log(fourth) / shape
        normal = np.sqrt(-2.0 * np.log(one)) * np.cos(2.0 * np.pi * two)
        root = np.maximum(1.0 + normal / np.sqrt(9.0 * d[left]), 1e-300)
        log_v = 3.0 * np.log(root)
        v = root**3
        taken = np.log(accept) < 0.5 * normal**2 + d[left] * (1.0 - v + log_v)  # never where 1 + cx <= 0
        result[left[taken]] = np.log(d[left[taken]]) + log_v[taken]
        left = left[~taken]
        if not len(left):
            break
    return np.where(small, result + boost, result)
