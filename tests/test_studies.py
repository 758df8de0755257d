"""The convergence study: problems with right answers, measures on curves that are known, results that can be read."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

pytest.importorskip("studies", reason="studies are not beside these tests (they run on an installed wheel)")

from gainrl.curriculum import Prompts
from studies.convergence import protocol, study
from studies.convergence.held_out import FAMILIES
from studies.convergence.measures import compared, factor, rollouts_to, target_of
from studies.convergence.navigators import Greso, ScreenSettings, Speed


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_level_draws_problems_with_a_right_answer(family):
    random = Random(0)
    for index in range(len(family.levels)):
        for _ in range(20):
            problem = family.draw(index, random)
            assert problem.answer in problem.answers
            assert problem.question not in problem.answers
    assert {problem.level for problem in family.problems(2000, random)} == set(range(len(family.levels)))


def test_expressions_are_right_if_they_give_the_number():
    terms, random = FAMILIES["terms"], Random(0)
    for index in range(len(terms.levels)):
        problem = terms.draw(index, random)
        number = int("".join(letter for letter in problem.question if letter.isdigit()))
        assert all(eval(answer) == number for answer in problem.answers)
        assert eval(terms.slip(problem.question, problem.answer)) != number


def run(arm: str, accuracies: list[float], usual: bool = False) -> dict:
    curve = [{"rollouts": 100 * at, "accuracy": value} for at, value in enumerate(accuracies)]
    return {"family": "f", "seed": 0, "base": "b", "arm": arm, "usual": usual, "curve": curve}


def test_a_run_that_climbs_twice_as_fast_has_a_factor_of_two():
    slow = run("uniform", [0.1 * at for at in range(9)], usual=True)
    fast = run("probe", [0.2 * at for at in range(9)])
    target = target_of(slow)
    assert target == pytest.approx(0.75)  # the last evaluation is smoothed with its one neighbour
    assert rollouts_to(slow, target) == (pytest.approx(800), True)
    value, censored = compared([slow, fast], slow, fast)
    assert value == pytest.approx(800 / 375)
    assert not censored
    flat = run("flat", [0.1] * 9)
    assert compared([slow, flat], slow, flat) == (pytest.approx(1.0), True)


def test_a_factor_is_a_geometric_mean_over_families_then_bases_with_an_interval():
    found = factor([(0, 2.0, False), (0, 8.0, False), (1, 4.0, False), (2, 4.0, True)])
    assert found.mean == pytest.approx(4.0)
    assert (found.bases, found.censored) == (3, 1)
    assert str(factor([(0, 2.0, True)])) == "≤ 2.00"


@pytest.mark.parametrize("kind", [Speed, Greso])
def test_screening_hands_on_mixed_rollouts_and_counts_the_others(kind):
    navigator = kind(Prompts(np.arange(40), np.zeros(40), np.ones(40, np.int64)), ScreenSettings(2, 4))

    def sample(index, count):
        right = np.where(index % 4 == 0, 1, count)  # every fourth prompt has right and wrong rollouts
        return [[[one, i] for i in range(count)] for one in index.tolist()], right

    navigator.sample = sample
    rows = navigator.draw(6)
    assert (rows % 4 == 0).all()
    size = {Speed: 2, Greso: 4}[kind]
    assert {index: kept[-1] for index, kept in navigator.kept.items()} == {
        row: [row, size - 1] for row in rows.tolist()
    }
    assert navigator.extra > 0
    assert navigator.extra % size == 0


def test_the_results_belong_to_the_protocol():
    runs, families = study.results(), set(FAMILIES)
    assert runs
    assert {one["family"] for one in runs} <= families
    assert study.ranked(protocol.load(), "uniform", runs)


def test_uniform_is_tuned_first_and_one_rate_beyond_the_end_of_the_range():
    from studies.real_model.__main__ import missing
    from studies.real_model.problems import load

    def land(arm: str, seed: int, rate: float, end: float) -> dict:
        return {**run(arm, [0.1, end]), "seed": seed, "rate": rate}

    model = load()
    model.rates = [2.0, 1.0, 4.0]
    done = [land("uniform", 0, rate, 0.1 * rate) for rate in model.rates]
    assert missing(model, ["probe"], [0, 1], done[:1]) == [("uniform", 0, 1.0), ("uniform", 0, 4.0)]
    assert missing(model, ["probe"], [0, 1], done) == [("uniform", 0, 8.0)]
    done.append(land("uniform", 0, 8.0, 0.3))
    assert missing(model, ["uniform", "probe"], [0, 1], done) == [
        ("probe", 0, 4.0), ("uniform", 1, 4.0), ("probe", 1, 4.0)
    ]  # fmt: skip
