"""Two families that chose nothing: no curriculum arm ran on them until everything else had been settled.

chains     sums, differences and products of 2 to 6 digits from left to right modulo 10, with the running values
brackets   what has to follow an open bracket expression to close it, and how deep its places lie
"""

from __future__ import annotations

from random import Random

from benchmarks.convergence.families import DEVELOPMENT, Draw, Family, Level
from gainrl.errors import UserError

CLOSING = {"(": ")", "[": "]", "{": "}"}


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
    held_out=True,
)


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
    held_out=True,
)

FAMILIES = {family.name: family for family in (*DEVELOPMENT, CHAINS, BRACKETS)}


def family(name: str) -> Family:
    """A family by name; UserError for a name that there is none of."""
    if name not in FAMILIES:
        raise UserError(f"family {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
