"""What a probe sees of a prompt: the leading principal components of the directions, the length, the ranking.

A direction U_q/‖U_q‖ has as many entries as the model is wide (D); differences in difficulty lie in few of its
dimensions.  The basis is that of the K largest principal components, found by subspace iteration from a fixed start
(Halko, Martinsson and Tropp 2011, "Finding structure with randomness", algorithm 4.4) over at most 16,384
prompts, evenly spaced by id; every prompt is then projected.  Time O(N·D·K), memory O(N·K) beyond the directions.

Everything is the same to the last bit on every machine (gainrl.curriculum.portable): directions are rounded to
multiples of 2^-24 (float32's own grain) and multiplied as integers.  Each component's sign is such that its largest
entry, the first of several, is positive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import philox, portable
from gainrl.curriculum.ranking import Ranking
from gainrl.errors import UserError

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]

MAX_WIDTH = 2**16
MAX_COMPONENTS = 128
_ROWS = 16_384  # that the basis is found from
_EXTRA = 8  # dimensions more than asked for, while the basis is sought
_ROUNDS = 3
_BLOCK = 1 << 21  # numbers of one block of directions
_FINE = 2.0**24
_COARSE = 2.0**16
_START = 16  # purpose of the stream of the start; those below are the draws'


class PromptFeatures:
    """The features of the prompts of one ranking, in its order.

    ranking: the prompts.  ids, directions: N ids, and (N, D) floating unit vectors in their order; a row with a
        non-finite entry has no direction.  None where there are none: K is 0 then.  question_tokens: (N,) lengths > 0
        in the same order, None to leave length out.  components: K, 1 to 128; fewer are kept where D or the number of
        prompts is smaller.

    `values` is (K + 3, N) float32, one row a feature, one column a rank: 1; the ranking, √3·(1 − 2(r + ½)/N), 0 for
    prompts without a score; standardised ln(length); the components, each divided by the square root of the sum of
    their variances, and multiplied by √K (unit variance on average).  Prompts without a direction have zeros there,
    which is the mean.  `known` (N,) bool says of which everything is known that is of any: all without directions, else
    those that have one; `digest` names the input, 32 hex digits.

    Raises UserError for ids that are not the ranking's, for shapes that do not fit, and if no prompt has a direction.
    """

    def __init__(
        self,
        ranking: Ranking,
        ids: Sequence[str],
        directions: npt.ArrayLike | None,
        question_tokens: npt.ArrayLike | None = None,
        *,
        components: int = 32,
    ) -> None:
        if isinstance(components, bool) or not isinstance(components, (int, np.integer)):
            raise UserError(f"components must be an integer from 1 to {MAX_COMPONENTS}, got {components!r}")
        if not 1 <= components <= MAX_COMPONENTS:
            raise UserError(f"components must be an integer from 1 to {MAX_COMPONENTS}, got {components!r}")
        order = _by_rank(ranking, ids)
        if directions is None:
            self.known = np.ones(len(ranking), dtype=bool)
            self.digest = hashlib.sha256(str((len(ranking), 0)).encode()).hexdigest()[:32]
            reduced = np.zeros((0, len(ranking)))
        else:
            given = np.asarray(directions)
            if given.ndim != 2 or not np.issubdtype(given.dtype, np.floating) or not 1 <= given.shape[-1] <= MAX_WIDTH:
                raise UserError(f"directions must be (N, D) floating, got {given.dtype} {given.shape}")
            if len(given) != len(ids):
                raise UserError(f"{len(given)} directions for {len(ids)} ids")
            known, self.digest = _inspect(given, order)
            if not known.any():
                raise UserError("no prompt has a direction: every row of them has an entry that is not finite")
            self.known = known[order]
            reduced = _coordinates(given, ids, order, known, int(components))
        self.known.flags.writeable = False
        self.components = len(reduced)
        self.values: Features = np.zeros((3 + len(reduced), len(ranking)), dtype=np.float32)
        self.values[0] = 1.0
        scored = len(ranking) - ranking.undefined
        self.values[1, :scored] = (3.0**0.5) * (1.0 - 2.0 * (np.arange(scored) + 0.5) / max(scored, 1))
        if question_tokens is not None:
            self.values[2] = _lengths(question_tokens, len(ranking))[order]
            self.digest = hashlib.sha256((self.digest + self.values[2].tobytes().hex()).encode()).hexdigest()[:32]
        spread = portable.ordered_sum(reduced * reduced) / int(self.known.sum())
        total = float(portable.ordered_sum(spread))
        if total > 0.0:
            self.values[3:] = reduced * np.sqrt(len(reduced) / total)
        self.values.flags.writeable = False


def _by_rank(ranking: Ranking, ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N,) the place in `ids` of each rank's prompt; UserError for ids that are not the ranking's."""
    if len(ids) != len(ranking):
        raise UserError(f"{len(ids)} ids, and {len(ranking)} prompts in the ranking")
    order = np.empty(len(ranking), dtype=np.int64)
    seen = np.zeros(len(ranking), dtype=bool)
    for row, name in enumerate(ids):
        rank = ranking.rank_of(name)
        order[rank], seen[rank] = row, True
    if not seen.all():
        raise UserError(f"the ids repeat: {ranking.ids[int(np.argmin(seen))]!r} is not among them")
    return order


def _inspect(directions: npt.NDArray[np.floating], order: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], str]:
    """Which given rows are finite (N,), and a hash of the rows by rank as float32."""
    known = np.empty(len(directions), dtype=bool)
    rolling = hashlib.sha256(str(directions.shape).encode())
    step = max(1, _BLOCK // directions.shape[1])
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        block = directions[rows].astype("<f4")
        known[rows] = np.isfinite(block).all(axis=1)
        block[~known[rows]] = np.nan
        rolling.update(np.where(np.isnan(block), np.float32(np.nan), block).tobytes())
    return known, rolling.hexdigest()[:32]


def _lengths(given: npt.ArrayLike, size: int) -> Floats:
    tokens = np.asarray(given, dtype=np.float64)
    if tokens.shape != (size,) or not (np.isfinite(tokens).all() and (tokens >= 0).all()):
        raise UserError(f"question_tokens must be ({size},) numbers of tokens, got shape {tokens.shape}")
    values = portable.log(tokens + 1.0)
    values -= portable.ordered_sum(values) / size
    deviation = np.sqrt(portable.ordered_sum(values * values) / size)
    return values / deviation if deviation > 1e-9 else np.zeros(size)


def _whole(block: npt.NDArray[np.floating], unit: float) -> Floats:
    """Unit rows as integers, in multiples of 1/unit."""
    rows = block.astype(np.float64)
    norm = np.sqrt(portable.ordered_sum(rows * rows))
    return np.rint(rows * (unit / np.maximum(norm, 1e-30))[:, None])


def _coordinates(
    directions: npt.NDArray[np.floating], ids: Sequence[str], order: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_], components: int,
) -> Floats:  # fmt: skip
    """(K, N) coordinates of the prompts by rank along the principal components; `known` (N,) as the rows are given."""
    by_id = sorted(np.flatnonzero(known).tolist(), key=ids.__getitem__)
    chosen = [by_id[at * len(by_id) // min(len(by_id), _ROWS)] for at in range(min(len(by_id), _ROWS))]
    centre, basis = _principal(directions, np.array(chosen), components)
    return _projected(directions, order, known[order], centre, basis)


def _principal(
    directions: npt.NDArray[np.floating], rows: npt.NDArray[np.int64], components: int
) -> tuple[Floats, Floats]:
    """The rows' mean (D,), in multiples of 2^-24, and the principal components of the rows, (K, D) orthonormal."""
    width = directions.shape[1]
    wide = min(components + _EXTRA, width, max(len(rows) - 1, 1))
    total = np.zeros(width)
    blocks = [rows[start : start + max(1, _BLOCK // width)] for start in range(0, len(rows), max(1, _BLOCK // width))]
    for block in blocks:
        total += _whole(directions[block], _FINE).sum(axis=0)  # integers: exact in any order
    centre = total / len(rows) / _FINE
    coarse = np.rint(total / len(rows) * (_COARSE / _FINE))
    words = philox.Stream(0, 0, _START).words(0, wide * width).reshape(wide, width)
    basis = _orthonormal(philox.uniform(words) - 0.5)
    for _ in range(_ROUNDS):
        image = np.zeros((wide, width))
        for block in blocks:
            part = _whole(directions[block], _COARSE) - coarse
            across = portable.exact_product(part, np.rint(basis * _COARSE).T)  # below 2^34
            across = np.rint(across / _COARSE)
            image += portable.exact_product(across.T, part)  # below 2^14 rows · 2^34
        basis = _orthonormal(image / np.maximum(np.abs(image).max(), 1.0))
    covariance = np.zeros((wide, wide))
    for block in blocks:
        part = _whole(directions[block], _COARSE) - coarse
        across = np.rint(portable.exact_product(part, np.rint(basis * _COARSE).T) / _COARSE)
        covariance += portable.exact_product(across.T, across)
    _, vectors = portable.eigen(covariance / (_COARSE * _COARSE * len(rows)))
    kept = min(components, wide)
    turned = np.array([portable.combine(vectors[:, j], basis) for j in range(kept)])
    largest = np.argmax(np.abs(turned), axis=1)
    turned *= np.where(turned[np.arange(kept), largest] < 0.0, -1.0, 1.0)[:, None]
    return centre, turned


def _orthonormal(rows: Floats) -> Floats:
    """Orthonormal rows that span the same space (modified Gram-Schmidt, twice); what vanishes becomes zeros."""
    result = rows.copy()
    for _ in range(2):
        for j in range(len(result)):
            norm = np.sqrt(portable.ordered_sum(result[j] * result[j]))
            result[j] = result[j] / norm if norm > 1e-12 else 0.0
            shares = portable.ordered_sum(result[j + 1 :] * result[j])
            result[j + 1 :] -= np.multiply.outer(shares, result[j])
    return result


def _projected(
    directions: npt.NDArray[np.floating], order: npt.NDArray[np.int64], known: npt.NDArray[np.bool_],
    centre: Floats, basis: Floats,
) -> Floats:  # fmt: skip
    """(K, N) coordinates of the prompts by rank, 0 where the direction is not known."""
    whole = np.rint(basis * _FINE).T
    shift = portable.ordered_sum(np.rint(basis * _FINE) * (centre * _FINE))
    result = np.zeros((len(basis), len(order)))
    step = max(1, _BLOCK // directions.shape[1])
    for start in range(0, len(order), step):
        at = start + np.flatnonzero(known[start : start + step])
        if len(at):
            product = portable.exact_product(_whole(directions[order[at]], _FINE), whole)  # below 2^49
            result[:, at] = ((product - shift) / (_FINE * _FINE)).T
    return result
