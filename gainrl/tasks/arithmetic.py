"""Graded arithmetic as plain text: sums that a small base model can partly do.

`arithmetic[:key=value,...]`: problems of reasoning-gym's `chain_sum` and `products` with two terms, as `8 + 5 =`
behind four worked examples, so that neither a chat template nor following instructions is needed.  Keys:

- `size` (600): problems in all, shared equally among the kinds (operator and number of digits); a kind that has
  fewer distinct problems (there are 100 one-digit products) gives all it has and the others make up for it;
- `digits` (2): numbers of 1 to `digits` digits, both terms alike;
- `seed` (0): which problems, in which order, and which of them are held out.

A third of the problems, chosen by a hash of seed and expression, is the held-out split `test`: no expression occurs
twice or in both splits, whatever the size.  The worked examples' expressions never occur.

Grading reads the first line of the completion, which must be one integer (a full stop may follow).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain, islice, zip_longest
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.base import Grade, Row, Status, Task, held_out
from gainrl.tasks.options import parse_options
from gainrl.tasks.prompts import PromptTemplate

_INTEGER = re.compile(r"([+-]?\d{1,3}(?:,\d{3}){1,9}|[+-]?\d{1,30})\s*+\.?")


class Arithmetic(Task):
    name = "arithmetic"
    stop = ("\n",)
    max_new_tokens = 8

    def __init__(self, argument: str = "", *, prompt: PromptTemplate | str | os.PathLike[str] | None = None):
        super().__init__(prompt=prompt)
        options = parse_options(self.name, argument, {"size": 600, "digits": 2, "seed": 0})
        self.size, self.digits, self.seed = options["size"], options["digits"], options["seed"]
        if self.size < 2 or not 1 <= self.digits <= 9:
            raise UserError(f"task {self.name!r}: size must be at least 2 and digits 1 to 9, but they are {options}")

    def records(self, split: str, source: str | os.PathLike[str] | None) -> Iterator[Mapping[str, Any]]:
        if source is not None:
            return super().records(split, source)
        test = split == "test"
        return (item for item in self._problems if held_out(f"{self.seed}:{item['question']}", 1 / 3) == test)

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question = str(item["question"])
        about = {"metadata": {"kind": item["kind"]}} if "kind" in item else {}
        return {"prompt": self.prompt.render(question), "question": question, "answer": str(item["answer"]), **about}

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        lines = completion.strip(" \n").split("\n", 1)
        match = _INTEGER.fullmatch(lines[0].strip())
        if match is None:
            return Grade(Status.WRONG, "the first line is not an integer")
        answer, gold = int(match[1].replace(",", "")), int(str(row["answer"]))
        reason = "" if answer == gold else f"{answer} is not {gold}"
        return Grade(Status.WRONG if reason else Status.RIGHT, reason, answer=str(answer))

    def gold(self, row: Mapping[str, Any]) -> str:
        return f" {row['answer']}"

    @cached_property
    def _problems(self) -> list[dict[str, str]]:
        """`size` distinct problems, kinds in turn."""
        kinds = [(operator, digits) for digits in range(1, self.digits + 1) for operator in "+-*"]
        streams = [self._kind(operator, digits) for operator, digits in kinds]
        found = (problem for problem in chain.from_iterable(zip_longest(*streams)) if problem is not None)
        if len(taken := list(islice(found, self.size))) == self.size:
            return taken
        raise UserError(
            f"task {self.name!r}: size={self.size} asks for more than the {len(taken)} distinct problems "
            f"of up to {self.digits} digits"
        )

    def _kind(self, operator: str, digits: int) -> Iterator[dict[str, str]]:
        """Distinct problems of one operator and number of digits, until too many repeat."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise UserError(f"task {self.name!r} needs reasoning-gym (pip install 'gainrl[tasks]')") from error
        seen = {question for question, _ in self.prompt.examples}
        space = (10 if digits == 1 else 9 * 10 ** (digits - 1)) ** 2  # reasoning-gym draws 0..9, 10..99, ...
        tries = 20 * space  # P(a given problem still unseen) is below exp(-10) for sums, where half are subtractions
        bounds = {"min_terms": 2, "max_terms": 2, "min_digits": digits, "max_digits": digits}
        # generators seed with seed + index: far apart, so that no two kinds or seeds share a stream
        seed = self.seed * 10**10 + digits * 10**9 + "+-*".index(operator) * 10**8
        kind = "products" if operator == "*" else "chain_sum"
        generated = reasoning_gym.create_dataset(kind, **bounds, seed=seed, size=tries)
        for item in generated:
            expression = item["metadata"]["expression"]
            question = f"{expression} ="
            if f" {operator} " not in expression or question in seen:
                continue
            seen.add(question)
            yield {"question": question, "answer": item["answer"], "kind": f"{digits}-digit {operator}"}
