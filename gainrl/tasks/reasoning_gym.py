"""Any dataset of reasoning-gym: `reasoning-gym:<dataset>[:key=value,...]` (Stojanovski et al. 2025, arXiv 2505.24760).

The problems are generated, so there is no hub and no file.  Keys are the fields of the dataset's own configuration
(`max_digits=2`), besides `size` (500 problems generated in all) and `seed` (0).  A fifth of the problems, chosen by
a hash of seed and question, is the held-out split `test`; questions that repeat are dropped, so that none is in
both splits.

Grading hands the text between the last <answer> tags (the whole completion without tags, when it is one line) to
the dataset's own `score_answer`: 1 is right, anything less wrong, with the score as `share`.  Those scorers are taken
as they are, and a few are lenient: `spell_backward` of reasoning-gym 0.1.25 overlooks what follows the right word.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.base import Grade, Row, Status, Task
from gainrl.tasks.maths.extract import after_question
from gainrl.tasks.options import parse_options
from gainrl.tasks.prompts import PromptTemplate

_HELD_OUT = 1 / 5
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class ReasoningGym(Task):
    """See the module's docstring."""

    name = "reasoning-gym"
    template = "reasoning_gym"

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
        fields = {
            field.name: None if field.default in (None, dataclasses.MISSING) else field.default
            for field in dataclasses.fields(DATASETS[dataset][1])
        }
        given = parse_options(f"{self.name}:{dataset}", options, {**fields, "size": 500, "seed": 0})
        keys = [part.partition("=")[0].strip() for part in options.split(",") if part]
        chosen = {key: given[key] for key in keys} | {"size": given["size"], "seed": given["seed"]}
        self.name = f"{self.name}:{argument}"
        self.seed: int = given["seed"]
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
                digest = hashlib.sha256(f"{self.seed}:{question}".encode()).digest()
                held_out = int.from_bytes(digest[:8]) < _HELD_OUT * 2**64
                splits["test" if held_out else "train"].append(self.row(item, index))
        return splits

    def load(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> list[Row]:
        split = self._check(split, limit)
        if source is not None:
            raise UserError(
                f"task {self.name!r} generates its problems and reads no file "
                f"({os.fspath(source)!r}); choose others with seed=N or size=N"
            )
        return [dict(row) for row in self._splits[split][:limit]]

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question = str(item["question"])
        return {
            "prompt": self.prompt.render(question),
            "question": question,
            # some datasets (zebra puzzles with many solutions) carry no oracle answer
            "answer": "" if item.get("answer") is None else str(item["answer"]),
            "metadata": {"index": index},
        }

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        text = after_question(completion, str(row["question"]))
        tagged = _ANSWER.findall(text)
        answer = tagged[-1].strip() if tagged else text.strip()
        if not answer or (not tagged and "\n" in answer):
            return Grade(Status.WRONG, "no text between <answer> tags")
        # entries hold tuples and sets that JSON would change, so the entry is generated again from its index
        entry = self._data[int(row["metadata"]["index"])]
        if str(entry["question"]) != row["question"]:
            return Grade(Status.UNSCORABLE, "the row was generated with other options or another reasoning-gym")
        share = min(1.0, float(self._data.score_answer(answer, entry)))
        if share >= 1.0:
            return Grade(Status.RIGHT, answer=answer, share=share)
        return Grade(Status.WRONG, f"reasoning-gym scores {share:g}", answer=answer, share=share)

    def gold(self, row: Mapping[str, Any]) -> str:
        return f"<answer>{row['answer']}</answer>"
