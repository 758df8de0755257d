"""Forty prompts, a navigator over them and the rollouts of any of them, for the tests of the samplers."""

from __future__ import annotations

import pytest

from gainrl.curriculum import GaussianNavigator, Ranking
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler

N = 40
IDS = [f"prompt-{(7 * i) % N:02d}" for i in range(N)]  # dataset order is not the order of the ids
ROW = {name: row for row, name in enumerate(IDS)}


def navigator(n=12, kind=GaussianNavigator, **options):
    ranking = Ranking(sorted(IDS), [1.0 - i / N for i in range(N)], "dataset")
    return kind(ranking, n, order="draw", seed=3, **options)


def other_ranking():
    return Ranking(sorted(IDS, reverse=True), [1.0 - i / N for i in range(N)], "dataset")


def rollouts(rows, correct=True):
    return [{"id": IDS[r], "correct": correct, "scored": True, "angle": 0.4, "reward": 1.0, "tokens": 5} for r in rows]


def rows_of(names):
    return [ROW[name] for name in names]


def make(kind, nav, **options):
    if kind is CurriculumBatchSampler:
        options = {"prompts_per_batch": 2, **options}
    return kind(nav, IDS, **options)


KINDS = pytest.mark.parametrize("kind", [CurriculumSampler, CurriculumBatchSampler])


def flat(items):
    return [row for item in items for row in (item if isinstance(item, list) else [item])]
