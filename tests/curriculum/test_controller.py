"""The mean's update by hand-computed numbers, and what happens at the last rank."""

from __future__ import annotations

import math

import pytest

from gainrl.curriculum import Position, WindowSettings, step
from gainrl.errors import UserError


@pytest.mark.parametrize(
    ("accuracy", "angle", "expected"),
    [
        # n = 1000, alpha = 2, beta = 0.5; tanh(1) = 0.7615941559557649, tanh(0.2) = 0.197375320224904
        (1.0, 0.5, 761.5941559557649),  # both terms tanh(1)
        (0.5, 0.5, 380.79707797788244),  # on target: the angle's half alone
        (0.6, 0.1, 197.375320224904),  # both terms tanh(0.2)
        (0.0, 0.5, 0.0),  # tanh(-1) + tanh(1)
        (0.0, 0.1, 0.0),  # negative: the window waits, it never moves back
        (1.0, 50.0, 880.7970779778824),  # tanh(100) = 1: (1000/2)(0.76159 + 1)
    ],
)
def test_step_by_hand(accuracy: float, angle: float, expected: float) -> None:
    assert step(1000, 2.0, 0.5, accuracy, angle) == pytest.approx(expected, rel=1e-14, abs=1e-12)


def test_step_never_exceeds_n() -> None:
    assert step(8, 1e6, 0.0, 1.0, 1.0) == 8.0


def test_the_mean_stays_on_the_ranks() -> None:
    assert Position(95.0).moved(10.0, WindowSettings(), size=100) == Position(99.0)


@pytest.mark.parametrize(
    ("at_end", "expected"),
    [("stay", Position(99.0)), ("restart", Position(3.0)), ("uniform", Position(99.0, uniform=True))],
)
def test_at_the_last_rank_one_epoch_is_drawn_there_before_the_end_is_dealt_with(
    at_end: str, expected: Position
) -> None:
    settings = WindowSettings(at_end=at_end, mean=3)
    arrived = Position(95.0).moved(10.0, settings, size=100)
    assert arrived == Position(99.0)
    assert arrived.moved(0.0, settings, size=100) == arrived  # the window waits at the end as anywhere
    assert arrived.moved(0.5, settings, size=100) == expected


def test_uniform_is_for_good() -> None:
    given = Position(99.0, uniform=True)
    assert given.moved(5.0, WindowSettings(at_end="uniform"), size=100) == given


def test_width_is_sigma_or_a_share_of_the_prompts_or_the_published_share() -> None:
    assert WindowSettings(sigma=250).width(10) == 250.0
    assert WindowSettings(sigma_fraction=0.25).width(1000) == 250.0
    assert WindowSettings().width(7500) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a positive finite number, got 0.0"),
        ({"sigma": -3}, "sigma must be a positive finite number, got -3"),
        ({"sigma": math.nan}, "sigma must be a positive"),
        ({"sigma": math.inf}, "sigma must be a positive finite"),
        ({"sigma": "wide"}, "sigma must be a positive finite number, got 'wide'"),
        ({"sigma_fraction": 0}, "sigma_fraction must be a positive"),
        ({"sigma": 1.0, "sigma_fraction": 0.1}, "not both"),
        ({"alpha": 0}, "alpha must be a positive"),
        ({"alpha": True}, "alpha must be a positive"),
        ({"beta": 1.01}, r"beta is an accuracy and must be in \[0, 1\], got 1.01"),
        ({"beta": -0.1}, "beta is an accuracy"),
        ({"mean": -1}, "starting mean is a rank and must be at least 0, got -1"),
        ({"at_end": "stop"}, "at_end must be one of stay, restart, uniform, got 'stop'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WindowSettings(**values)  # type: ignore[arg-type]
