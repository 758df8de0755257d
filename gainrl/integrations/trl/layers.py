"""Several YAML files as one config: later files win, sections are merged name by name.

`gainrl train --config paper.yaml --config gsm8k.yaml --config qwen2.5-7b.yaml` keeps what a method, a task and a model
ask for in one file each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gainrl.errors import UserError


def read_layers(paths: Iterable[str | os.PathLike[str]]) -> tuple[dict[str, Any], str]:
    """What the files say together, and how messages name them.  UserError for a missing file, no YAML, no names."""
    together: dict[str, Any] = {}
    names = []
    for path in paths:
        name = os.fspath(path)
        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the config {name!r}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise UserError(f"the config {name!r} is not YAML: {error}") from error
        if not isinstance(given, Mapping):
            raise UserError(f"{name} must hold names and values, not a {type(given).__name__}")
        together = merged(together, given)
        names.append(name)
    return together, " + ".join(names)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: mappings name by name, anything else replaced; a null takes a value away."""
    out = dict(under)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = merged(out[name], value) if both else value
    return {name: value for name, value in out.items() if value is not None}
