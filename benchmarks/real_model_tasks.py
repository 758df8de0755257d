"""Families of reasoning-gym as plain text behind worked examples: a small model continues them but fails at a chat.

Named by dotted path in configs and on the command line: `task: benchmarks.real_model_tasks.Letters`.  Completions are
one line; the grader is reasoning-gym's own.  Difficulty is graded within each family: by the words and the
occurrences counted (Letters), the number of terms (Chains), the size of the divisor (Divisors).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gainrl.tasks.base import Row
from gainrl.tasks.prompts import PromptTemplate
from gainrl.tasks.reasoning_gym import ReasoningGym


class FewShot(ReasoningGym):
    """One dataset of reasoning-gym; the worked examples' questions never occur among the rows."""

    dataset = ""
    examples: tuple[tuple[str, str], ...] = ()
    stop = ("\n",)
    max_new_tokens = 8

    def __init__(self, argument: str = "", *, prompt: PromptTemplate | str | os.PathLike[str] | None = None) -> None:
        plain = PromptTemplate("plain", "", "Question: {question}\nAnswer:", " {answer}", "\n", self.examples)
        super().__init__(argument or self.dataset, prompt=prompt or plain)

    def load(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> list[Row]:
        shown = {question for question, _ in self.examples}
        self._check(split, limit)
        return [row for row in super().load(split, source) if row["question"] not in shown][:limit]

    def gold(self, row: Mapping[str, Any]) -> str:
        return str(row["answer"])


class Letters(FewShot):
    """How often a letter occurs in 1 to 8 words."""

    dataset = "letter_counting:min_words=1,max_words=8,size=1250"
    examples = (
        ('How many times does the letter "e" appear in the text: "green trees"?', "4"),
        ('How many times does the letter "o" appear in the text: "world"?', "1"),
        ('How many times does the letter "s" appear in the text: "seven small houses"?', "4"),
        ('How many times does the letter "t" appear in the text: "a tall tree"?', "2"),
    )


class Chains(FewShot):
    """Sums and differences of 2 to 5 one-digit numbers."""

    dataset = "chain_sum:min_terms=2,max_terms=5,min_digits=1,max_digits=1,size=1250"
    examples = tuple(
        (f"State the final answer to the following arithmetic problem: {sum_} =", answer)
        for sum_, answer in (("3 + 4", "7"), ("9 - 2 + 5", "12"), ("1 + 8 - 3 - 2", "4"))
    )


class Divisors(FewShot):
    """The greatest common divisor of two numbers up to 40."""

    dataset = "gcd:min_value=2,max_value=40,size=1250"
    examples = tuple(
        (f"Find the Greatest Common Divisor (GCD) of these numbers: {pair}. Give only the GCD as your final answer.", d)
        for pair, d in (("8, 12", "4"), ("7, 9", "1"), ("15, 30", "15"))
    )
