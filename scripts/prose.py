"""Check how README, docs and docstrings are written: `python scripts/prose.py [FILE...]`; exit status 1 if not well.

Rules: no sentence over 40 words, nine sentences of ten with at most 28, Markdown lines up to 100 columns, none of the
phrases in PHRASES; the same phrases in the first lines of docstrings, which are at most 25 words.  Vale would do this,
but its PyPI package downloads a program at run time; proselint has neither lengths nor rules of one's own.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "studies/*.md", "studies/*/*.md")
LONGEST, NINE_OF_TEN, FIRST_LINE, COLUMNS = 40, 28, 25, 100
PHRASES = re.compile(r"\b(comes? to|be had|(?:is|are) told|says|at hand)\b", re.IGNORECASE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a Markdown page's running text: no code, tables, headings, images or comments."""
    text = re.sub(r"```.*?```|<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    kept = [line for line in text.splitlines() if not re.match(r"\s*\||#|    |\s*<|!!!|:::", line)]
    for part in re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n\s*(?:[-*]|\d+\.) ", "\n".join(kept)):
        if words := part.split():
            yield " ".join(words)


def page(path: Path) -> Iterator[str]:
    """What is wrong with a Markdown page."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    found = list(sentences(text))
    for sentence in found:
        if len(sentence.split()) > LONGEST:
            yield f"{name}: {len(sentence.split())} words, the ceiling is {LONGEST}: {sentence[:90]} ..."
        if match := PHRASES.search(sentence):
            yield f"{name}: {match[0]!r} in: {sentence[:90]}"
    lengths = sorted(len(sentence.split()) for sentence in found)
    if lengths and (length := lengths[math.ceil(0.9 * len(lengths)) - 1]) > NINE_OF_TEN:
        yield f"{name}: the 90th percentile of sentence length is {length} words, at most {NINE_OF_TEN}"
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        in_code ^= line.startswith("```")
        if len(line) > COLUMNS and not in_code and not line.lstrip().startswith("|") and "http" not in line:
            yield f"{name}:{number}: {len(line)} columns, the ceiling is {COLUMNS}"


def module(path: Path) -> Iterator[str]:
    """What is wrong with the first lines of a module's docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            first = re.split(r"(?<=[.;])\s", first)[0]
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
            if len(first.split()) > FIRST_LINE:
                yield f"{where}: the docstring's first sentence has {len(first.split())} words, at most {FIRST_LINE}"
            if match := PHRASES.search(first):
                yield f"{where}: {match[0]!r} in: {first[:90]}"


def main() -> int:
    """Print what breaks a rule."""
    named = [Path(argument).resolve() for argument in sys.argv[1:]]
    pages = named or [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    modules = [path for path in pages if path.suffix == ".py"] or ([] if named else sorted(ROOT.glob("gainrl/**/*.py")))
    problems = [line for path in pages if path.suffix == ".md" for line in page(path)]
    problems += [line for path in modules for line in module(path)]
    print("\n".join(problems) or f"{len(pages)} pages and {len(modules)} modules: nothing breaks a rule")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
