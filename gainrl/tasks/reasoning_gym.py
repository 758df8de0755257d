"""Any dataset of reasoning-gym: `reasoning-gym:<dataset>[:key=value,...]` (Stojanovski et al. 2025, arXiv 2505.24760).

The problems are generated, so there is no hub and no file.  Keys are the fields of the dataset's own configuration
(`max_digits=2`), besides `size` (500 problems generated in all) and `seed` (0).  A fifth of the problems, chosen by
a hash of seed and question, is the held-out split `test`; questions that repeat are dropped, so that none is in
both splits.

Grading hands the text between the last <answer> tags (the whole completion without tags, when it is one line) to
the dataset's own `score_answer`: 1 is right, anything less wrong, with the score as `share`.  Those scorers are taken
as they are, and a few are lenient: `spell_backward` of reasoning-gym 0.1.25 overlooks what follows the right word.
They run in processes of their own with a time limit, and those that evaluate the answer see literals and formulas
only (`gainrl.tasks.reasoning_worker`).
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.base import Grade, Row, Status, Task, held_out
from gainrl.tasks.maths.extract import after_question, after_thoughts, last_tags
from gainrl.tasks.options import parse_options
from gainrl.tasks.prompts import PromptTemplate
from gainrl.tasks.workers import shared_pool

_WORKER = "gainrl.tasks.reasoning_worker"
_TIMEOUT = 10.0  # seconds for one answer, making the dataset anew included

_REFUSED = {
    "composite": "it has no problems of its own; name the dataset that it would draw from",
    "propositional_logic": "its scorer takes any consequence of the premises, and '(P ∨ Q)' is one in 48 of 60",
}
_PROBES = (  # answers that need no reading
    *("nan", "inf", "0", "1", "2", "10", "0.5", "1/2", "-1", "True", "False", "yes", "no", "None", "x", "A", "(P∨Q)"),
    *("[]", "{}", "[0]", "6*4*1*1", "24", "north", "up", "R", "1,2,3", "0=0", "()()", "heads",),
    *("I do not know.", "{question}"),
)  # fmt: skip


class ReasoningGym(Task):
    name = "reasoning-gym"
    template = "reasoning_gym"
    probes = tuple(f"<answer>{probe}</answer>" for probe in _PROBES)

    def __init__(self, argument: str = "", *, prompt: PromptTemplate | str | os.PathLike[str] | None = None):
        super().__init__(prompt=prompt)
        dataset, _, options = argument.partition(":")
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise UserError(f"task {self.name!r} needs reasoning-gym (pip install 'gainrl[tasks]')") from error
        if dataset not in DATASETS:
            near = difflib.get_close_matches(dataset, list(DATASETS), n=1, cutoff=0.0)
            raise UserError(
                f"reasoning-gym has no dataset {dataset!r}; the nearest is {near[0]!r} "
                f"(write reasoning-gym:{near[0]}[:key=value,...])"
            )
        if dataset in _REFUSED:
            raise UserError(f"reasoning-gym's dataset {dataset!r} is refused as a task: {_REFUSED[dataset]}")
        fields = {
            field.name: None if field.default in (None, dataclasses.MISSING) else field.default
            for field in dataclasses.fields(DATASETS[dataset][1])
        }
        given = parse_options(f"{self.name}:{dataset}", options, {**fields, "size": 500, "seed": 0})
        keys = [part.partition("=")[0].strip() for part in options.split(",") if part]
        chosen = {key: given[key] for key in keys} | {"size": given["size"], "seed": given["seed"]}
        self.name = f"{self.name}:{argument}"
        self.seed: int = given["seed"]
        self._made = {"dataset": dataset, "options": chosen}
        self._entries: dict[int, Any] = {}  # as generated: a few datasets give another entry at every look
        try:
            self._data = reasoning_gym.create_dataset(dataset, **chosen)
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(f"reasoning-gym refuses {dataset!r} with {chosen}: {error}") from error

    @cached_property
    def _splits(self) -> dict[str, list[Row]]:
        splits: dict[str, list[Row]] = {"train": [], "test": []}
        seen: set[str] = set()
        for index in range(len(self._data)):
            item = self._data[index]
            question = str(item["question"])
            if question not in seen:
                seen.add(question)
                self._entries[index] = item
                split = "test" if held_out(f"{self.seed}:{question}", 1 / 5) else "train"
                splits[split].append({**item, "index": index})
        return splits

    def records(self, split: str, source: str | os.PathLike[str] | None) -> Iterator[Row]:
        if source is not None:
            raise UserError(
                f"task {self.name!r} generates its problems and reads no file "
                f"({os.fspath(source)!r}); choose others with seed=N or size=N"
            )
        return iter(self._splits[split])

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question = str(item["question"])
        # some datasets (zebra puzzles with many solutions) carry no oracle answer
        answer = "" if item.get("answer") is None else str(item["answer"])
        about = {"index": item.get("index", index)}
        return {"prompt": self.prompt.render(question), "question": question, "answer": answer, "metadata": about}

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade | dict[str, Any]:
        answer = _answer(after_thoughts(after_question(completion, str(row["question"]))))
        if not answer:
            return Grade(Status.WRONG, "no text between <answer> tags", share=0.0)
        index = int(row["metadata"]["index"])  # rows go through JSON, which entries would not survive
        entry = self._entries.get(index) or self._data[index]
        if str(entry["question"]) != row["question"]:
            return Grade(Status.UNSCORABLE, "the row was generated with other options or another reasoning-gym")
        sent = base64.b64encode(pickle.dumps(entry)).decode()
        return {**self._made, "answer": answer, "gold": row["answer"], "entry": sent}

    def ask(self, requests: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        return shared_pool(_WORKER).ask_many(requests, _TIMEOUT, control=lambda r: {**r, "answer": None})

    def gold(self, row: Mapping[str, Any]) -> str | None:
        return None if not row["answer"] else f"<answer>{row['answer']}</answer>"


def _answer(text: str) -> str:
    """What the last pair of <answer> tags holds; without tags, the text where it is one line."""
    if tagged := last_tags(text):
        return tagged[1].strip()
    return "" if "\n" in text.strip() or "<answer>" in text else text.strip()
