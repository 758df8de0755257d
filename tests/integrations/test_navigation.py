"""The one builder of navigators: from a score table and settings by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gainrl.curriculum import NAVIGATORS, GaussianNavigator, PosteriorNavigator, ProbeNavigator, Ranking
from gainrl.curriculum.building import NavigatorSettings, settings_of
from gainrl.errors import UserError
from gainrl.integrations.navigation import build_navigator
from gainrl.table import DIRECTION_FIELD, SCHEMA, ScoreTable, TableMetadata, fingerprint

N = 12
IDS = [f"p{index:02}" for index in range(N)]


def table(*, directions: bool = True) -> ScoreTable:
    values = {
        "id": IDS,
        "row": range(N),
        "status": ["ok"] * N,
        "reason": [None] * N,
        "intra": [0.5] * N,
        "inter": [0.0] * N,
        "score": np.linspace(1.0, 0.0, N),
        "rank": range(N),
        "prefix_tokens": [1] * N,
        "question_tokens": [N - index for index in range(N)],
    }
    columns = pa.table({name: pa.array(values[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)
    if directions:
        rows = np.random.default_rng(0).normal(size=(N, 4)).tolist()
        columns = columns.append_column(DIRECTION_FIELD, pa.array(rows, DIRECTION_FIELD.type))
    metadata = TableMetadata(
        model="m", model_hash="weights:0", tokenizer_hash="t", chat_template_hash="", dataset="d", split=None,
        limit=None, fingerprint=fingerprint(IDS), rows=N,
    )  # fmt: skip
    return ScoreTable(columns, metadata)


@pytest.mark.parametrize("kind", sorted(NAVIGATORS))
def test_every_kind_is_built_with_the_settings_that_it_looks_at(kind: str) -> None:
    given = {"order": "draw", "seed": 7, "beta": 0.6, "memory": 9, "explore": 0.5, "components": 2, "sigma": 3.0}
    built = build_navigator(NavigatorSettings(navigator=kind, **given), table(), range(N), 4)
    assert built.kind == kind
    settings = built.state_dict()["settings"]
    assert (settings["order"], settings["seed"], settings["n"]) == ("draw", 7, 4)
    looked = settings_of(kind)
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
        ({"navigator": "probe"}, r"^data\.navigator='probe' learns from the prompts' directions.*--directions"),
    ],
)
def test_a_mistake_is_named_as_the_users_configuration_calls_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_navigator(NavigatorSettings(**settings), table(directions=False), range(N), 4, called="data.{}".format)


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="no usable prompt"):
        build_navigator(NavigatorSettings(), table(), [], 4)


def test_defaults_are_those_of_the_navigators() -> None:
    ranking = Ranking(IDS, np.linspace(1.0, 0.0, N), fingerprint(IDS))
    plain = build_navigator(NavigatorSettings(), table(), range(N), 4)
    assert plain.state_dict() == GaussianNavigator(ranking, 4).state_dict()
    posterior = build_navigator(NavigatorSettings(navigator="posterior"), table(), range(N), 4)
    assert posterior.state_dict() == PosteriorNavigator(ranking, 4).state_dict()
