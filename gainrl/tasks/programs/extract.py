# ruff: noqa: E501  (tables of names)
"""The program in a completion, and the imports that judges of the kind take for granted.  Text only, nothing is run."""

from __future__ import annotations

import builtins
import functools
import importlib
import re

# possessive: read in the process that trains, so in time linear in whatever a model wrote
_FENCE = re.compile(
    r"^[ \t]*+```[ \t]*+([A-Za-z0-9_+-]*+)[ \t]*+\r?\n(.*?)(?:^[ \t]*+```|\Z)", re.DOTALL | re.MULTILINE
)
_AFTER = re.compile(r"\n(?=[ \t]*+```|<\|)")
_AFTER_ENTRY = re.compile(r"\n(?=if __name__|print\(|assert |[ \t]*+```|<\|)")
_FUTURE = re.compile(
    r"^from[ \t]++__future__[ \t]++import[ \t]*+(\([^()]*+\)|(?<=[ \t])[^\r\n;#()]++)(?:;[ \t]*+)?", re.MULTILINE
)

_MODULES = [
    "array",
    "bisect",
    "calendar",
    "cmath",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "heapq",
    "io",
    "itertools",
    "json",
    "math",
    "numbers",
    "operator",
    "os",
    "queue",
    "random",
    "re",
    "statistics",
    "string",
    "sys",
    "time",
    "typing",
]
_NAMES = {
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Generic Iterable Iterator List Literal Mapping "
    "NamedTuple Optional Sequence Set Tuple Type TypeVar Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "functools": "cache cmp_to_key lru_cache partial reduce total_ordering wraps",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile groupby islice "
    "pairwise permutations product repeat starmap takewhile tee zip_longest",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "math": "ceil comb cos dist exp factorial floor gcd hypot inf isqrt lcm log log10 log2 nan perm pi prod sin sqrt tan",
    "operator": "add and_ attrgetter itemgetter mul or_ sub xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "random": "choice randint randrange shuffle",
    "dataclasses": "dataclass field",
    "copy": "deepcopy",
    "datetime": "date timedelta",
    "fractions": "Fraction",
    "decimal": "Decimal",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

# LiveCodeBench writes `from ... import *` of these, in this order, in front of every program
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "typing"
)
_SYS = (  # listed, since this process's own may have more
    "argv byteorder float_info getrecursionlimit getsizeof intern maxsize maxunicode platform set_int_max_str_digits "
    "setrecursionlimit stderr stdin stdout version version_info"
)
_BOUND = re.compile(r"\b(?:def|class|for)[ \t]+(\w+)|(?<![\w.])(\w+)[ \t]*+=(?!=)")
_DEPTH = 50_000  # LiveCodeBench's recursion limit


@functools.cache
def _starred() -> dict[str, str]:
    """The names of those imports, but for what `from builtins import *` and the modules' own names hide again."""
    home: dict[str, str] = {}
    for module in _STARRED.split():
        found = importlib.import_module(module)
        names = _SYS.split() if module == "sys" else getattr(found, "__all__", vars(found))
        home |= dict.fromkeys((name for name in names if not name.startswith("_")), module)
    return {name: module for name, module in home.items() if not hasattr(builtins, name) and name not in _MODULES}


def program(completion: str, entry: str = "") -> str:
    """The program of a completion: its last fenced block, else all of it.

    Blocks that define `entry` come before others, and blocks marked as Python before unmarked ones, which may show
    what a program prints.  A fence opens at the start of a line; an unclosed one runs to the end.  Text without a fence
    ends where a fence closes or, where only `entry` will be called, where a model commonly goes on with tests.
    """
    blocks = [(language.lower(), body) for language, body in _FENCE.findall(completion) if body.strip()]
    marked = [body for language, body in blocks if language in ("python", "py", "python3")]
    either = [body for language, body in blocks if language in ("", "python", "py", "python3")]
    if not either:
        return str((_AFTER_ENTRY if entry else _AFTER).split(completion, maxsplit=1)[0])
    defining = [body for body in either if entry and defines(body, entry)]
    return str((defining or marked or either)[-1])


def lifted(code: str) -> str:
    """`code` with its `from __future__` imports at the very top, where alone they are legal.

    For programs with something put in front: imports, a prompt, an adapter.
    """
    found = [f"from __future__ import {names.strip()}\n" for names in _FUTURE.findall(code)]
    return "".join(dict.fromkeys(found)) + _FUTURE.sub("", code) if found else code


def defines(code: str, name: str) -> bool:
    """Whether the text of `code` defines a function or class of this name at the top."""
    return re.search(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b", code, re.MULTILINE) is not None


def imports_for(code: str) -> str:
    """Import lines for the standard names that `code` mentions, as LeetCode imports them for it.

    Only those: importing all of them costs more time than most solutions run.
    """
    return _imports(code, {})


def contest_preamble(code: str) -> str:
    """What LiveCodeBench puts in front of `code`: `imports_for` with more names, and a higher recursion limit."""
    bare = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code))
    own = {name for names in _BOUND.findall(code) for name in names}  # importing their namesakes would only take time
    more = {name: _starred()[name] for name in bare & _starred().keys() - own}
    return f"import sys\nsys.setrecursionlimit({_DEPTH})\n{_imports(code, more)}"


def _imports(code: str, more: dict[str, str]) -> str:
    words = set(re.findall(r"[A-Za-z_]\w*", code))
    lines = [f"import {module}" for module in _MODULES if module in words and module != "bisect"]
    wanted: dict[str, list[str]] = {}
    for word, module in sorted(({word: _HOME[word] for word in words & _HOME.keys()} | more).items()):
        wanted.setdefault(module, []).append(word)
    lines += [f"from {module} import {', '.join(names)}" for module, names in sorted(wanted.items())]
    if "bisect" in words and re.search(r"\bbisect\.", code):
        lines.append("import bisect")
    return "".join(f"{line}\n" for line in lines)
