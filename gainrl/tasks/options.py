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
        key, equals, value = map(str.strip, part.partition("="))
        if not equals:
            raise UserError(f"task {task!r}: {part!r} is not of the form key=value")
        if key not in defaults:
            near = difflib.get_close_matches(key, list(defaults), n=1, cutoff=0.0)
            raise UserError(
                f"task {task!r} has no option {key!r}; the nearest is {near[0]!r} (of {', '.join(defaults)})"
            )
        options[key] = _read(task, key, value, defaults[key])
    return options


def _read(task: str, key: str, value: str, default: Any) -> Any:
    """`value` as the type of `default`; where that is None: true/false, integer, number or text, whichever fits."""
    for kind in (bool, int, float, str) if default is None else (type(default),):
        try:
            return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            continue
    raise UserError(f"task {task!r}: {key} must be of type {type(default).__name__}, but is {value!r}")
