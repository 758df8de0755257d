"""Hooks of the documentation site (mkdocs.yml): reference pages made from the code when the site is built.

A page asks for a part with a line `<!-- generated: NAME -->`; the names are the keys of `PARTS`.  What has no
description in the code is an error, so that no option goes undocumented.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def cli() -> str:
    """Each verb: what its function's docstring says, and its options."""
    from gainrl.cli import VERBS

    parts = []
    for verb, module in VERBS.items():
        function = getattr(importlib.import_module(module), verb)
        parameters = list(_parameters(verb, function))
        arguments = "".join(f" {name}" for name, is_option, *_ in parameters if not is_option)
        parts += [f"## gainrl {verb}", inspect.cleandoc(function.__doc__), f"    gainrl {verb} [OPTIONS]{arguments}"]
        parts.append(table(("option", "default", "what"), ((f"`{n}`", d, h) for n, _, d, h in parameters)))
    return "\n\n".join(parts) + "\n"


def _parameters(verb: str, function: Any) -> Iterator[tuple[str, bool, str, str]]:
    """(name with its type, whether it is an option, default, help) of each parameter, from its annotation."""
    from typer.models import OptionInfo

    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind, info = get_args(parameter.annotation)
        if not info.help:
            raise ValueError(f"gainrl {verb}: {parameter.name} has no help")
        # inside Annotated the first name given lies where the default would
        first = (info.default,) if isinstance(info.default, str) and info.default.startswith("-") else ()
        declared = first + tuple(info.param_decls or ())
        default = "required" if parameter.default in (parameter.empty, ...) else parameter.default
        if kind is bool:
            flag = "--" + parameter.name.replace("_", "-")
            names = ", ".join(declared or (flag, flag.replace("--", "--no-", 1)))
            yield names, True, "on" if default else "", info.help
            continue
        shown = "" if default is None else default if default == "required" else f"`{default}`"
        if not isinstance(info, OptionInfo):
            yield parameter.name.upper(), False, shown, info.help
            continue
        names = ", ".join(declared or ("--" + parameter.name.replace("_", "-"),))
        many = " (repeatable)" if get_origin(kind) is list else ""
        yield f"{names} {_type_name(kind)}", True, shown, info.help + many


def _type_name(kind: Any) -> str:
    """TEXT, NUMBER or PATH, for `int | None`, `list[Path]` and their like."""
    names = {one.__name__ for one in (get_args(kind) or (kind,)) if one is not type(None)}
    return "PATH" if "Path" in names else "NUMBER" if names & {"int", "float"} else "TEXT"


def attribute_docs(owner: type) -> dict[str, str]:
    """The string after each annotated attribute of a class, as people write them."""
    body: Any = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    found = {}
    for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return found


def _kind(field: Any) -> str:
    return f"`{str(field.type).removesuffix(' | None')}`".replace(" | ", "` or `")


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else f"`{json.dumps(field.default)}`"
    return "" if field.default_factory is not dataclasses.MISSING else "required"


def run() -> str:
    """The names of a run's YAML."""
    from gainrl.integrations.trl.run_config import RunConfig

    return _fields(RunConfig, attribute_docs(RunConfig))


def metadata() -> str:
    """What a score table's metadata holds."""
    from gainrl.table import TableMetadata

    return _fields(TableMetadata, attribute_docs(TableMetadata))


def _fields(owner: Any, docs: dict[str, str]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for field in dataclasses.fields(owner):
            yield (f"`{field.name}`", _kind(field), _default(field), docs.get(field.name, ""))

    return table(("name", "type", "default", "what"), rows())


def curriculum() -> str:
    """The section `curriculum`: the fields that gainrl adds to TRL's config."""
    from gainrl.integrations.trl.config import CurriculumArguments
    from gainrl.integrations.trl.run_config import _MANAGED, _PREFIX

    def rows() -> Iterator[tuple[str, ...]]:
        for field in dataclasses.fields(CurriculumArguments):
            if field.name in _MANAGED or field.name == "shuffle_dataset":
                continue
            short = field.name.removeprefix(_PREFIX)
            yield (f"`{short}`", _kind(field), _default(field), field.metadata["help"])

    return table(("name", "type", "default", "what"), rows())


def benchmarks() -> str:
    """The command behind each file of results, and where it was run."""

    def rows() -> Iterator[tuple[str, ...]]:
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or "command" not in found:
                raise ValueError(f"{path} does not say which command made it")
            machine = found.get("machine", {})
            where = ", ".join(
                str(part) for part in (machine.get("gpu"), machine.get("cpu"), f"{machine.get('cores')} cores") if part
            )
            commit = str(found.get("commit", ""))[:10] + (", with changes" if found.get("dirty") else "")
            yield (f"`{path.name}`", f"`{found['command']}`", where, commit)

    return table(("results", "command", "machine", "commit"), rows())


def measured() -> str:
    """The README's table of what was measured: figures stand in one place."""
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What was measured\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    if not lines:
        raise ValueError("README.md has no table under 'What was measured'")
    return "\n".join(lines)


PARTS = {
    "cli": cli,
    "run": run,
    "curriculum": curriculum,
    "metadata": metadata,
    "measured": measured,
    "benchmarks": benchmarks,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: put the generated parts in their places."""
    return MARKER.sub(lambda match: PARTS[match[1]](), markdown)
