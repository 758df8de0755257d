"""The rollouts of a draw, its line in `draws.jsonl`, and a state as JSON: what the integrations share."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.curriculum import Navigator, Outcomes
from gainrl.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Summary = dict[str, float | None]

_EQUAL = 1e-6
"""Rewards of a group that differ by no more are equal: they travel as float32."""


class Draw:
    """n drawn rows and the rollouts that came of them.

    number: of the draw, from 0.  rows: (n,) rows of the score table.  navigator: what has just drawn them, with its
    metrics and, if it has them, its predicted chances of a mixed group.
    """

    _FIELDS = ("number", "rows", "predicted", "metrics", "finished", "rollouts")

    def __init__(self, number: int, rows: Ints, navigator: Navigator | None = None) -> None:
        self.number, self.rows = number, rows
        self.predicted = None if navigator is None else navigator.predicted(rows)
        self.metrics = {} if navigator is None else navigator.metrics()
        self.finished: Mask = np.zeros(len(rows), np.bool_)
        """(n,) which groups the navigator has."""
        self.rollouts: Floats = np.empty((0, 5))
        """(R, 5) index of the group among the rows, accuracy in [0, 1], reward, angle, tokens; NaN if there is none."""
        self._began = time.monotonic()

    def add(self, *columns: npt.ArrayLike) -> None:
        """Add rollouts: the five columns of `rollouts`, each an array or one number for all."""
        self.rollouts = np.concatenate([self.rollouts, np.stack(np.broadcast_arrays(*columns), axis=1)])

    def outcomes(self) -> Outcomes:
        """All groups, as a navigator takes them; mixed are those whose rewards differ."""
        group, (accuracy, reward), n = self.rollouts[:, 0].astype(np.int64), self.rollouts[:, 1:3].T, len(self.rows)
        low, high, known = np.full(n, np.inf), np.full(n, -np.inf), ~np.isnan(accuracy)
        np.fmin.at(low, group, reward)
        np.fmax.at(high, group, reward)
        rollouts, scored = np.bincount(group, minlength=n), np.bincount(group[known], minlength=n)
        correct = np.bincount(group[known], accuracy[known], n).astype(np.float64)
        return Outcomes(self.rows, rollouts, scored, correct, high - low > _EQUAL)

    def angle(self, which: Mask | slice = slice(None)) -> float | None:
        """Mean angle of the measured rollouts of the groups `which`."""
        groups = np.arange(len(self.rows))[which]
        return _mean(self.rollouts[np.isin(self.rollouts[:, 0], groups), 3])

    def record(self, step: int, navigator: Navigator) -> dict[str, Any]:
        """The line of `draws.jsonl`."""
        outcomes = self.outcomes()
        columns = outcomes.scored.tolist(), outcomes.correct.tolist(), outcomes.mixed.tolist()
        return {
            "draw": self.number,
            "step": step,
            "navigator": navigator.name,
            "rows": self.rows,
            "rollouts": len(self.rollouts),
            "scored": int(outcomes.scored.sum()),
            **summary(outcomes),
            "predicted": self.predicted,
            "outcome": list(zip(*columns, strict=True)),
            "angle": self.angle(),
            "reward": _mean(self.rollouts[:, 2]),
            "tokens": int(self.rollouts[:, 4].sum()),
            "seconds": time.monotonic() - self._began,
            "sources": by_source(navigator, outcomes),
            "metrics": self.metrics,
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {name: getattr(self, name) for name in self._FIELDS}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Draw:
        """The draw of a state; UserError for other fields."""
        if set(state) != set(cls._FIELDS):
            raise UserError(f"the state of a draw has the fields {sorted(state)}: it is of another release of gainrl")
        draw = cls(state["number"], state["rows"])
        vars(draw).update(state)
        return draw


def summary(outcomes: Outcomes) -> Summary:
    """Of the groups that have a scored rollout: accuracy; shares of mixed, of right and of wrong ones."""
    graded = outcomes[outcomes.scored > 0]
    return {
        "accuracy": float(graded.correct.sum() / graded.scored.sum()) if len(graded) else None,
        "mixed": _mean(graded.mixed),
        "all_right": _mean(graded.correct >= graded.scored - _EQUAL),
        "all_wrong": _mean(graded.correct <= _EQUAL),
    }


def by_source(navigator: Navigator, outcomes: Outcomes) -> dict[str, Summary]:
    """Number, accuracy and mixed share of each source's groups; empty where the prompts name none."""
    if navigator.prompts.sources is None:
        return {}
    every = np.asarray(navigator.prompts.sources)[navigator.prompts.index(outcomes.row)]
    found = {}
    for name in np.unique(every):
        own = summary(outcomes[every == name])
        found[str(name)] = {"groups": int((every == name).sum()), "accuracy": own["accuracy"], "mixed": own["mixed"]}
    return found


def to_json(value: Any) -> Any:
    """A state as JSON types; arrays become base64 with dtype and shape."""
    return json.loads(json.dumps(value, default=_encoded))


def from_json(value: Any) -> Any:
    """What `to_json` was given, with lists for tuples."""
    return json.loads(json.dumps(value), object_hook=_decoded)


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"base64": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    return value.item()


def _decoded(found: dict[str, Any]) -> Any:
    if set(found) != {"base64", "dtype", "shape"}:
        return found
    return np.frombuffer(base64.b64decode(found["base64"]), found["dtype"]).reshape(found["shape"]).copy()


def _mean(values: npt.NDArray[Any]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
