"""The cases: a model and the problems that it is asked, each as plain text behind worked examples.

`smollm2-*` are the packaged SmolLM2-135M-Instruct on arithmetic and on families of reasoning-gym; `tiny-*` are the
convergence study's pretrained models on its development families, whose chances of
a right answer are computed exactly.  The study's held-out families are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Problems:
    """What a model is asked: rows {prompt, question, answer}, and how completions are judged."""

    model: str
    """Name or directory, as `gainrl.scoring.load_model` takes it."""
    rows: Sequence[Row]
    grade: Callable[[Sequence[str], Sequence[Row]], list[bool | None]]
    """Right, wrong, or None where nobody can say."""
    gold: Callable[[Row], str]
    stop: tuple[str, ...]
    """Texts that end a completion, besides the end token; the first one ends a gold answer."""
    max_new_tokens: int
    exact: Callable[[Any, Sequence[Row]], npt.NDArray[np.float64]] | None = None
    """(N,) chances of a right answer under a model, where they can be computed."""


@dataclass(frozen=True)
class Case:
    """`samples` rollouts for each of `prompts` problems; gradients for the first `gradients` of them, `group` rollouts
    each."""

    open: Callable[[int], Problems]
    prompts: int
    samples: int
    gradients: int
    group: int = 8


def of_task(name: str, count: int) -> Problems:
    """The first `count` training problems of a task of `gainrl.tasks`, for SmolLM2."""
    from gainrl.tasks import load_task

    task = load_task(name)

    def grade(texts: Sequence[str], rows: Sequence[Row]) -> list[bool | None]:
        return [one.correct if one.scored else None for one in task.grade_many(list(texts), list(rows))]

    def gold(row: Row) -> str:
        return " " + str(task.gold(row)).strip()

    return Problems("smollm2-135m", task.load("train", limit=count), grade, gold, tuple(task.stop), task.max_new_tokens)


def of_bed(family: str, count: int) -> Problems:
    """The first `count` training problems of the convergence study's bed of a development family, seed 0."""
    from benchmarks.convergence.bed import pass_rates
    from benchmarks.convergence.protocol import load

    bed = load().bed(family, 0)
    found = bed.family
    problems = bed.problems[:count]
    rows = [
        {"prompt": found.prompt(one), "question": one.question, "answer": one.answer, "problem": one}
        for one in problems
    ]

    def grade(texts: Sequence[str], rows: Sequence[Row]) -> list[bool | None]:
        return [text == row["answer"] for text, row in zip(texts, rows, strict=True)]

    def exact(model: Any, rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        return pass_rates(model, bed.tokenizer, found, [row["problem"] for row in rows])

    return Problems(str(bed.directory), rows, grade, lambda row: str(row["answer"]), (), bed.longest_answer, exact)


CASES = {
    "smollm2-arithmetic": Case(partial(of_task, "arithmetic:size=360"), 250, 16, 96),
    "smollm2-letters": Case(partial(of_task, "benchmarks.real_model_tasks.Letters"), 160, 8, 48),
    "smollm2-chains": Case(partial(of_task, "benchmarks.real_model_tasks.Chains"), 160, 8, 48),
    "smollm2-divisors": Case(partial(of_task, "benchmarks.real_model_tasks.Divisors"), 160, 8, 48),
    "tiny-sums": Case(partial(of_bed, "sums"), 400, 8, 400),
    "tiny-strings": Case(partial(of_bed, "strings"), 400, 8, 400),
    "tiny-lists": Case(partial(of_bed, "lists"), 400, 8, 400),
}


def find(name: str) -> Case:
    """The case of this name; UserError for another."""
    if name not in CASES:
        raise UserError(f"there is no case {name!r}; the cases are {', '.join(CASES)}")
    return CASES[name]
