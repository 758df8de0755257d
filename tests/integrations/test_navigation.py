"""The one builder of navigators: from a score table and settings by name."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from gainrl.curriculum import NAVIGATORS, GaussianNavigator, PosteriorNavigator, ProbeNavigator, PromptFeatures, Ranking
from gainrl.curriculum.building import NavigatorSettings, settings_of
from gainrl.errors import UserError
from gainrl.integrations.navigation import build_navigator, require_navigator
from gainrl.table import ScoreTable, fingerprint
from tests.score_tables import score_table

N = 12
IDS = [f"p{index:02}" for index in range(N)]


def table(*, directions: bool = True) -> ScoreTable:
    columns: dict[str, Any] = {"question_tokens": [N - index for index in range(N)]}
    if directions:
        columns["direction"] = np.random.default_rng(0).normal(size=(N, 4)).tolist()
    return score_table(IDS, np.linspace(1.0, 0.0, N), columns)


@pytest.mark.parametrize("kind", sorted(NAVIGATORS))
def test_every_kind_is_built_with_the_settings_that_it_looks_at(kind: str) -> None:
    looked = settings_of(kind)
    given = {"order": "draw", "seed": 7, "beta": 0.6, "memory": 9, "explore": 0.5, "components": 2, "sigma": 3.0}
    own = {name: value for name, value in given.items() if name in looked}
    built = build_navigator(NavigatorSettings(navigator=kind, **own), table(), range(N), 4)
    assert built.kind == kind
    settings = built.state_dict()["settings"]
    assert (settings["order"], settings["seed"], settings["n"]) == ("draw", 7, 4)
    for name in given.keys() - looked:
        with pytest.raises(UserError, match=rf"^{name}={given[name]} works with the navigators? .*, not with '{kind}'"):
            NavigatorSettings(navigator=kind, **{name: given[name]}).check()
    for name, key in (("memory", "memory"), ("explore", "explore"), ("components", "components"), ("sigma", "sigma")):
        assert (key in settings) == (name in looked), name
    if "beta" in looked:
        assert settings["beta" if "sigma" in looked else "target"] == 0.6


def test_rows_choose_the_prompts_and_a_ranking_of_ones_own_their_order() -> None:
    rows = [8, 2, 5, 3]
    built = build_navigator(NavigatorSettings(navigator="fixed"), table(), rows, 4, fingerprint="another")
    assert built.draw() == ["p02", "p03", "p05", "p08"]
    assert built.ranking.fingerprint == "another"
    mine = Ranking([IDS[row] for row in rows], [0.4, 0.1, 0.2, 0.3], "f")
    assert build_navigator(NavigatorSettings(navigator="fixed"), table(), rows, 4, ranking=mine).draw() == [
        "p08", "p03", "p05", "p02",
    ]  # fmt: skip
    shortest = build_navigator(NavigatorSettings(navigator="shortest-first"), table(), rows, 2)
    assert shortest.draw() == ["p08", "p05"]


def test_probe_sees_each_prompts_own_direction() -> None:
    rows = [8, 2, 5, 3]
    settings = NavigatorSettings(navigator="probe", components=2)
    one = build_navigator(settings, table(), rows, 2)
    other = build_navigator(settings, table(), rows[::-1], 2)
    assert isinstance(one, ProbeNavigator)
    assert isinstance(other, ProbeNavigator)
    assert one.features.digest == other.features.digest
    assert one.state_dict() == other.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"navigator": "gausian"}, r"^data\.navigator='gausian': the nearest name is 'gaussian' \(of gaussian, target"),
        ({"order": "best"}, r"^data\.order='best': choose one of rank, draw, shuffled"),
        ({"components": 0}, r"^data\.components=0: give an integer from 1 to 128"),
        ({"explore": 1.5}, r"^data\.explore=1.5: give a share of the epoch"),
        ({"sigma": 0}, r"sigma must be a positive finite number"),
        (
            {"navigator": "probe", "skip_mastered": 2},
            r"^data\.skip_mastered=2 works with the navigators gaussian, target, uniform, not with 'probe'",
        ),
        (
            {"sigma": 1000},
            r"^data\.sigma=1000 works with the navigators gaussian, target, not with 'probe' \(the default\): leave it "
            r"out, or choose data\.navigator='gaussian'$",
        ),
    ],
)
def test_a_mistake_is_named_as_the_users_configuration_calls_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_navigator(NavigatorSettings(**settings), table(directions=False), range(N), 4, called="data.{}".format)


@pytest.mark.parametrize("named", [{"navigator": "probe"}, {}], ids=["named", "default"])
def test_without_directions_the_probe_goes_by_ranking_and_length_and_says_so_once(
    named: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    made = table(directions=False)
    with caplog.at_level(logging.WARNING):
        built = [
            build_navigator(NavigatorSettings(**named), made, range(N), 4, called="data.{}".format) for _ in range(2)
        ]
    assert [record.getMessage() for record in caplog.records] == [
        "the score table has no directions, so that data.navigator=probe goes by ranking and question length alone: "
        "score again with `gainrl score --directions`"
    ]
    for navigator in built:
        assert isinstance(navigator, ProbeNavigator)
        assert navigator.features.components == 0
        assert navigator.features.known.all()
        assert len(np.unique(navigator.features.values[2])) == N
    assert built[0].draw() == built[1].draw()


def test_a_navigator_that_only_shows_whether_settings_fit_reads_no_directions_and_says_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScoreTable, "directions", lambda self: pytest.fail("directions were read"))
    for made in (table(), table(directions=False)):
        built = build_navigator(NavigatorSettings(), made, range(N), 4, directions=False)
        assert isinstance(built, ProbeNavigator)
        assert built.features.components == 0
    with pytest.raises(UserError, match="no usable prompt"):
        build_navigator(NavigatorSettings(), table(), [], 4, directions=False)
    assert caplog.records == []


def test_of_a_launchers_processes_the_first_alone_says_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    build_navigator(NavigatorSettings(), table(directions=False), range(N), 4)
    assert caplog.records == []


def test_a_state_of_another_navigator_is_refused_with_the_one_that_it_needs() -> None:
    state = build_navigator(NavigatorSettings(navigator="gaussian"), table(), range(N), 4).state_dict()
    require_navigator(state, "gaussian")
    with pytest.raises(
        UserError, match=r"'gaussian', this run uses 'probe' \(the default\): go on with my\.navigator='ga"
    ):
        require_navigator(state, "probe", "my.{}".format)


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="no usable prompt"):
        build_navigator(NavigatorSettings(), table(), [], 4)


def test_defaults_are_those_of_the_navigators() -> None:
    ranking = Ranking(IDS, np.linspace(1.0, 0.0, N), fingerprint(IDS))
    made = table()
    features = PromptFeatures(ranking, IDS, made.directions(), made.column("question_tokens"))
    plain = build_navigator(NavigatorSettings(), made, range(N), 4)
    assert plain.state_dict() == ProbeNavigator(ranking, 4, features).state_dict()
    gaussian = build_navigator(NavigatorSettings(navigator="gaussian"), table(), range(N), 4)
    assert gaussian.state_dict() == GaussianNavigator(ranking, 4).state_dict()
    posterior = build_navigator(NavigatorSettings(navigator="posterior"), table(), range(N), 4)
    assert posterior.state_dict() == PosteriorNavigator(ranking, 4).state_dict()
