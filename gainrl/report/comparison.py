"""Runs against each other: accuracy over rollouts, tokens and seconds, areas, and what reaching each other cost.

Two kinds of learning curves come out of a run's records.  `held-out`: the evaluations of one task, each at the place of
its checkpoint; this is what compares curricula.  `training`: each epoch's accuracy on the prompts that it drew, which
is there without any evaluation, but says as much of the prompts as of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError
from gainrl.report.records import Record, RunRecords, number, read_run, seconds

Floats = npt.NDArray[np.float64]

# Wall-clock seconds of training: an epoch's own and those of ranking the dataset again before it.
COSTS = {"rollouts": "rollouts", "tokens": "tokens generated", "seconds": "seconds"}
TRAINING = ""


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run over what it cost: `accuracy` (P,), `cost` name -> (P,) cumulative, increasing."""

    run: str
    accuracy: Floats
    cost: Mapping[str, Floats]

    def reached(self, target: float, cost: str) -> float:
        """What it cost to reach an accuracy first, on straight lines between the points; NaN where it never did."""
        spent = self.cost[cost]
        above = np.flatnonzero(self.accuracy >= target)
        if not len(above):
            return float("nan")
        at = int(above[0])
        if at == 0:
            return float(spent[0])
        before, after = self.accuracy[at - 1], self.accuracy[at]
        share = (target - before) / (after - before)
        return float(spent[at - 1] + share * (spent[at] - spent[at - 1]))

    def area(self, cost: str, start: float, end: float) -> float:
        """Mean accuracy between two costs (the area under the curve over its width); NaN outside of the curve."""
        spent = self.cost[cost]
        if not (np.isfinite([start, end]).all() and spent[0] <= start < end <= spent[-1]):
            return float("nan")
        inside = (spent > start) & (spent < end)
        places = np.concatenate([[start], spent[inside], [end]])
        values = np.interp(places, spent, self.accuracy)
        return float(np.sum((values[1:] + values[:-1]) * np.diff(places)) / 2 / (end - start))


@dataclass(frozen=True)
class Panel:
    """The curves of one kind: `task` is the evaluated one, or TRAINING."""

    task: str
    curves: list[Curve]

    def common(self, cost: str) -> tuple[float, float]:
        """The part of the axis on which every curve is known."""
        return max(c.cost[cost][0] for c in self.curves), min(c.cost[cost][-1] for c in self.curves)


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Path, RunRecords]]:
    """(name, path, records) of run directories; UserError for fewer than two, the same one twice, or one unfinished."""
    places = [Path(path) for path in paths]
    real = [path.resolve() for path in places]
    for place in real:
        if real.count(place) > 1:
            raise UserError(f"the run {os.fspath(place)!r} is named twice")
    read = []
    for place in places:
        if place.is_file():
            raise UserError(f"{os.fspath(place)!r} is a score table; a comparison needs run directories")
        records = read_run(place)
        if not records.epochs:
            raise UserError(f"the run {os.fspath(place)!r} has no finished epoch yet: there is nothing to compare")
        read.append(records)
    names = [records.name for records in read]
    labels = [name if names.count(name) == 1 else os.fspath(p) for name, p in zip(names, places, strict=True)]
    return list(zip(labels, places, read, strict=True))


def panels(runs: Sequence[tuple[str, Path, RunRecords]]) -> list[Panel]:
    """One panel per task that at least two runs were evaluated on twice or more, then the one of training."""
    tasks = dict.fromkeys(str(record.get("task") or "evaluation") for _, _, run in runs for record in run.evals)
    held_out = [Panel(task, [c for run in runs if (c := _held_out(*run, task)) is not None]) for task in tasks]
    training = Panel(TRAINING, [curve for name, _, run in runs if (curve := _training(name, run)) is not None])
    return [panel for panel in (*held_out, training) if len(panel.curves) > 1]


def spent(run: RunRecords) -> dict[str, Floats]:
    """Cumulative cost after 0, 1, ... epochs: name -> (epochs + 1,); a cost that some epoch lacks is NaN from there."""
    out = {}
    for cost in COSTS:
        found = [seconds(record) if cost == "seconds" else number(record.get(cost)) for record in run.epochs]
        steps = np.array([np.nan if value is None else value for value in found], dtype=np.float64)
        out[cost] = np.concatenate([[0.0], np.cumsum(steps)])
    return out


def _training(name: str, run: RunRecords) -> Curve | None:
    totals = spent(run)
    accuracy = np.array([_or_nan(record.get("accuracy")) for record in run.epochs], dtype=np.float64)
    return _curve(name, accuracy, {cost: values[1:] for cost, values in totals.items()})


def _held_out(name: str, path: Path, run: RunRecords, task: str) -> Curve | None:
    totals = spent(run)
    per_epoch = _steps_per_epoch(path, run)
    points: dict[float, float] = {}
    for record in run.evals:
        if str(record.get("task") or "evaluation") != task:
            continue
        at, found = place(record, per_epoch, len(run.epochs)), number(record.get("accuracy"))
        if at is not None and found is not None and 0 <= at <= len(run.epochs):
            points[at] = found  # an evaluation that was made again replaces the earlier one
    places = np.array(sorted(points), dtype=np.float64)
    accuracy = np.array([points[at] for at in places], dtype=np.float64)
    epochs = np.arange(len(run.epochs) + 1, dtype=np.float64)
    return _curve(name, accuracy, {cost: np.interp(places, epochs, values) for cost, values in totals.items()})


def _curve(name: str, accuracy: Floats, cost: Mapping[str, Floats]) -> Curve | None:
    known = np.isfinite(accuracy)
    known &= np.all([np.isfinite(values) for values in cost.values()], axis=0)
    if known.sum() < 2:
        return None
    return Curve(name, accuracy[known], {key: values[known] for key, values in cost.items()})


def place(record: Record, per_epoch: float | None, epochs: float) -> float | None:
    """After how many epochs an evaluation was made; None where its record does not tell."""
    if (epoch := number(record.get("epoch"))) is not None:
        return epoch
    step = number(record.get("step"))
    if step is not None:
        return None if per_epoch is None else step / per_epoch
    return {"before": 0.0, "after": float(epochs)}.get(str(record.get("stage")))


def _steps_per_epoch(path: Path, run: RunRecords) -> float | None:
    """Optimizer steps of one epoch, from a checkpoint's own state or from an evaluation that names both."""
    return steps_per_epoch((*run.evals, *_states(path)))


def steps_per_epoch(records: Iterable[Record]) -> float | None:
    """Optimizer steps of one epoch, from the first record that names a step and its epoch."""
    for record in records:
        step, epoch = number(record.get("step", record.get("global_step"))), number(record.get("epoch"))
        if step and epoch:
            return step / epoch
    return None


def _states(path: Path) -> Iterator[Record]:
    for file in sorted(path.glob("checkpoints/checkpoint-*/trainer_state.json")):
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(state, dict):
            yield state


def _or_nan(value: object) -> float:
    found = number(value)
    return float("nan") if found is None else found
