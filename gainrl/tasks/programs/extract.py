# ruff: noqa: E501  (patterns and tables read better without breaks)
"""The program in a completion, and the imports that judges of the kind take for granted.  Text only, nothing is run."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gainrl.tasks.maths.extract import after_thoughts

# possessive: read in the process that trains, so in time linear in whatever a model wrote
_FENCE = re.compile(
    r"(?P<before>^[ \t]*+(?:[-*>+][ \t]++|\d+[.)][ \t]++)?)?(?P<marks>`{3,}+|~{3,}+)(?P<info>[^\r\n`]*+)", re.MULTILINE
)
_PYTHON = re.compile(r"[{\s.]*(?:i?python|py|c?pypy|cpython|sage)[\d.]*(?![A-Za-z])", re.IGNORECASE)
_PLAIN = re.compile(r"(?:code|solution|answer|program|tool_code|\{\})?", re.IGNORECASE)
_INFO = re.compile(
    r"(?:\{[^{}]*\}|[A-Za-z][\w+#.-]*(?:[:,][\w./-]+)?)?(?:\s[\w.\"'{]+[=:].*|\s\S+\.\w+|\s\d[\d.]*|\s+#.*)?"
)
_SPECIAL = re.compile(r"<[|｜][\w▁ -]{2,40}+[|｜]>|</s>(?=\s|$)|<(?:end_of_turn|eos)>")
_LANGUAGE = re.compile(r"\s*(?:python|py)3?[ \t]*\n", re.IGNORECASE)  # behind a fence that the prompt opened
_AFTER_ENTRY = re.compile(r"\n(?=if __name__|print\(|assert )")
_TAGGED = re.compile(r"(<answer>|<code>|\[PYTHON\])(.*?)(?:</answer>|</code>|\[/PYTHON\]|\Z)", re.DOTALL)
_READS = re.compile(r"\binput\b|\bstdin\b|\bopen\(0|\bfileinput\b|\bos\.read\b")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_FUTURE = re.compile(
    r"^from[ \t]++__future__[ \t]++import[ \t]*+(\([^()]*+\)|(?<=[ \t])[^\r\n;#()]++)(?:;[ \t]*+)?", re.MULTILINE
)


_DATA = json.loads(Path(__file__).with_name("imports.json").read_text(encoding="utf-8"))
_MODULES = _DATA["modules"].split()
_HOME = {name: module for module, names in _DATA["names"].items() for name in names.split()}
_BOUND = re.compile(r"\b(?:def|class|for)[ \t]+(\w+)|(?<![\w.])(\w+)[ \t]*+=(?!=)")
_PROSE = 12  # lines of prose that may stand before a program without a fence
_FENCES = 200  # the last ones of a completion that are looked at
_DEPTH = 110_000  # LiveCodeBench allows 50 000; a call through functools.cache counts twice


class _Block(NamedTuple):
    """A stretch of a completion that may be its program; `marked` as Python, `fenced` by its author."""

    code: str
    marked: bool
    fenced: bool


@functools.cache
def _starred() -> dict[str, str]:
    """The names of those imports, but for what `from builtins import *` and the modules' own names hide again."""
    home: dict[str, str] = {}
    for module in _DATA["starred"].split():  # LiveCodeBench writes `from ... import *` of these, in this order
        found = importlib.import_module(module)
        names = _DATA["sys"].split() if module == "sys" else getattr(found, "__all__", vars(found))
        home |= dict.fromkeys((name for name in names if not name.startswith("_")), module)
    return {name: module for name, module in home.items() if not hasattr(builtins, name) and name not in _MODULES}


def program(completion: str, entry: str = "") -> str:
    """The program that a completion means: `entry` is the function, class or `Class.method` that will be called.

    Of its fenced blocks (a fence may stand in mid-line, be `~~~`, or stay open) it is the last that defines `entry`, or
    without an entry the last that reads input; blocks marked as Python go before unmarked ones, what parses before what
    does not.  Where a fence was opened by the prompt, or none is there, it is the text up to where a fence closes or
    prose follows.  Thoughts hold no program.
    """
    text = after_thoughts(completion)
    text = next((part for part in _SPECIAL.split(text) if part.strip()), "").replace("\r\n", "\n").lstrip("\ufeff")
    if language := _LANGUAGE.match(text):
        text = text[language.end() :]
    if "```" not in text and (tagged := _TAGGED.search(text)):
        text = tagged[2]
    blocks = list(_blocks(text))
    continued = bool(entry) and text.lstrip("\n")[:1].isspace()  # the body of the prompt's function
    wanted = [block for block in blocks if _serves(block.code, entry)]
    for group in (
        [b for b in wanted if b.fenced and b.marked and _parses(b.code)], [b for b in wanted if b.fenced and _parses(b.code)],
        [b for b in wanted if not b.fenced and _parses(b.code)], [b for b in wanted if b.fenced],
        [b for b in blocks if b.fenced and b.marked], [b for b in blocks if b.fenced and not continued and (entry or _parses(b.code))],
    ):  # fmt: skip
        if group:
            code = group[-1].code
            return _AFTER_ENTRY.split(code, maxsplit=1)[0] if entry and not group[-1].fenced else code
    loose = re.split(r"\n[ \t]*(?:```|~~~)", text, maxsplit=1)[0]
    if entry:
        loose = _AFTER_ENTRY.split(loose, maxsplit=1)[0]
    lines = loose.split("\n")
    for start in range(min(len(lines), _PROSE)):
        kept = trimmed(_spaced("\n".join(lines[start:])))
        if _serves(kept, entry) and _parses(kept):
            return kept
    return _spaced(loose)


def _blocks(text: str) -> Iterator[_Block]:
    """Fenced blocks in order and, as not fenced, the stretches between them."""
    fences = [
        match
        for match in _FENCE.finditer(text)
        if match["before"] is not None or _is_info(match["info"]) or match["info"].lstrip().startswith("<")
    ][-_FENCES:]
    number, last = 0, 0
    while number < len(fences):
        fence = fences[number]
        info, number = fence["info"], number + 1
        if not _is_info(info):
            yield from _loose(text[last : fence.start()])  # it closes what the prompt opened
            last = fence.end() - len(info)
            continue
        yield from _loose(text[last : fence.start()])
        start = min(fence.end() + 1, len(text))
        indent = len((fence["before"] or "").expandtabs())
        if ">" in (fence["before"] or ""):
            text = text[: fence.end()] + re.sub(r"^> ", "  ", text[fence.end() :], flags=re.MULTILINE)
        closers = [other for other in fences[number:] if other["marks"][0] == fence["marks"][0]][:8]
        ends = [other.start() for other in closers]
        body, used = _outdented(text[start : ends[0]] if ends else text[start:], indent), 1
        if not _parses(body):
            for count, end in enumerate(ends[1:], 2):  # a fence inside a text of the program
                if _PYTHON.match(closers[count - 2]["info"]):
                    break
                if _parses(longer := _outdented(text[start:end], indent)):
                    body, used = longer, count
                    break
        if body.strip() and (_PYTHON.match(info) or _PLAIN.fullmatch(info.strip())):
            yield _Block(_spaced(body), _PYTHON.match(info) is not None, True)
        if not closers:
            return
        closer = closers[used - 1]
        number = fences.index(closer)
        last = closer.start()
        if not _PYTHON.match(closer["info"]):
            number, last = number + 1, closer.end() - len(closer["info"])
    yield from _loose(text[last:])


def _is_info(text: str) -> bool:
    """Whether what follows a fence on its line names a language and is no text."""
    return len(text.strip()) < 100 and _INFO.fullmatch(text.strip()) is not None


def _loose(stretch: str) -> Iterator[_Block]:
    if stretch.strip():
        yield _Block(_spaced(stretch.strip("\n")), False, False)


def _outdented(body: str, indent: int) -> str:
    """The body of an indented fence without the indentation of its fence."""
    return re.sub(rf"^[ \t]{{0,{indent}}}", "", body, flags=re.MULTILINE)


def _spaced(code: str) -> str:
    """`code` with plain blanks for the odd ones that keep it from parsing."""
    if not _SPACES.search(code) or _parses(code):
        return code
    indented = re.sub(r"^\s+", lambda m: _SPACES.sub(" ", m.group()), code, flags=re.MULTILINE)
    return indented if _parses(indented) else _SPACES.sub(" ", code)


@functools.lru_cache(256)
def _parses(code: str) -> bool:
    return _mistake(code) is None


def _mistake(code: str) -> int | None:
    """The line of the first mistake of syntax; None where there is none, 0 where it cannot be told."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        return error.lineno or 0
    except (ValueError, MemoryError, RecursionError):
        return 0
    return None


def trimmed(code: str) -> str:
    """`code` without the prose behind it: up to the last line that leaves it free of mistakes."""
    lines = code.split("\n")
    for _ in range(20):
        mistake = _mistake("\n".join(lines))
        if mistake is None:
            return "\n".join(lines)
        lines = lines[: min(max(mistake - 1, 0), len(lines) - 1)]
        if not any(line.strip() for line in lines):
            break
    return code


def _serves(code: str, entry: str) -> bool:
    """Whether a block defines what will be called or, without an entry, reads input."""
    owner, _, method = entry.partition(".")
    if not entry:
        return _READS.search(code) is not None
    return defines(code, owner) and (not method or re.search(rf"\bdef[ \t]+{re.escape(method)}\b", code) is not None)


def lifted(code: str) -> str:
    """`code` with its `from __future__` imports at the very top, where alone they are legal.

    For programs with something put in front: imports, a prompt, an adapter.
    """
    found = [f"from __future__ import {names.strip()}\n" for names in _FUTURE.findall(code)]
    return "".join(dict.fromkeys(found)) + _FUTURE.sub("", code) if found else code


def defines(code: str, name: str) -> bool:
    """Whether the text of `code` defines a function or class of this name at the top."""
    named = re.escape(name)
    pattern = rf"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+{named}\b|{named}[ \t]*=(?!=))"
    return re.search(pattern, code, re.MULTILINE) is not None


def contest_preamble(code: str) -> str:
    """What LiveCodeBench puts in front of `code`: `imports_for` with more names, and a higher recursion limit."""
    bare = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code))
    own = {name for names in _BOUND.findall(code) for name in names}  # importing their namesakes would only take time
    more = {name: _starred()[name] for name in bare & _starred().keys() - own}
    return f"import sys\nsys.setrecursionlimit({_DEPTH})\n{imports_for(code, more)}"


def imports_for(code: str, more: dict[str, str] | None = None) -> str:
    """Import lines for the standard names that `code` mentions, as LeetCode imports them for it.

    `more` maps further names to their modules.  Only those mentioned: importing all of them costs more time than most solutions run.
    """
    words = set(re.findall(r"[A-Za-z_]\w*", code))
    lines = [f"import {module}" for module in _MODULES if module in words and module != "bisect"]
    wanted: dict[str, list[str]] = {}
    for word, module in sorted(({word: _HOME[word] for word in words & _HOME.keys()} | (more or {})).items()):
        wanted.setdefault(module, []).append(word)
    lines += [f"from {module} import {', '.join(names)}" for module, names in sorted(wanted.items())]
    if "bisect" in words and re.search(r"\bbisect\.", code):
        lines.append("import bisect")
    return "".join(f"{line}\n" for line in lines)
