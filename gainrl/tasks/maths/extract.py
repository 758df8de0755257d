# ruff: noqa: E501  (patterns and tables read better without breaks)
r"""Finding the final answer in a completion.

What stands in thoughts is no answer: the text after the last `</think>`, and before a `<think>` that stays open, counts.
In it the answer is what the last `\boxed{...}` (or `\fbox`) or pair of `<answer>` tags holds, whichever comes later; boxes
that only commas, "and", "or" or names part (`$x=\boxed{1}$ or $x=\boxed{2}$`) are one list.  Without either it is what
follows the last `####`, else the last "answer is", "answer:" or heading "Answer".  There is no fallback to the last
number of the text: it grades an echo of the prompt right whenever the question ends with the answer.
"""

from __future__ import annotations

import re

# These read whatever a model wrote, in the process that trains: each takes time linear in the text.
_BOX = re.compile(r"\\(?:boxed|fbox)\s*+")
_BARE = re.compile(r"[^\s$.,;{}\\]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is a character of the answer, not a brace
_THOUGHTS = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*+)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_BETWEEN = re.compile(
    r"(?:\$|\\[()\[\]]|\\text\s*\{\s*(?:and|or|,)\s*\}|\\(?:quad|qquad|[,;: ])|[,;&*.]|\b(?:and|or|also)\b|"
    r"[A-Za-z](?:_\{?\w\}?)?\s*(?:=|\\in\b)|\n\s*(?:[-*•]|\d\.)|[^\S\n])*+",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\b(?:answer|ans)\b(?:\s++to\s++(?:this|the)\s++(?:question|problem))?[\s*_`\]]*+(?:(?:is|are|would\s++be|will\s++be|should\s++be|must\s++be|equals|comes\s++out\s++to\s++be)\b"
    r"(?:\s++(?:therefore|thus|hence|then|simply|just|indeed|exactly|equal\s++to)\b)*+|[:=：→]|->|[-–—]\s|\\(?:to|rightarrow)\b|=>)"
    r"|(?:^|\n)[ \t#*_>\\\[-]*+(?:the\s++)?(?:final\s++|correct\s++)?(?:answer|solution)[^\S\n]*+[*_:.]*+[^\S\n]*+(?=\n)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[\s*_]*+(?:step|part|solution|(?:the\s++)?(?:final\s++)?answer)\b", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)}\]*`])(\*\*\*?|`{1,3})(?=\S)([^*`\n]+)\1(?![\w({\[*`])")  # no power: 2**3
_STARS = re.compile(r"\*\*(?!\d)")  # that close what an unread part of the line opens
_CLAUSE = re.compile(
    r"(?<=, )(?:as|so|where|given|which|because|since)\b|(?<=[\s,])(?:since|because)\b|(?<=[\s,$])\(?(?:I hope)\b"
)
_SENTENCE = re.compile(r"(?<=[\w$)}%\]])[.!]+[$*_]*\s++(?=[A-Z\[<])(?!(?:[A-Z]\b))")
_BEFORE = re.compile(r"\s*+:?\s*+\}?\s*+(?:\*\*(?!\d)|[*_`](?=\S)|\\\[|\\\(|\$\$)*+\s*+")
_MATHS = re.compile(r"\$\$?([^$]++)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")


def after_question(completion: str, question: str) -> str:
    """What follows the last occurrence of the question, so that an echoed prompt answers nothing."""
    question = question.strip()
    position = completion.rfind(question) if question else -1
    return completion if position < 0 else completion[position + len(question) :]


def after_thoughts(completion: str) -> str:
    """What follows the last thoughts; what stands before them where they never end."""
    start, end = 0, len(completion)
    for match in _THOUGHTS.finditer(completion):
        if match[1]:
            start, end = match.end(), len(completion)
        elif end == len(completion):
            end = match.start()
    return completion[start:end]


def boxes(text: str) -> list[str]:
    """The contents of every complete box that lies in no other, in order."""
    return [text[start:end] for start, end, _ in _boxes(text)]


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Where the contents of every complete outermost box start and end, and where the box starts."""
    found: list[tuple[int, int, int]] = []
    ends = closing(text)
    covered = 0
    for match in _BOX.finditer(text):
        start = match.end()
        if match.start() < covered:
            continue
        if start in ends:
            found.append((start + 1, ends[start], match.start()))
            covered = ends[start]
        elif match.group().endswith(("d", "x")) or text[start : start + 1] == "{":
            continue
        elif bare := _BARE.match(text, start):  # `\boxed 5`
            found.append((*bare.span(), match.start()))
    return found


def closing(text: str) -> dict[int, int]:
    """Where each brace that opens is closed."""
    opened: list[int] = []
    ends: dict[int, int] = {}
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            ends[opened.pop()] = match.start()
    return ends


def final_answer(completion: str, question: str = "") -> str | None:
    """The final answer of a completion, or None where it gives none (see the module's docstring)."""
    text = _BOLD.sub(r"\2", after_thoughts(after_question(completion, question)))
    held = [(a, b, c) for a, b, c in _boxes(text) if text[a:b].strip()]
    tagged = last_tags(text)
    if tagged and (not held or tagged.start() > held[-1][2]):
        inside = tagged[1]
        return final_answer(inside) or _bare(inside) or None
    if held:
        last, rest = held[-1], held[:-1]
        answers = [text[last[0] : last[1]].strip()]
        while rest and rest[-1][1] <= last[2]:
            between = text[rest[-1][1] + (text[rest[-1][1] : rest[-1][1] + 1] == "}") : last[2]]
            if not _BETWEEN.fullmatch(between) or ("\n" in between and not re.search(r"\S", between.replace("$", ""))):
                break
            last = rest.pop()
            answers.insert(0, text[last[0] : last[1]].strip())
        return ", ".join(dict.fromkeys(answers))
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip()
        first, _, rest_of_text = text.partition("\n")
        if not _HEADING.match(first):
            return _bare(first) or None
        # "#### Final Answer" or "#### Step 2: ..." is a heading, and the answer stands below it
        return _phrased(text) or _bare((rest_of_text.strip() or first).split("\n", 1)[0]) or None
    return _phrased(text)


def last_tags(text: str) -> re.Match[str] | None:
    """The last <answer> tags that hold something, their contents in group 1; the last may stay open."""
    return next((match for match in reversed([*_TAGGED.finditer(text)]) if match[1].strip()), None)


def _phrased(text: str) -> str | None:
    """What follows the last "answer is" (or heading) that something follows."""
    for match in reversed(list(_PHRASE.finditer(text))):
        before = _BEFORE.match(text, match.end())
        opener, rest = (before.group(), text[before.end() :]) if before else ("", text[match.end() :])
        for opening, closing in (("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)")):
            if opener.rstrip().endswith(opening) and closing in rest:
                rest = rest.split(closing, 1)[0].replace("\n", " ")
        line = rest.split("\n", 1)[0]
        if line.strip():
            line = _STARS.sub("", line, count=1)
            if clause := _CLAUSE.search(line):
                line = line[: clause.start()].rstrip(" ,")
            line = _SENTENCE.split(line, maxsplit=1)[0]
            whole = _MATHS.match(line)
            if whole and re.match(r"[\s.,*_`]*$|\.\s", line[whole.end() :]):
                return _bare(next(part for part in whole.groups() if part is not None)) or None
            return _bare(line) or None
    return None


def _bare(line: str) -> str:
    """A line without the decoration around it."""
    line = re.sub(r"\\[\])]\s*\.?$|(?<=[*`_$\"])\.$", "", line.strip()).strip()
    if line.endswith("$") and not line.startswith("$") and line.rstrip("$").count("$") % 2 == 0:
        line = line.rstrip("$").strip()
    return line.strip('*`_"').strip()
