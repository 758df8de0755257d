"""Two families that choose nothing: no run of any arm on them begins until everything else has been settled.

orders    digits put in order in several ways; slip: the digits as they stand
merges    two words put together in several ways; slip: one after the other

They hold out the problems, and their ladders of shares are others than those of the development families.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from gainrl.errors import UserError
from studies.convergence.families import DEVELOPMENT, LETTERS, Draw, Family, Level, copied_digits, on_digits

ORDERS = Family(
    "orders",
    "A21>12;",
    [
        Level("largest", on_digits("L", 3, 6, lambda digits: [max(digits)]), 1, 2, 1.0),
        Level("last", on_digits("F", 3, 6, lambda digits: digits[-1:]), 1, 1.5, 1.0),
        Level("rising, 3", on_digits("A", 3, 3, sorted), 1, 1.5, 1.0),
        Level("rising, 4", on_digits("A", 4, 4, sorted), 1, 1, 0.4),
        Level("falling, 3", on_digits("D", 3, 3, lambda digits: sorted(digits)[::-1]), 1, 1, 0.2),
        Level("rising, 5 or 6", on_digits("A", 5, 6, sorted), 1, 0.8, 0.1),
        Level("smallest and largest", on_digits("S", 3, 6, lambda digits: [min(digits), max(digits)]), 1, 0.5, 0.03),
        Level("falling, 4 to 6", on_digits("D", 4, 6, lambda digits: sorted(digits)[::-1]), 1, 2.5, 0.0),
    ],
    copied_digits,
    held_out=True,
)


def of_two_words(code: str, shortest: int, longest: int, operation: Callable[[str, str], str]) -> Draw:
    """Two words of the same length, and what the operation makes of them."""

    def draw(random: Random) -> tuple[str, ...]:
        length = random.randint(shortest, longest)
        a, b = ("".join(random.choices(LETTERS, k=length)) for _ in range(2))
        return f"{code}{a}+{b}>", operation(a, b)

    return draw


def interleaved(a: str, b: str) -> str:
    """The letters of both in turn."""
    return "".join(x + y for x, y in zip(a, b, strict=True))


def one_after_the_other(question: str, answer: str) -> str:
    """The first word, then the second."""
    return question[1:-1].replace("+", "")


MERGES = Family(
    "merges",
    "Cab+ba>abba;",
    [
        Level("joined", of_two_words("C", 2, 3, lambda a, b: a + b), 1, 1.5, 1.0),
        Level("second first", of_two_words("F", 2, 3, lambda a, b: b + a), 1, 1.5, 1.0),
        Level("in turn, 2", of_two_words("N", 2, 2, interleaved), 1, 1, 1.0),
        Level("in turn, 3", of_two_words("N", 3, 3, interleaved), 1, 0.8, 0.25),
        Level("in turn, second first", of_two_words("Q", 2, 3, lambda a, b: interleaved(b, a)), 1, 0.8, 0.12),
        Level("second backwards", of_two_words("R", 2, 3, lambda a, b: a + b[::-1]), 1, 0.6, 0.06),
        Level("first backwards", of_two_words("B", 2, 3, lambda a, b: a[::-1] + b), 1, 0.5, 0.02),
        Level("in turn, backwards", of_two_words("X", 2, 3, lambda a, b: interleaved(a, b)[::-1]), 1, 2.5, 0.0),
    ],
    one_after_the_other,
    held_out=True,
)

FAMILIES = {family.name: family for family in (*DEVELOPMENT, ORDERS, MERGES)}


def family(name: str) -> Family:
    """A family by name; UserError for a name that there is none of."""
    if name not in FAMILIES:
        raise UserError(f"family {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
