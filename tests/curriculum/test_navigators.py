"""The contract that all navigators share: draws, observations, resume, quotas, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainrl.curriculum import DEFAULT, NAVIGATORS, Navigator, Outcomes, Prompts, make_navigator
from gainrl.errors import UserError
from tests.curriculum.navigator_support import groups, make_prompts

each = pytest.mark.parametrize("name", sorted(NAVIGATORS))
ARGS: dict[str, dict[str, Any]] = {"gaussian": {"prompts_per_move": 20}, "probe": {"explore": 0.3}}


def build(name: str, seed: int = 5, **options: Any) -> Navigator:
    return make_navigator(name, make_prompts(**options), ARGS.get(name), seed=seed)


def answer(navigator: Navigator, rows: np.ndarray, draw: int) -> None:
    """Made-up outcomes that depend on row and draw alone, in two calls; some rollouts are unscored."""
    correct = (rows * 7 + draw * 3) % 9
    half = len(rows) // 2
    navigator.observe(groups(rows[:half], correct[:half] * 0.5, scored=5), angle=0.2)
    navigator.observe(groups(rows[half:], correct[half:]), angle=0.4)


def run(navigator: Navigator, draws: int, n: int = 8) -> list[list[int]]:
    drawn = []
    for draw in range(navigator.draws, navigator.draws + draws):
        rows = navigator.draw(n)
        drawn.append(rows.tolist())
        answer(navigator, rows, draw)
    return drawn


def as_stored(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes from a file: plain values through JSON, arrays read-only."""
    stored: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            stored[name] = np.frombuffer(value.tobytes(), dtype=value.dtype).reshape(value.shape)
        else:
            stored[name] = json.loads(json.dumps(value))
    return stored


def test_the_default_is_registered_and_names_are_those_of_the_classes() -> None:
    assert DEFAULT in NAVIGATORS
    assert all(name == kind.name for name, kind in NAVIGATORS.items())
    assert NAVIGATORS["gaussian"].needs_angle
    assert not NAVIGATORS[DEFAULT].needs_angle


@each
def test_draws_are_distinct_rows_of_the_prompts(name: str) -> None:
    navigator = build(name)
    for n in (1, 7, 60):
        rows = navigator.draw(n)
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == n
        assert set(rows.tolist()) <= set(navigator.prompts.rows.tolist())
        answer(navigator, rows, n)


@each
def test_equal_seeds_draw_alike_and_other_seeds_do_not(name: str) -> None:
    first = run(build(name), 4)
    assert run(build(name), 4) == first
    assert run(build(name, seed=6), 4) != first


@each
@pytest.mark.parametrize("between", ["before the first draw", "between draw and outcomes", "after the outcomes"])
def test_a_restored_navigator_draws_what_the_uninterrupted_one_draws(name: str, between: str) -> None:
    navigator = build(name)
    if between != "before the first draw":
        run(navigator, 5)
    rows = navigator.draw(8) if between == "between draw and outcomes" else None
    state = as_stored(navigator.state_dict())
    restored = build(name, seed=99)
    run(restored, 2)
    restored.load_state_dict(state)
    for each_one in (navigator, restored):
        if rows is not None:
            answer(each_one, rows, 5)
    assert run(navigator, 6) == run(restored, 6)
    assert navigator.metrics() == restored.metrics()


@each
def test_a_state_does_not_change_after_it_was_taken(name: str) -> None:
    navigator = build(name)
    run(navigator, 3)
    state = navigator.state_dict()
    future = run(navigator, 5)
    navigator.load_state_dict(state)
    assert run(navigator, 5) == future


@each
def test_how_outcomes_are_split_over_calls_and_ordered_does_not_matter(name: str) -> None:
    one, other = build(name), build(name)
    for draw in range(4):
        rows = one.draw(12)
        assert other.draw(12).tolist() == rows.tolist()
        correct = (rows + draw) % 9
        one.observe(groups(rows, correct), angle=0.25)
        for at in reversed(range(12)):
            other.observe(groups(rows[at : at + 1], correct[at : at + 1]), angle=0.25)


@each
def test_late_repeated_and_undrawn_rows_are_legal(name: str) -> None:
    navigator = build(name)
    first = navigator.draw(8)
    navigator.draw(8)
    every = navigator.prompts.rows
    navigator.observe(groups(np.concatenate([first, first, every[:5]]), 3), angle=0.3)
    navigator.draw(8)
    assert navigator.draws == 3


@each
def test_what_was_not_scored_changes_nothing(name: str) -> None:
    navigator, other = build(name), build(name)
    for draw in range(3):
        rows = navigator.draw(8)
        other.draw(8)
        navigator.observe(groups(rows, 0, scored=0), angle=0.5)
        navigator.observe(Outcomes([], [], [], [], []), angle=math.nan)
        for each_one in (navigator, other):
            answer(each_one, rows, draw)
    assert run(navigator, 2) == run(other, 2)


@each
def test_a_row_that_is_not_among_the_prompts_is_refused_and_changes_nothing(name: str) -> None:
    navigator = build(name)
    run(navigator, 2)
    before = navigator.state_dict()
    with pytest.raises(UserError, match="row 1001 is not among the 60 prompts"):
        navigator.observe(groups([1000, 1001], 3))
    navigator.load_state_dict(before)


@each
@pytest.mark.parametrize(
    ("n", "said"), [(61, "cannot draw 61 distinct prompts of 60"), (0, "at least 1, got 0"), (2.0, "an integer")]
)
def test_impossible_draws_are_refused(name: str, n: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(name).draw(n)


@each
def test_metrics_are_flat_and_json_able(name: str) -> None:
    navigator = build(name)
    assert navigator.metrics()["draws"] == 0
    run(navigator, 3)
    metrics = navigator.metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert 0 <= metrics["position_p10"] <= metrics["position_median"] <= metrics["position_p90"] <= 59


@each
def test_predictions_are_chances_of_the_rows_asked_for(name: str) -> None:
    navigator = build(name)
    run(navigator, 3)
    predicted = navigator.predicted([1030, 1000, 1030])
    if predicted is None:
        assert name not in ("probe", "posterior")
        return
    assert ((predicted >= 0) & (predicted <= 1)).all()
    assert predicted[0] == predicted[2] != predicted[1]
    assert 0 <= navigator.metrics()["expected_mixed"] <= 1


# -- names, arguments, states -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("gausian", {}, "unknown navigator 'gausian': the nearest is 'gaussian'"),
        ("probe", {"explor": 0.1}, "the navigator 'probe' has no argument 'explor': the nearest is 'explore'"),
        ("uniform", {"sigma": 3}, "the navigator 'uniform' has no argument 'sigma': there are none"),
        ("probe", {"explore": 1.5}, "explore must be a number, at least 0 and at most 1, got 1.5"),
        ("probe", {"explore": True}, "explore must be .* got True"),
        ("probe", {"components": 0}, "components must be an integer, at least 1 and at most 128, got 0"),
        ("gaussian", {"sigma": 0}, "sigma must be a finite number, above 0, got 0"),
        ("gaussian", {"alpha": math.inf}, "alpha must be a finite number, above 0, got inf"),
        ("gaussian", {"beta": "half"}, "beta must be a number, .* got 'half'"),
        ("gaussian", {"prompts_per_move": 0}, "prompts_per_move must be an integer, at least 1"),
        ("posterior", {"target": 1.0}, "target must be a finite number, above 0 and below 1, got 1.0"),
        ("posterior", {"memory": 2.5}, "memory must be an integer"),
    ],
)
def test_unknown_names_and_impossible_values_are_refused(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_navigator(name, make_prompts(), args)


def test_seeds_are_integers_from_0() -> None:
    with pytest.raises(UserError, match="seed must be an integer, at least 0"):
        make_navigator("uniform", make_prompts(), seed=-1)


@each
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"navigator": "other"}, "the state is of the navigator 'other', this run uses"),
        ({"fingerprint": "beef"}, "another score table: fingerprint was 'beef' and is now 'f00d'"),
        ({"prompts": 61}, "another number of prompts: prompts was 61 and is now 60"),
        ({"ranking": "0"}, "other rows or scores"),
        ({"settings": {"x": 1}}, "other settings of the navigator: settings was {'x': 1}"),
        ({"draws": "many"}, "draws must be finite int64"),
        ({"random": np.zeros(3, dtype=np.uint64)}, r"random must be finite uint64 of shape \(13,\), got uint64 \(3,\)"),
        ({"pending": np.zeros((2, 4))}, r"pending must be \(g, 6\) float64, got float64 \(2, 4\)"),
        ({"pending": np.full((1, 6), 5.0)}, "row 5 is not among"),
        ({"epoch": 3}, r"missing fields \[\], unknown fields \['epoch'\]"),
        ({"draws": None}, r"missing fields \['draws'\], unknown fields \[\]"),
    ],
)
def test_states_that_do_not_fit_are_refused_and_change_nothing(name: str, change: dict[str, Any], said: str) -> None:
    navigator = build(name)
    run(navigator, 2)
    state = {**navigator.state_dict(), **change}
    state = {field: value for field, value in state.items() if value is not None}
    expected = build(name)
    run(expected, 2)
    with pytest.raises(UserError, match=said):
        navigator.load_state_dict(state)
    assert run(navigator, 3) == run(expected, 3)


def test_a_setting_may_be_a_tuple() -> None:
    Bounds = dataclasses.make_dataclass("Bounds", [("bounds", tuple, dataclasses.field(default=(0.2, 0.8)))])
    kind: Any = type("Bounded", (NAVIGATORS["uniform"],), {"Settings": Bounds})
    kind(make_prompts()).load_state_dict(as_stored(kind(make_prompts()).state_dict()))


def test_damaged_arrays_are_refused_by_name() -> None:
    navigator = build("probe")
    for damaged in (np.zeros(59, np.float16), np.full(60, np.nan, np.float16), "x", np.zeros(60, dtype=complex)):
        with pytest.raises(UserError, match="the curriculum's state: own must be finite float16"):
            navigator.load_state_dict({**navigator.state_dict(), "own": damaged})


def test_a_state_of_other_scores_is_refused() -> None:
    state = build("gaussian").state_dict()
    with pytest.raises(UserError, match="other rows or scores"):
        build("gaussian", score=np.arange(60.0)).load_state_dict(state)


# -- quotas -------------------------------------------------------------------------------------------------


@each
def test_a_quota_bounds_what_is_drawn_of_a_source(name: str) -> None:
    quota = {"a": 0.25, "b": 0.5}
    navigator = make_navigator(name, make_prompts(), ARGS.get(name), seed=1, quota=quota)
    source = dict(zip(navigator.prompts.rows.tolist(), navigator.prompts.sources or (), strict=True))
    for draw in range(6):
        rows = navigator.draw(12)
        drawn = [source[row] for row in rows.tolist()]
        assert drawn.count("a") <= 3
        assert drawn.count("b") <= 6
        assert len(set(rows.tolist())) == 12
        answer(navigator, rows, draw)


@pytest.mark.parametrize(
    ("quota", "said"),
    [
        ({"aa": 0.5}, "quota names an unknown source, 'aa': the nearest is 'a' \\(of a, b, c\\)"),
        ({"a": 1.5}, "quota of 'a' must be a number, at least 0 and at most 1, got 1.5"),
        ({"a": 0.2, "b": 0.3, "c": 0.4}, "the shares of all sources sum to 0.9"),
    ],
)
def test_quotas_that_cannot_be_kept_are_refused(quota: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_navigator("uniform", make_prompts(), quota=quota)


def test_a_draw_that_the_sources_cannot_fill_is_refused() -> None:
    levels = [str(row % 3) for row in range(60)]
    navigator: Any = make_navigator("uniform", make_prompts(sources=levels), quota={0: 0.1, 1: 0.1})  # type: ignore
    navigator.draw(25)  # 3 of level 0, 3 of level 1, and 20 of level 2 are 26
    with pytest.raises(UserError, match=r"the quota \(0 0.1 of 20, 1 0.1 of 20\) allows 28 prompts in a draw of 40"):
        navigator.draw(40)


def test_a_quota_needs_sources() -> None:
    with pytest.raises(UserError, match="quota needs the source of each prompt"):
        make_navigator("uniform", make_prompts(sources=None), quota={"a": 0.5})


@settings(max_examples=60, deadline=None)
@given(
    sources=st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    shares=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), max_size=2),
    n=st.integers(1, 30),
    name=st.sampled_from(sorted(NAVIGATORS)),
)
def test_any_draw_keeps_the_quota_or_says_why_it_cannot(
    sources: list[str], shares: dict[str, float], n: int, name: str
) -> None:
    size = len(sources)
    prompts = Prompts(np.arange(size), np.zeros(size), np.ones(size, dtype=int), sources=sources)
    quota = {source: share for source, share in shares.items() if source in sources}
    most = {s: min(sources.count(s), math.ceil(quota.get(s, 1.0) * n - 1e-9)) for s in "abc"}
    try:
        rows = make_navigator(name, prompts, quota=quota).draw(n)
    except UserError:
        assert n > size or sum(most.values()) < n or (set(quota) == set(sources) and sum(quota.values()) < 1)
        return
    assert len(set(rows.tolist())) == n
    assert all(sum(sources[row] == s for row in rows) <= most[s] for s in "abc")
