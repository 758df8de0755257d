"""Graded problems: a family has levels, a level draws (question, answer) pairs.

`seen` is a level's weight in pretraining, `share` its weight among the prompts that are trained on and evaluated.
Which level a problem is of is known to the analysis and to nobody else.  An answer is right if it is reproduced in
full; answers have several tokens, so that guessing does not pass.  Every prompt begins with the family's `examples`,
as few-shot prompts do; these tokens are the prompt's prefix.

A base has two strategies, as a language model has many: the right one, and an easier one that is wrong (`slip`).  In a
level's pretraining data a share `sound` of the answers is right and the others are slips, so that the base can do
nearly all of it and at temperature 1 does it about as often.  Reinforcement moves that share, as it does in language
models.  Where the slip happens to be right (sums without a carry), so is the base.

Development families (difficulty is tied to length in the first one only):

    sums      sums of two numbers of 1 to 5 digits, all numbers written with the last digit first; slip: nothing carried
    strings   an operation on 3 to 5 letters; slip: the letters as they are
    lists     digits; easy questions come with LONG lists (first three, last three), hard ones with short lists; slip:
              the first digits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Draw = Callable[[Random], tuple[str, str]]


@dataclass(frozen=True)
class Level:
    """One difficulty cell."""

    name: str
    draw: Draw
    seen: float
    """Weight in pretraining, 0 for never."""
    share: float = 1.0
    """Weight in the training and evaluation mix."""
    sound: float = 1.0
    """Share of right answers in pretraining; the others are the family's `slip`."""


@dataclass(frozen=True)
class Problem:
    """One prompt: `examples + question`, to be continued by `answer`."""

    question: str
    answer: str
    level: int


@dataclass(frozen=True)
class Family:
    """Levels of one kind of problem."""

    name: str
    examples: str
    levels: Sequence[Level]
    slip: Callable[[str, str], str] = lambda question, answer: answer
    """The wrong answer that pretraining gives in place of the right one, from the question and the right one."""
    held_out: bool = False

    def problems(self, count: int, random: Random, *, pretraining: bool = False) -> list[Problem]:
        """`count` problems drawn from the mix (of pretraining, or of training and evaluation)."""
        weights = [level.seen if pretraining else level.share for level in self.levels]
        chosen = random.choices(range(len(self.levels)), weights=weights, k=count)
        found = [Problem(*self.levels[index].draw(random), index) for index in chosen]
        if not pretraining:
            return found
        return [
            problem
            if random.random() < self.levels[problem.level].sound
            else Problem(problem.question, self.slip(problem.question, problem.answer), problem.level)
            for problem in found
        ]

    def prompt(self, problem: Problem) -> str:
        """The whole prompt."""
        return self.examples + problem.question


# -- sums: difficulty is length ------------------------------------------------------------------------------


def sum_of(digits: int) -> Draw:
    """Two numbers of exactly `digits` digits and their sum, last digit first."""

    def draw(random: Random) -> tuple[str, str]:
        low = 10 ** (digits - 1) if digits > 1 else 0
        a, b = (random.randrange(low, 10**digits) for _ in range(2))
        return f"{str(a)[::-1]}+{str(b)[::-1]}=", str(a + b)[::-1]

    return draw


def without_carry(question: str, answer: str) -> str:
    """Digit by digit, nothing carried."""
    a, b = question[:-1].split("+")
    return "".join(str((int(x) + int(y)) % 10) for x, y in zip(a, b, strict=True))


SUMS = Family(
    "sums",
    "2+7=9;",
    [
        Level("1 digit", sum_of(1), 1, 2.5, 1.0),
        Level("2 digits", sum_of(2), 2, 2.5, 1.0),
        Level("3 digits", sum_of(3), 2, 1, 0.3),
        Level("4 digits", sum_of(4), 2, 1, 0.08),
        Level("5 digits", sum_of(5), 1, 3, 0.0),
    ],
    without_carry,
)


# -- strings: difficulty is the operation --------------------------------------------------------------------

LETTERS = "abcdefgh"


def on_letters(code: str, operation: Callable[[str], str]) -> Draw:
    """3 to 5 letters, marked with the operation's code, and what it makes of them."""

    def draw(random: Random) -> tuple[str, str]:
        text = "".join(random.choices(LETTERS, k=random.randint(3, 5)))
        return f"{code}{text}>", operation(text)

    return draw


def next_letters(text: str) -> str:
    """Each letter's successor, the last one's is the first."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in text)


def swapped_pairs(text: str) -> str:
    """Neighbours exchanged in pairs; an odd last letter stays."""
    return "".join(text[at : at + 2][::-1] for at in range(0, len(text), 2))


def copied(question: str, answer: str) -> str:
    """The text as it stands."""
    return question[1:-1]


STRINGS = Family(
    "strings",
    "Rab>ba;",
    [
        Level("copy", on_letters("C", lambda text: text), 1, 2, 1.0),
        Level("next letters", on_letters("N", next_letters), 1, 1.5, 1.0),
        Level("reverse", on_letters("R", lambda text: text[::-1]), 1, 1.5, 1.0),
        Level("first to the end", on_letters("T", lambda text: text[1:] + text[0]), 1, 0.7, 0.4),
        Level("swap pairs", on_letters("W", swapped_pairs), 1, 0.5, 0.15),
        Level("next letters again", on_letters("S", next_letters), 1, 0.4, 0.05),
        Level("reverse again", on_letters("Q", lambda text: text[::-1]), 1, 0.4, 0.03),
        Level("reverse, next letters", on_letters("D", lambda text: next_letters(text[::-1])), 1, 3, 0.0),
    ],
    copied,
)


# -- lists: long prompts are easy ----------------------------------------------------------------------------


def on_digits(code: str, shortest: int, longest: int, operation: Callable[[list[int]], Sequence[int]]) -> Draw:
    """A list of `shortest` to `longest` digits, marked with the question's code, and the digits of the answer."""

    def draw(random: Random) -> tuple[str, str]:
        digits = [random.randrange(10) for _ in range(random.randint(shortest, longest))]
        return f"{code}{''.join(map(str, digits))}>", "".join(map(str, operation(digits)))

    return draw


def running(step: Callable[[int, int], int]) -> Callable[[list[int]], list[int]]:
    """Running values of a list under `step`."""

    def values(digits: list[int]) -> list[int]:
        kept = digits[:1]
        for digit in digits[1:]:
            kept.append(step(kept[-1], digit))
        return kept

    return values


def copied_digits(question: str, answer: str) -> str:
    """The list's first digits, as many as the answer has."""
    return question[1 : 1 + len(answer)]


def plus_one(digits: list[int]) -> list[int]:
    """Each digit's successor modulo 10."""
    return [(digit + 1) % 10 for digit in digits]


LISTS = Family(
    "lists",
    "S21>12;",
    [
        Level("first three", on_digits("F", 8, 12, lambda digits: digits[:3]), 1, 2, 1.0),
        Level("last three", on_digits("L", 8, 12, lambda digits: digits[-3:]), 1, 2, 1.0),
        Level("each plus one", on_digits("V", 4, 6, plus_one), 1, 1, 1.0),
        Level("running maximum", on_digits("M", 4, 6, running(max)), 1, 0.7, 0.4),
        Level("backwards", on_digits("B", 3, 5, lambda digits: digits[::-1]), 1, 0.5, 0.15),
        Level("last three again", on_digits("A", 4, 6, lambda digits: digits[-3:]), 1, 0.4, 0.05),
        Level("each plus one again", on_digits("X", 4, 6, plus_one), 1, 0.4, 0.03),
        Level("backwards, plus one", on_digits("S", 3, 5, lambda digits: plus_one(digits[::-1])), 1, 3, 0.0),
    ],
    copied_digits,
)

DEVELOPMENT = (SUMS, STRINGS, LISTS)
