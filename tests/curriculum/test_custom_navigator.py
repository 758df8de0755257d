"""examples/custom_navigator.py: one file and one registry line make a navigator like the others."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gainrl.curriculum import NAVIGATORS, make_navigator
from gainrl.errors import UserError
from tests.curriculum.navigator_support import groups, make_prompts

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_navigator.py"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    runpy.run_path(str(EXAMPLE))
    yield
    NAVIGATORS.pop("growing")


def test_it_draws_short_questions_first_and_longer_ones_as_accuracy_rises() -> None:
    prompts = make_prompts(60)
    navigator = make_navigator("growing", prompts, {"start": 0.2})
    shortest = set(prompts.rows[np.argsort(prompts.tokens, kind="stable")[:13]].tolist())
    for _ in range(4):
        rows = navigator.draw(8)
        assert set(rows.tolist()) <= shortest
        navigator.observe(groups(rows, 3))
    for _ in range(9):
        navigator.observe(groups(navigator.draw(8), 8))
    assert not set(navigator.draw(40).tolist()) <= shortest
    assert navigator.metrics()["share"] == 1.0


def test_it_resumes_keeps_quotas_and_checks_its_settings_like_the_others() -> None:
    navigator = make_navigator("growing", make_prompts(), quota={"a": 0.25})
    navigator.observe(groups(navigator.draw(8), 8))
    state = navigator.state_dict()
    expected = navigator.draw(8).tolist()
    restored = make_navigator("growing", make_prompts(), seed=7, quota={"a": 0.25})
    restored.load_state_dict(state)
    assert restored.draw(8).tolist() == expected
    assert sum((row - 1000) // 3 % 3 == 0 for row in expected) <= 2
    with pytest.raises(UserError, match="raise_at must be a number, at least 0 and at most 1, got 7"):
        make_navigator("growing", make_prompts(), {"raise_at": 7})
    with pytest.raises(UserError, match="no argument 'raise': the nearest is 'raise_at'"):
        make_navigator("growing", make_prompts(), {"raise": 0.7})


def test_it_runs_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("draw 0: ")
