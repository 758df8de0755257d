"""Score tables without a model, and a navigator that learns, for the tests of the samplers and of verl."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gainrl.curriculum import Navigator
from gainrl.table import ScoreTable, content_ids
from tests.score_tables import score_table


def table_of(prompts: Sequence[Any], *, failed: Collection[int] = ()) -> ScoreTable:
    """A table of these prompts, scored 0.9 to 0.2 in their order, with directions of four numbers."""
    count = len(prompts)
    scores = np.linspace(0.9, 0.2, count)
    scores[list(failed)] = np.nan
    columns = {
        "status": ["failed" if row in failed else "ok" for row in range(count)],
        "question_tokens": [count - row for row in range(count)],
        "direction": np.random.default_rng(0).normal(size=(count, 4)).tolist(),
    }
    return score_table(content_ids(prompts), scores, columns, dataset="memory")


class Learner(Navigator):
    """Draws by chance what earned the least so far: every outcome changes the draws after it."""

    name = "learner"
    STATE = ("earned",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.earned = np.zeros(len(self.prompts))

    def race(self, n: int) -> Any:
        return self.rng.random(len(self.prompts)) + self.earned

    def learn(self, index: Any, outcomes: Any, angle: Any) -> None:
        earned = outcomes.correct / np.maximum(outcomes.scored, 1) + outcomes.mixed + np.nan_to_num(angle)
        np.add.at(self.earned, index, earned)


class AngleLearner(Learner):
    """The same, and it asks for angles."""

    name = "angle-learner"
    needs_angle = True


def learnt(navigator: Navigator) -> Any:
    """(M,) what the prompts earned, once the navigator has learnt all that it has observed."""
    copy: Any = type(navigator)(navigator.prompts)
    copy.load_state_dict(navigator.state_dict())
    copy.draw(1)
    return copy.earned
