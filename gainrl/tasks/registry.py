"""Tasks by name: the built-in ones, those that installed packages announce, and dotted paths.

A name is `NAME` or `NAME:ARGUMENT`.  Other packages add names through the entry-point group `gainrl.tasks`, whose
entries load a `Task` subclass; without packaging, `package.module.ClassName` (or `package.module:ClassName`) names one
directly, found on the import path or in the working directory.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from importlib.metadata import EntryPoint, entry_points

from gainrl.errors import UserError
from gainrl.tasks.base import Task
from gainrl.tasks.prompts import PromptTemplate

_GROUP = "gainrl.tasks"
_BUILT_IN = {
    "amc23": "AMC23", "arithmetic": "Arithmetic", "deepscaler": "DeepScaleR", "gsm8k": "GSM8K",
    "humaneval": "HumanEval", "humanevalplus": "HumanEvalPlus", "leetcode": "LeetCode",
    "livecodebench": "LiveCodeBench", "math": "Math", "math500": "Math500", "reasoning-gym": "ReasoningGym",
}  # fmt: skip


def task_names() -> list[str]:
    """Names that `load_task` knows, sorted; dotted paths come on top."""
    return sorted({*_BUILT_IN, *entry_points(group=_GROUP).names})


def load_task(name: str, *, prompt: PromptTemplate | str | os.PathLike[str] | None = None) -> Task:
    """The task of this name, with its own prompt template or with `prompt` (a template or the path of one).

    Raises `UserError` for a name that does not exist (naming the nearest), for something that is not a `Task`, and
    what the task raises for its argument.
    """
    head, _, argument = name.partition(":")
    dotted = f"{head}:{argument}" if argument else ":".join(head.rpartition(".")[::2])
    if head in _BUILT_IN:
        entry = EntryPoint(head, f"gainrl.tasks.{head.replace('-', '_')}:{_BUILT_IN[head]}", _GROUP)
    elif announced := [*entry_points(group=_GROUP, name=head)]:
        entry = announced[0]
    elif all(part.isidentifier() for part in re.split("[.:]", dotted)):
        entry, argument = EntryPoint(name, dotted, _GROUP), ""
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # console scripts do not search the working directory
    else:
        near = difflib.get_close_matches(head, task_names(), n=1, cutoff=0.0)
        raise UserError(
            f"there is no task {name!r}; the nearest name is {near[0]!r} "
            f"(known: {', '.join(task_names())}; or a dotted path package.module.ClassName)"
        )
    try:
        found = entry.load()
    except Exception as error:
        raise UserError(f"task {name!r}: {entry.value!r} does not load: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"task {name!r}: {found!r} is not a subclass of gainrl.tasks.Task")
    return found(argument, prompt=prompt)
