"""Principal components of the prompts' directions, which stream in blocks: memory does not grow with their width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum.prompts import Integers, Prompts
from gainrl.errors import UserError

_SAMPLE_ROWS, _SAMPLE_NUMBERS = 16_384, 2**25
_BLOCK = 4096


def principal_components(prompts: Prompts, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(K, M) coordinates along K <= `count` principal components, and (M,) bool, which prompts have a direction.

    The components are those of a sample of at most 16,384 prompts and 2^25 numbers, by subspace iteration from a fixed
    start (Halko, Martinsson and Tropp 2011, "Finding structure with randomness", algorithm 4.4); the largest entry of
    each is positive.  A second pass over the directions projects them.  Raises UserError if no prompt has one.
    """
    size = len(prompts)
    if prompts.directions is None:
        return np.zeros((0, size), dtype=np.float32), np.ones(size, dtype=bool)
    sample = _sample(prompts)
    centre = sample.mean(axis=0)
    sample -= centre
    wide = min(count + 8, sample.shape[1], max(len(sample) - 1, 1))
    start = np.random.Generator(np.random.Philox(key=0, counter=16 << 192))
    basis = (start.random((wide, sample.shape[1])).T - 0.5).astype(np.float32)
    for _ in range(3):
        basis, _ = np.linalg.qr(sample.T @ (sample @ basis))
    across = sample @ basis
    _, turn = np.linalg.eigh(across.T @ across)  # ascending
    basis = basis @ turn[:, ::-1][:, :count]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0)
    basis = np.where(largest < 0, -basis, basis)
    reduced, known = np.zeros((basis.shape[1], size), dtype=np.float32), np.zeros(size, dtype=bool)
    for index, block in _unit_blocks(prompts):
        reduced[:, index], known[index] = (block @ basis - centre @ basis).T, True
    return reduced, known


def _sample(prompts: Prompts) -> npt.NDArray[np.float32]:
    """(S, D) unit directions of evenly spaced prompts."""
    size = len(prompts)
    blocks: list[npt.NDArray[np.float32]] = []
    chosen = np.zeros(size, dtype=bool)
    for index, block in _unit_blocks(prompts):
        if not blocks:
            rows = min(size, _SAMPLE_ROWS, max(1, _SAMPLE_NUMBERS // block.shape[1]))
            chosen[np.arange(rows) * size // rows] = True
        blocks.append(block[chosen[index]])
    if not sum(map(len, blocks)):
        raise UserError("no prompt has a direction: every one in the sample has an entry that is not finite")
    return np.concatenate(blocks)


def _unit_blocks(prompts: Prompts) -> Iterator[tuple[Integers, npt.NDArray[np.float32]]]:
    """(which prompts, their (m, D) unit directions), without prompts that have none."""
    every = np.arange(len(prompts))
    for which, block in _blocks(prompts.directions):
        index, rows = every[which], np.asarray(block, dtype=np.float32)
        finite = np.isfinite(rows).all(axis=1)
        rows = rows[finite]
        yield index[finite], rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def _blocks(directions: Any) -> Iterator[tuple[slice | Integers, npt.NDArray[Any]]]:
    if callable(directions):
        yield from directions()
        return
    for start in range(0, len(directions), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield part, directions[part]
