"""`key=value,key=value` after a task's name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from gainrl.errors import UserError


def parse_options(task: str, text: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`text` over `defaults`, each value read as its default's type; an unknown key names the nearest."""
    options = dict(defaults)
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals:
            raise UserError(f"task {task!r}: {part!r} is not of the form key=value")
        if key not in defaults:
            near = difflib.get_close_matches(key, list(defaults), n=1, cutoff=0.0)
            raise UserError(
                f"task {task!r} has no option {key!r}; the nearest is {near[0]!r} (of {', '.join(defaults)})"
            )
        options[key] = read_value(task, key, value.strip(), defaults[key])
    return options


def read_value(task: str, key: str, value: str, default: Any) -> Any:
    """`value` as the type of `default`; where that is None: integer, number, true/false or text, whichever fits."""
    if isinstance(default, bool) or (default is None and value.lower() in ("true", "false")):
        if value.lower() not in ("true", "false"):
            raise UserError(f"task {task!r}: {key} must be true or false, but is {value!r}")
        return value.lower() == "true"
    kinds: tuple[type, ...] = (int, float, str) if default is None else (type(default),)
    for kind in kinds:
        try:
            return kind(value)
        except ValueError:
            continue
    raise UserError(f"task {task!r}: {key} must be of type {kinds[0].__name__}, but is {value!r}")
