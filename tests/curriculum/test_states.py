"""States of the navigators: what is drawn after a resume, what is refused, and those that earlier releases wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from navigator_support import MAKE, RESTING, each, gaussian, ranking, rollouts, run, through_json

from gainrl.curriculum import (
    Navigator,
    UniformNavigator,
)
from gainrl.errors import UserError

GOLDEN = Path(__file__).parent.parent / "golden"


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one entry replaced; `value` None removes it."""
    state = through_json(state)
    *outer, name = path.split(".")
    inner = state
    for key in outer:
        inner = inner[key]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return state


@each
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_restored_run_draws_the_future_of_the_saved_one(make: Callable[[], Navigator], share: float) -> None:
    """Run, save in the middle of an epoch, compute the expected future, restore, compare."""
    navigator = make()
    run(navigator, 3)
    navigator.draw()
    records = rollouts(navigator.ids, navigator.epoch)
    cut = round(share * len(records))
    navigator.observe(records[:cut])
    state = through_json(navigator.state_dict())

    under_way = navigator.ids
    navigator.observe(records[cut:])
    metrics = navigator.metrics()
    future = run(navigator, 4)

    restored = make()
    restored.load_state_dict(state)
    assert restored.ids == under_way
    assert restored.epoch == 3
    assert restored.state_dict() == state
    restored.observe(records[cut:])
    assert restored.metrics() == metrics
    assert run(restored, 4) == future


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "no curriculum state"),
        ("version", 4, "version 4: this gainrl reads versions 1 to 3"),
        ("outcomes", {}, "outcomes per prompt belong to navigators that remember prompts"),
        ("settings.skip_mastered", 3, "skip_mastered was 3 and is now None"),
        ("version", None, "version None"),
        ("epoch", None, r"missing fields \['epoch'\]"),
        ("surprise", 1, r"unknown fields \['surprise'\]"),
        ("position.mean", None, r"position of the curriculum state .* missing fields \['mean'\]"),
        ("totals.extra", 1, r"totals of the curriculum state .* unknown fields \['extra'\]"),
        ("totals.tokens", 1.5, "tokens must be an integer"),
        ("late.tokens", None, r"late of the curriculum state .* missing fields \['tokens'\]"),
        ("late.rollouts", 3, "need 0 <= credit <= scored <= rollouts"),
        ("settings.beta", None, r"settings of the curriculum state .* missing fields \['beta'\]"),
        ("settings.sigma", 21.0, "sigma was 21.0 and is now 20.0"),
        ("settings.n", 25, "n was 25 and is now 24"),
        ("settings.seed", 6, "seed was 6 and is now 5"),
        ("navigator", "uniform", "state is of the navigator 'uniform', this run uses 'gaussian'"),
        ("ranking.dataset", "another", "another dataset: it has 200 prompts and fingerprint 'another'"),
        ("ranking.size", 201, "another dataset: it has 201 prompts"),
        ("ranking.order", "abc", "another ranking of this dataset: its order is 'abc'"),
        ("epoch", -1, r"epoch must be an integer in \[0, 2\^64\), got -1"),
        ("position.mean", 200.0, "mean must be a float from 0 to 199, got 200.0"),
        ("position.uniform", 1, "uniform must be true or false, got 1"),
        ("totals", [], "totals of the curriculum state must be a mapping, got list"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(path: str, value: Any, message: str) -> None:
    navigator = gaussian()
    run(navigator, 2)
    before = navigator.state_dict()
    with pytest.raises(UserError, match=message):
        navigator.load_state_dict(changed(gaussian().state_dict(), path, value))
    assert navigator.state_dict() == before


def test_a_state_does_not_grow_with_the_ranking() -> None:
    large = UniformNavigator(ranking(size=20_000), 10_000)
    assert len(json.dumps(large.state_dict())) < 1000


def going_on(make: Callable[[], Navigator], case: dict[str, Any]) -> Navigator:
    """The navigator of an old state after its next draw; its draws are what they were."""
    navigator = make()
    navigator.load_state_dict(case["state"])
    assert navigator.ids == case["ids"]
    assert navigator.draw() == case["next_ids"]
    return navigator


def as_now(make: Callable[[], Navigator], state: dict[str, Any]) -> dict[str, Any]:
    """An old state in the present version."""
    navigator = make()
    navigator.load_state_dict(state)
    return navigator.state_dict()


def golden(version: int) -> Any:
    return json.loads((GOLDEN / f"curriculum_state_v{version}.json").read_text())


def test_a_state_of_the_first_release_still_loads_and_draws_what_it_drew() -> None:
    for case in golden(1)["cases"]:
        make = MAKE[case["state"]["navigator"]]
        state = going_on(make, case).state_dict()
        assert state == as_now(make, case["next_state"])
        assert state["position"] == case["next_state"]["position"]


def test_states_of_version_2_still_load_and_draw_what_they_drew() -> None:
    cases, makers = golden(2), MAKE | RESTING
    assert cases.keys() == makers.keys()
    old = cases.pop("probe")  # of its first model
    with pytest.raises(UserError, match="of model 1 of this navigator, this release has model 2"):
        makers["probe"]().load_state_dict(old["state"])
    for name, case in cases.items():
        state = going_on(makers[name], case).state_dict()
        assert state == as_now(makers[name], case["next_state"])
        assert state["position"] == case["next_state"]["position"]


def test_states_of_version_3_still_load_and_draw_what_they_drew() -> None:
    """With rollouts that came late."""
    cases, makers = golden(3), MAKE | RESTING
    assert cases.keys() == makers.keys()
    for name, case in cases.items():
        assert as_now(makers[name], case["state"])["late"]["rollouts"] == 4
        assert going_on(makers[name], case).state_dict() == case["next_state"]
