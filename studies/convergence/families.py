"""Graded problems: a family has levels, a level draws (question, answer) pairs.

`seen` is a level's weight in pretraining, `share` its weight among the prompts that are trained on and evaluated.
Only the analysis knows the level of a problem.  An answer is right if it is reproduced in
full; answers have several tokens, so that guessing does not pass.  Every prompt begins with the family's `examples`,
as few-shot prompts do; these tokens are the prompt's prefix.

A base has two strategies, as a language model has many: the right one, and an easier one that is wrong (`slip`).  In a
level's pretraining data a share `sound` of the answers is right and the others are slips, so that the base can do
nearly all of it and at temperature 1 does it about as often.  Reinforcement moves that share, as it does in language
models.  Where the slip happens to be right (sums without a carry), so is the base.

Development families (difficulty is tied to length in the first one only; chains and brackets were held out in the
first study and are development families of the second):

    sums      sums of two numbers of 1 to 5 digits, all numbers written with the last digit first; slip: nothing carried
    strings   an operation on 3 to 5 letters; slip: the letters as they are
    lists     digits; easy questions come with LONG lists (first three, last three), hard ones with short lists; slip:
              the first digits
    chains    sums, differences and products of 2 to 6 digits from left to right modulo 10, with the running values;
              slip: every operator taken for a plus
    brackets  what has to follow an open bracket expression to close it, and how deep its places lie; slip: not turned
    terms     an expression of two or three digits that gives a number: many completions are right; slip: one too much
    stairs    one operation on 1 to 4 words: k words are right with the k-th power of the chance of one, so that
              hopeless prompts become learnable only after others; slip: the word as it is
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

Draw = Callable[[Random], tuple[str, ...]]
"""(question, right answer), or (question, right answer, every right answer ...)."""


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
    answers: tuple[str, ...] = ()
    """All right completions; the first is `answer` where there is only one."""


@dataclass(frozen=True)
class Family:
    """Levels of one kind of problem."""

    name: str
    examples: str
    levels: Sequence[Level]
    slip: Callable[[str, str], str] = lambda question, answer: answer
    """The wrong answer that pretraining gives in place of the right one, from the question and the right one."""
    held_out: bool = False
    per_part: bool = False
    """Question and answer have parts, joined by `+`; in pretraining each part is sound or a slip by itself."""

    def problems(self, count: int, random: Random, *, pretraining: bool = False) -> list[Problem]:
        """`count` problems drawn from the mix (of pretraining, or of training and evaluation)."""
        weights = [level.seen if pretraining else level.share for level in self.levels]
        chosen = random.choices(range(len(self.levels)), weights=weights, k=count)
        found = [self.draw(index, random) for index in chosen]
        return [self._pretrained(problem, random) for problem in found] if pretraining else found

    def draw(self, index: int, random: Random) -> Problem:
        """One problem of a level."""
        question, answer, *others = self.levels[index].draw(random)
        return Problem(question, answer, index, tuple(others) or (answer,))

    def _pretrained(self, problem: Problem, random: Random) -> Problem:
        """The problem with the answer that pretraining shows: right, or the family's slip."""
        sound = self.levels[problem.level].sound
        parts = problem.answer.split("+") if self.per_part else [problem.answer]
        asked = problem.question[1:-1].split("+") if self.per_part else [problem.question]
        shown = [
            part if random.random() < sound else self.slip(question, part)
            for question, part in zip(asked, parts, strict=True)
        ]
        return Problem(problem.question, "+".join(shown), problem.level)

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


# -- chains: sums, differences and products ------------------------------------------------------------------


def chain_of(operators: str, shortest: int, longest: int) -> Draw:
    """`shortest` to `longest` digits joined by `operators`; the answer lists the running values modulo 10."""

    def draw(random: Random) -> tuple[str, str]:
        value = random.randrange(10)
        text, values = str(value), []
        for _ in range(random.randint(shortest, longest) - 1):
            operator, digit = random.choice(operators), random.randrange(10)
            value = {"+": value + digit, "-": value - digit, "*": value * digit}[operator] % 10
            text += f"{operator}{digit}"
            values.append(value)
        return f"{text}=", "".join(map(str, values))

    return draw


def only_sums(question: str, answer: str) -> str:
    """The running values with every operator taken for a plus."""
    value, values = int(question[0]), ""
    for digit in question[2:-1:2]:
        value = (value + int(digit)) % 10
        values += str(value)
    return values


CHAINS = Family(
    "chains",
    "3+4=7;",
    [
        Level("sums, 3 digits", chain_of("+", 3, 3), 1, 2, 1.0),
        Level("sums, 4 to 6", chain_of("+", 4, 6), 1, 1, 1.0),
        Level("differences, 3 or 4", chain_of("-", 3, 4), 1, 1, 1.0),
        Level("products, 3", chain_of("*", 3, 3), 1, 1, 1.0),
        Level("differences, 5 or 6", chain_of("-", 5, 6), 1, 0.7, 0.3),
        Level("products, 4 to 6", chain_of("*", 4, 6), 1, 0.5, 0.1),
        Level("mixed, 3", chain_of("+-*", 3, 3), 1, 0.8, 0.05),
        Level("mixed, 4 to 6", chain_of("+-*", 4, 6), 1, 3, 0.0),
    ],
    only_sums,
)


# -- brackets ------------------------------------------------------------------------------------------------

CLOSING = {"(": ")", "[": "]", "{": "}"}


def _open_expression(random: Random, kinds: str, still_open: int, closed: int) -> tuple[str, str]:
    """A bracket expression with `still_open` open brackets and `closed` pairs besides, and what closes it."""
    text, stack = "", []
    moves = [True] * (still_open + closed) + [False] * closed
    while True:
        random.shuffle(moves)
        depth = 0
        for opens in moves:
            depth += 1 if opens else -1
            if depth < 0:
                break
        if depth >= 0:
            break
    for opens in moves:
        if opens:
            bracket = random.choice(kinds)
            stack.append(bracket)
            text += bracket
        else:
            text += CLOSING[stack.pop()]
    return text, "".join(CLOSING[bracket] for bracket in reversed(stack))


def closers(code: str, kinds: str, still_open: tuple[int, int], closed: tuple[int, int]) -> Draw:
    """What closes an expression with so many open brackets and so many closed pairs."""

    def draw(random: Random) -> tuple[str, str]:
        text, answer = _open_expression(random, kinds, random.randint(*still_open), random.randint(*closed))
        return f"{code}{text}>", answer

    return draw


def depths(code: str, still_open: tuple[int, int], closed: tuple[int, int]) -> Draw:
    """The depth after each bracket of an expression."""

    def draw(random: Random) -> tuple[str, str]:
        text, _ = _open_expression(random, "([{", random.randint(*still_open), random.randint(*closed))
        depth, answer = 0, ""
        for bracket in text:
            depth += 1 if bracket in CLOSING else -1
            answer += str(depth)
        return f"{code}{text}>", answer

    return draw


def unturned(question: str, answer: str) -> str:
    """What closes the brackets in the order of their opening; for a depth, how many were opened so far."""
    stack, opened, counts = [], 0, ""
    for bracket in question[1:-1]:
        if bracket in CLOSING:
            stack.append(bracket)
            opened += 1
        else:
            stack.pop()
        counts += str(opened)
    return counts if answer.isdigit() else "".join(CLOSING[bracket] for bracket in stack)


BRACKETS = Family(
    "brackets",
    "C([>]);",
    [
        Level("close, one kind, among pairs", closers("C", "(", (2, 5), (2, 4)), 1, 2, 1.0),
        Level("close, 2 or 3 open", closers("C", "([{", (2, 3), (0, 0)), 1, 1.5, 1.0),
        Level("depth, up to 4", depths("D", (1, 2), (0, 1)), 1, 1.5, 1.0),
        Level("close, 4 to 6 open", closers("C", "([{", (4, 6), (0, 0)), 1, 0.7, 0.3),
        Level("close, 2 to 4 open among pairs", closers("C", "([{", (2, 4), (2, 4)), 1, 0.5, 0.1),
        Level("depth, 5 to 7", depths("D", (1, 3), (2, 2)), 1, 0.4, 0.05),
        Level("close, 2 or 3 open, again", closers("Q", "([{", (2, 3), (0, 0)), 1, 0.4, 0.03),
        Level("depth, up to 4, again", depths("X", (1, 2), (0, 1)), 1, 3, 0.0),
    ],
    unturned,
)


# -- terms: many right completions ---------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def terms_of(code: str, operators: str, accept: Callable[[Sequence[int]], bool] = lambda digits: True) -> Draw:
    """A number, and the expressions of digits with these operators, from left to right, that give it."""
    by_value: dict[int, list[str]] = {}
    for digits in product(range(10), repeat=len(operators) + 1):
        if accept(digits):
            value, text = digits[0], str(digits[0])
            for operator, digit in zip(operators, digits[1:], strict=True):
                value, text = OPERATIONS[operator](value, digit), f"{text}{operator}{digit}"
            if 0 <= value < 100:
                by_value.setdefault(value, []).append(text)
    values = sorted(by_value)

    def draw(random: Random) -> tuple[str, ...]:
        value = random.choice(values)
        right = by_value[value]
        label = "".join(random.choices(LETTERS, k=2))  # means nothing: it tells prompts of the same number apart
        return f"{code}{value}{label}>", random.choice(right), *right

    return draw


def one_too_much(question: str, answer: str) -> str:
    """The expression with its last digit raised by one."""
    return answer[:-1] + str((int(answer[-1]) + 1) % 10)


def _distinct(digits: Sequence[int]) -> bool:
    return len(set(digits)) == len(digits)


def _rising(digits: Sequence[int]) -> bool:
    return list(digits) == sorted(digits) and digits[0] > 0


TERMS = Family(
    "terms",
    "S7ab>3+4;",
    [
        Level("a sum", terms_of("S", "+"), 1, 2, 1.0),
        Level("a difference", terms_of("D", "-"), 1, 2, 1.0),
        Level("a product", terms_of("M", "*"), 1, 1, 1.0),
        Level("a sum and a difference", terms_of("T", "+-"), 1, 0.8, 0.3),
        Level("a rising sum of three", terms_of("R", "++", _rising), 1, 0.6, 0.1),
        Level("a difference of different digits", terms_of("Q", "--", _distinct), 1, 0.5, 0.05),
        Level("a product and a sum", terms_of("X", "*+", _distinct), 1, 0.4, 0.03),
        Level("a rising product and difference", terms_of("W", "*-", _rising), 1, 3, 0.0),
    ],
    one_too_much,
)


# -- stairs: hopeless until others are learnt ----------------------------------------------------------------


def words(code: str, count: int, operation: Callable[[str], str]) -> Draw:
    """`count` words of 2 or 3 letters, and what the operation makes of each."""

    def draw(random: Random) -> tuple[str, ...]:
        chosen = ["".join(random.choices(LETTERS, k=random.randint(2, 3))) for _ in range(count)]
        return f"{code}{'+'.join(chosen)}>", "+".join(map(operation, chosen))

    return draw


def turned(text: str) -> str:
    """The text backwards."""
    return text[::-1]


def the_word(question: str, answer: str) -> str:
    """The word as it stands."""
    return question


STAIRS = Family(
    "stairs",
    "Cab+ba>ab+ba;",
    [
        Level("copy, 1", words("C", 1, str), 1, 1.5, 1.0),
        Level("copy, 3", words("C", 3, str), 1, 1.5, 1.0),
        Level("next letters, 2", words("N", 2, next_letters), 1, 1, 1.0),
        Level("backwards, 1", words("R", 1, turned), 1, 0.7, 0.3),
        Level("backwards, 2", words("R", 2, turned), 1, 0.7, 0.3),
        Level("backwards, 3", words("R", 3, turned), 1, 1, 0.3),
        Level("backwards, 4", words("R", 4, turned), 1, 1.5, 0.3),
        Level("next letters again, 1", words("S", 1, next_letters), 1, 0.6, 0.1),
        Level("next letters again, 2", words("S", 2, next_letters), 1, 0.6, 0.1),
        Level("next letters again, 3", words("S", 3, next_letters), 1, 1, 0.1),
        Level("next letters again, 4", words("S", 4, next_letters), 1, 1.5, 0.1),
    ],
    the_word,
    per_part=True,
)

DEVELOPMENT = (SUMS, STRINGS, LISTS, CHAINS, BRACKETS, TERMS, STAIRS)
