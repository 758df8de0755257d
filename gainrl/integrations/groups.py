"""Rollouts summed up by group, the line of a draw, and a state as JSON: what the integrations share."""

from __future__ import annotations

import base64
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

_EQUAL = 1e-6
"""Rewards of a group that differ by no more are equal: they travel as float32."""


class Draw:
    """n drawn rows and what came of them: sums over each group's rollouts, every array (n,).

    number: of the draw, from 0.  rows: rows of the score table.  predicted: the chance of a mixed group, or None.
    metrics: the navigator's, when it had drawn.
    """

    SUMS = ("rollouts", "scored", "correct", "low", "high", "reward", "rewarded", "angle", "measured", "tokens")
    """rollouts; those of them that are scored, and their credit; lowest and highest reward; and, each with the number
    of rollouts that have one, the sum of rewards and of angles; generated tokens."""

    _FIELDS = ("number", "rows", "predicted", "metrics", "finished")

    def __init__(
        self, number: int, rows: Ints, predicted: Floats | None = None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        self.number, self.rows, self.predicted, self.metrics = number, rows, predicted, dict(metrics or {})
        self.sums = {name: np.zeros(len(rows)) for name in self.SUMS}
        self.sums["low"] += np.inf
        self.sums["high"] -= np.inf
        self.finished: Mask = np.zeros(len(rows), np.bool_)
        """Which groups the navigator has."""
        self._began = time.monotonic()

    @classmethod
    def made_by(cls, navigator: Navigator, number: int, rows: Ints) -> Draw:
        """The draw that this navigator has just made."""
        return cls(number, rows, navigator.predicted(rows), navigator.metrics())

    def add(self, group: Ints, credit: Floats, reward: Floats, angle: Floats, tokens: Ints | int = 0) -> None:
        """Add rollouts: place of the group among the rows, credit in [0, 1], reward, angle (NaN if there is none)."""
        for name, values in (
            ("rollouts", 1), ("scored", ~np.isnan(credit)), ("correct", np.nan_to_num(credit)),
            ("reward", np.nan_to_num(reward)), ("rewarded", ~np.isnan(reward)),
            ("angle", np.nan_to_num(angle)), ("measured", ~np.isnan(angle)), ("tokens", tokens),
        ):  # fmt: skip
            np.add.at(self.sums[name], group, values)
        np.fmin.at(self.sums["low"], group, reward)
        np.fmax.at(self.sums["high"], group, reward)

    @property
    def mixed(self) -> Mask:
        """Which groups have rewards that differ."""
        return self.sums["high"] - self.sums["low"] > _EQUAL

    def outcomes(self, which: Mask) -> Outcomes:
        """The groups `which`, as a navigator takes them."""
        rollouts, scored = (self.sums[name][which].astype(np.int64) for name in ("rollouts", "scored"))
        return Outcomes(self.rows[which], rollouts, scored, self.sums["correct"][which], self.mixed[which])

    def angle(self, which: Mask) -> float | None:
        """Mean angle of the measured rollouts of the groups `which`."""
        return _mean(self.sums["angle"][which].sum(), self.sums["measured"][which].sum())

    def summary(self, which: Mask) -> dict[str, float | None]:
        """Of the groups `which` that have a scored rollout: number, accuracy, share of mixed and of equal ones."""
        graded = which & (self.sums["scored"] > 0)
        scored, correct = self.sums["scored"][graded], self.sums["correct"][graded]
        count = len(scored)
        return {
            "groups": count,
            "accuracy": _mean(correct.sum(), scored.sum()),
            "mixed": _mean(self.mixed[graded].sum(), count),
            "all_right": _mean((correct >= scored - _EQUAL).sum(), count),
            "all_wrong": _mean((correct <= _EQUAL).sum(), count),
        }

    def by_source(self, navigator: Navigator) -> dict[str, dict[str, float | None]] | None:
        """The summary of each source's groups; None where the prompts name none."""
        if navigator.prompts.sources is None:
            return None
        every = np.asarray(navigator.prompts.sources)[navigator.prompts.index(self.rows)]
        found = {str(name): self.summary(every == name) for name in np.unique(every)}
        return {name: {key: one[key] for key in ("groups", "accuracy", "mixed")} for name, one in found.items()}

    def record(self, step: int, navigator: Navigator) -> dict[str, Any]:
        """The line of `draws.jsonl`."""
        sums, every = self.sums, np.ones(len(self.rows), np.bool_)
        summary = self.summary(every)
        del summary["groups"]
        sources = self.by_source(navigator)
        return {
            "draw": self.number,
            "step": step,
            "navigator": navigator.name,
            "rows": self.rows,
            "rollouts": int(sums["rollouts"].sum()),
            "scored": int(sums["scored"].sum()),
            **summary,
            "predicted": [None] * len(self.rows) if self.predicted is None else self.predicted,
            "outcome": [
                [int(scored), correct, mixed]
                for scored, correct, mixed in zip(sums["scored"], sums["correct"], self.mixed.tolist(), strict=True)
            ],
            "angle": self.angle(every),
            "reward": _mean(sums["reward"].sum(), sums["rewarded"].sum()),
            "tokens": int(sums["tokens"].sum()),
            "seconds": time.monotonic() - self._began,
            **({} if sources is None else {"sources": sources}),
            "metrics": self.metrics,
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {**{name: getattr(self, name) for name in self._FIELDS}, **self.sums}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Draw:
        """The draw of a state; UserError for other fields."""
        if set(state) != {*cls._FIELDS, *cls.SUMS}:
            raise UserError(f"the state of a draw has the fields {sorted(state)}: it is of another release of gainrl")
        draw = cls(int(state["number"]), state["rows"], state["predicted"], state["metrics"])
        draw.finished = state["finished"]
        draw.sums = {name: state[name] for name in cls.SUMS}
        return draw


def to_json(value: Any) -> Any:
    """A state as JSON types; arrays become base64 with dtype and shape."""
    if isinstance(value, Mapping):
        return {str(name): to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"base64": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    return value.item() if isinstance(value, np.generic) else value


def from_json(value: Any) -> Any:
    """What `to_json` was given, with lists for tuples."""
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"base64", "dtype", "shape"}:
        return np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"]).copy()
    return {name: from_json(one) for name, one in value.items()}


def _mean(total: float, count: float) -> float | None:
    return float(total / count) if count else None
