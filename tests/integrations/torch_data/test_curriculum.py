"""From a score table and prompts to a navigator."""

from __future__ import annotations

import logging

import pytest
from tables import score_table

from gainrl.curriculum import NAVIGATORS
from gainrl.errors import UserError
from gainrl.integrations.torch_data import CurriculumSampler, load_curriculum

PROMPTS = [f"question {i % 18}" for i in range(20)]  # two occur twice


def table(**options):
    return score_table(PROMPTS, **options)


def test_the_ranking_is_the_tables_and_rows_are_matched_by_content(tmp_path):
    table().write(tmp_path / "scores.parquet")
    curriculum = load_curriculum(tmp_path / "scores.parquet", PROMPTS, 4, navigator="fixed")
    assert list(CurriculumSampler(curriculum.navigator, curriculum.ids)) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", sorted(NAVIGATORS))
def test_every_navigator_is_built_by_name(name):
    more = {"gaussian": {"sigma": 3.0, "beta": 0.6}, "probe": {"components": 2}}.get(name, {})
    curriculum = load_curriculum(table(directions=True), PROMPTS, 5, navigator=name, seed=7, **more)
    assert curriculum.navigator.kind == name
    assert len(set(curriculum.navigator.draw())) == 5
    if name == "shortest-first":
        assert curriculum.navigator.ids == curriculum.ids[:-6:-1]


def test_prompts_that_could_not_be_scored_are_never_drawn():
    curriculum = load_curriculum(table(failed=(2, 5), directions=True), PROMPTS, 18, navigator="probe", components=2)
    assert sorted(set(range(20)) - set(CurriculumSampler(curriculum.navigator, curriculum.ids))) == [2, 5]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (PROMPTS[:-1], {}, "made for another dataset"),
        (PROMPTS[::-1], {}, "in another order"),
        ([*PROMPTS[:3], "another"], {"subset": True}, "1 of the dataset's 4 prompts are not in the score table"),
        (PROMPTS, {"navigator": "gauss"}, "navigator='gauss': the nearest name is 'gaussian'"),
        (PROMPTS, {"sigm": 2}, "settings of the navigator 'probe': it has components, explore, order, seed; no sigm$"),
        (
            PROMPTS,
            {"navigator": "fixed", "sigma": 2},
            "^sigma=2 works with .* gaussian, target, not with 'fixed': leave",
        ),
        (PROMPTS, {"sigma": 2}, r"not with 'probe' \(the default\): leave it out, or choose navigator='gaussian'$"),
        (PROMPTS, {"order": "random"}, "order='random': choose one of rank"),
        (PROMPTS, {"sigma": -1}, "sigma must be a positive"),
    ],
)
def test_what_does_not_fit_is_one_error(prompts, options, message):
    with pytest.raises(UserError, match=message):
        load_curriculum(table(), prompts, 4, **options)


def test_the_default_goes_by_directions_or_says_that_it_has_none(caplog):
    with caplog.at_level(logging.WARNING):
        assert load_curriculum(table(directions=True), PROMPTS, 4).navigator.features.components > 0
        assert caplog.text == ""
        assert load_curriculum(table(), PROMPTS, 4).navigator.features.components == 0
    assert "so that navigator=probe goes by ranking and question length alone: score again with `gainrl" in caplog.text


def test_a_table_without_usable_prompts_is_refused():
    with pytest.raises(UserError, match="no usable prompt"):
        load_curriculum(table(failed=range(20)), PROMPTS, 4)


def test_a_dataset_may_lack_prompts_of_the_table_where_that_is_allowed():
    kept = [prompt for prompt in PROMPTS if not prompt.endswith(("1", "7"))]
    curriculum = load_curriculum(table(), kept, 4, subset=True, navigator="fixed")
    drawn = [kept[row] for row in CurriculumSampler(curriculum.navigator, curriculum.ids)]
    assert drawn == kept[:4]
    assert curriculum.scores[curriculum.ids[0]] == pytest.approx(0.9)
