"""The draw: its law against enumeration and against N plain clocks, its extremes, its stream."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gainrl.curriculum.draw import MAX_SIZE, draw_ranks, shuffled
from gainrl.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden" / "draws.json"
# Probability that a correct draw fails one of these seeded checks on a first run; afterwards they are constants.
RARE = 1e-4


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How many times as many draws as usual."""
    return 8 if request.config.getoption("--full") else 1


def log_weights(size: int, mean: float, sigma: float) -> npt.NDArray[np.float64]:
    return -((np.arange(size) - mean) ** 2) / (2.0 * sigma**2)


def ordered_outcomes(n: int, size: int, mean: float, sigma: float) -> dict[tuple[int, ...], float]:
    """Probability of each ordered draw, by the definition: pick, remove, pick again."""
    weights = np.exp(log_weights(size, mean, sigma))
    result = {}
    for outcome in itertools.permutations(range(size), n):
        probability, left = 1.0, float(weights.sum())
        for rank in outcome:
            probability *= float(weights[rank]) / left
            left -= float(weights[rank])
        result[outcome] = probability
    return result


def p_value(counts: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Chi-square of counts against exact probabilities, cells expected below 5 pooled into one."""
    observed = np.asarray(counts, dtype=float)
    expected = np.asarray(probabilities) * observed.sum()
    small = expected < 5
    if small.any():
        observed = np.append(observed[~small], observed[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
        if expected[-1] < 1e-9:
            assert observed[-1] == 0
            observed, expected = observed[:-1], expected[:-1]
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


# `expected` 0.3 makes the first horizon far too early, so that these tiny rankings pass through near ranks, tail,
# thinning, repeats and several extensions of the race; None is the plain sort of all clocks.
@pytest.mark.parametrize("expected", [None, 0.3])
@pytest.mark.parametrize(
    ("n", "size", "mean", "sigma"),
    [
        (1, 6, 0.0, 1.5),
        (2, 6, 0.0, 2.0),
        (3, 5, 3.2, 1.7),
        (2, 4, 1.5, 0.6),
        (5, 5, 0.0, 4.0),
        (4, 4, 3.0, math.inf),
        (2, 2, 0.5, 0.4),
    ],
)
def test_whole_draws_agree_with_enumeration(
    n: int, size: int, mean: float, sigma: float, expected: float | None, effort: int
) -> None:
    law = ordered_outcomes(n, size, mean, sigma)
    counts = dict.fromkeys(law, 0)
    for epoch in range(800 * effort):
        drawn = draw_ranks(n, size, mean, sigma, seed=11, epoch=epoch, expected=expected)
        counts[tuple(drawn.tolist())] += 1
    assert p_value(list(counts.values()), list(law.values())) > RARE


@pytest.mark.parametrize(
    ("size", "mean", "sigma"),
    [(10_000, 0.0, 12.0), (10_000, 5000.4, 40.0), (400, 399.0, 100.0), (150, 77.5, 1e4), (2000, 900.25, 0.7)],
)
def test_the_first_pick_has_the_exact_distribution(size: int, mean: float, sigma: float, effort: int) -> None:
    weights = np.exp(log_weights(size, mean, sigma))
    first = [draw_ranks(1, size, mean, sigma, seed=5, epoch=epoch)[0] for epoch in range(1000 * effort)]
    assert p_value(np.bincount(first, minlength=size), weights / weights.sum()) > RARE


@pytest.mark.parametrize(
    ("size", "mean", "sigma", "expected"),
    [(6, 0.0, 4.0, 0.3), (6, 0.0, math.inf, 1.0), (12, 4.0, 6.0, 0.2), (40, 0.0, 25.0, 0.5)],
)
def test_a_race_that_goes_on_past_its_horizon_keeps_its_law(
    size: int, mean: float, sigma: float, expected: float, effort: int
) -> None:
    """Ranks that were tail at first and near later: first picks, and second picks given the law of pairs."""
    weights = np.exp(log_weights(size, mean, sigma))
    first = weights / weights.sum()
    second = sum(
        first[i] * np.where(np.arange(size) == i, 0.0, weights) / (weights.sum() - weights[i]) for i in range(size)
    )
    picks = np.stack(
        [draw_ranks(2, size, mean, sigma, seed=6, epoch=e, expected=expected) for e in range(2500 * effort)]
    )
    assert p_value(np.bincount(picks[:, 0], minlength=size), first) > RARE
    assert p_value(np.bincount(picks[:, 1], minlength=size), second) > RARE


@pytest.mark.parametrize(
    ("n", "size", "mean", "sigma", "expected"),
    [
        (40, 600, 200.3, 30.0, None),  # some of the tail
        (40, 600, 200.3, 30.0, 5.0),  # three extensions
        (30, 600, 599.0, 3.0, None),  # n beyond the window
        (40, 600, 0.0, 1e3, None),  # nearly uniform: all of it tail
        (40, 600, 300.0, 500.0, 0.5),  # repeats of tail ranks across extensions
    ],
)
def test_a_draw_agrees_with_a_race_of_all_clocks(
    n: int, size: int, mean: float, sigma: float, expected: float | None, effort: int
) -> None:
    """Inclusion counts, and the mean rank of the first and the last pick, against N plain exponential clocks."""
    draws, plays = 400 * effort, 1600 * effort
    mine = np.stack(
        [draw_ranks(n, size, mean, sigma, seed=2, epoch=epoch, expected=expected) for epoch in range(draws)]
    )
    generator = np.random.default_rng(8)
    clocks = np.log(generator.exponential(size=(plays, size))) - log_weights(size, mean, sigma)
    plain = np.argsort(clocks, axis=1)[:, :n]

    got = np.bincount(mine.ravel(), minlength=size) / draws
    law = np.bincount(plain.ravel(), minlength=size) / plays
    spread = np.sqrt(law * (1 - law) * (1 / draws + 1 / plays))
    certain = (law == 0) | (law == 1)
    assert abs(got - law)[certain].max(initial=0.0) < 10 / draws
    busy = (law > 0.01) & ~certain
    score = (got[busy] - law[busy]) / spread[busy]
    assert abs(score).max(initial=0.0) < 4.8  # of at most 600 standard normal values
    rare = law[law <= 0.01].sum()
    assert abs(got[law <= 0.01].sum() - rare) < 5 * math.sqrt(rare / draws) + 10 / draws
    for place in (0, n // 2, n - 1):
        assert stats.ks_2samp(mine[:, place], plain[:, place]).pvalue > RARE


@pytest.mark.parametrize(("mean", "pair", "place"), [(500.0, (499, 501), 1), (500.5, (500, 501), 0)])
@pytest.mark.parametrize("expected", [None, 2.0])
@pytest.mark.parametrize("sigma", [1e-3, 1e-80])
def test_equidistant_ranks_stay_a_fair_coin_however_small_sigma_is(
    mean: float, pair: tuple[int, int], place: int, expected: float | None, sigma: float
) -> None:
    picks = [
        int(draw_ranks(place + 1, 1001, mean, sigma, seed=1, epoch=e, expected=expected)[place]) for e in range(600)
    ]
    assert set(picks) == set(pair)
    assert stats.binomtest(picks.count(pair[0]), len(picks)).pvalue > RARE


def test_a_tiny_sigma_takes_the_nearest_ranks_in_order_of_distance() -> None:
    assert draw_ranks(5, 10**6, 1000.1, 1e-9, seed=0, epoch=0).tolist() == [1000, 1001, 999, 1002, 998]
    assert sorted(draw_ranks(700, 10**6, 0.0, 1e-9, seed=0, epoch=0).tolist()) == list(range(700))


sizes = st.one_of(st.integers(1, 50), st.integers(1, 10**5), st.integers(1, MAX_SIZE))
sigmas = st.one_of(st.floats(1e-300, 1e300), st.floats(0.01, 1e5), st.just(math.inf))
places = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(size=sizes, n=st.integers(1, 400), sigma=sigmas, place=places, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_no_setting_breaks_a_draw(
    size: int, n: int, sigma: float, place: float, seed: int, data: st.DataObject
) -> None:
    n = min(n, size)
    mean = min(place * (size - 1), size - 1)
    expected = data.draw(st.one_of(st.none(), st.floats(0.01, 2 * n + 1)))
    epoch = data.draw(st.integers(0, 2**64 - 1))
    drawn = draw_ranks(n, size, mean, sigma, seed=seed, epoch=epoch, expected=expected)
    assert drawn.dtype == np.int64
    assert drawn.shape == (n,)
    assert len(np.unique(drawn)) == n
    assert 0 <= drawn.min() <= drawn.max() < size
    np.testing.assert_array_equal(drawn, draw_ranks(n, size, mean, sigma, seed=seed, epoch=epoch, expected=expected))


@pytest.mark.parametrize("sigma", [1e-12, 3.0, 250.0, 1e9, math.inf])
@pytest.mark.parametrize("mean", [0.0, 4321.5, 9999.0])
def test_drawing_all_ranks_draws_all(sigma: float, mean: float) -> None:
    drawn = draw_ranks(10_000, 10_000, mean, sigma, seed=4, epoch=2)
    assert np.sort(drawn).tolist() == list(range(10_000))


def test_draws_of_other_seeds_and_epochs_differ() -> None:
    drawn = {tuple(draw_ranks(20, 1000, 100.0, 50.0, seed=s, epoch=e).tolist()) for s in range(5) for e in range(5)}
    assert len(drawn) == 25


def test_a_shorter_draw_is_the_beginning_of_a_longer_one_where_both_sort_all_clocks() -> None:
    whole = draw_ranks(50, 50, 10.0, 8.0, seed=9, epoch=1)
    assert draw_ranks(20, 50, 10.0, 8.0, seed=9, epoch=1).tolist() == whole[:20].tolist()


def test_shuffled_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    ranks = np.arange(100, 200)
    once = shuffled(ranks, seed=1, epoch=2)
    assert sorted(once.tolist()) == ranks.tolist()
    assert once.tolist() == shuffled(ranks, seed=1, epoch=2).tolist()
    assert once.tolist() != shuffled(ranks, seed=1, epoch=3).tolist()


def test_every_order_of_a_shuffle_is_equally_likely() -> None:
    orders = list(itertools.permutations(range(4)))
    counts = dict.fromkeys(orders, 0)
    for epoch in range(4800):
        counts[tuple(shuffled(np.arange(4), seed=3, epoch=epoch).tolist())] += 1
    assert p_value(list(counts.values()), [1 / 24] * 24) > RARE


def test_the_stream_never_changes() -> None:
    """Draws stored by the first release: a run begun under any release resumes under this one."""
    for case in json.loads(GOLDEN.read_text()):
        sigma = math.inf if case["sigma"] is None else case["sigma"]
        drawn = draw_ranks(case["n"], case["size"], case["mean"], sigma, seed=case["seed"], epoch=case["epoch"])
        assert drawn.tolist() == case["ranks"], case


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 11}, "cannot draw n = 11 distinct prompts of 10"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 2.5}, "n must be an integer, got 2.5"),
        ({"size": 0}, "number of ranks must be from 1"),
        ({"size": MAX_SIZE + 1}, "number of ranks must be from 1 to 4294967296"),
        ({"mean": -0.1}, "mean must lie on the ranks 0 to 9, got -0.1"),
        ({"mean": 9.5}, "mean must lie on the ranks 0 to 9"),
        ({"mean": math.nan}, "mean must lie on the ranks"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"sigma": math.nan}, "sigma must be positive"),
        ({"seed": -1}, "seed must be in"),
        ({"epoch": 2**64}, "epoch must be in"),
    ],
)
def test_impossible_draws_are_refused_by_name(arguments: dict[str, float], message: str) -> None:
    fitting: dict[str, float] = {"n": 2, "size": 10, "mean": 1.0, "sigma": 2.0, "seed": 0, "epoch": 0}
    with pytest.raises(UserError, match=message):
        draw_ranks(**(fitting | arguments))  # type: ignore[arg-type]
