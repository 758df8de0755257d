"""`gainrl doctor`: what works here, what does not, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gainrl.cli import doctor_parts as parts
from gainrl.cli.doctor_parts import Check


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Show which backends work and why the others do not, versions, CPU and GPU, extras, and isolation for code tasks.

    The exit status is 1 where something that is installed is broken, or no backend serves the CPU; 0 otherwise.
    """
    checks = examine()
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "checks": [check._asdict() for check in checks]}, indent=1))
    else:
        _print(checks)
    if broken:
        names = ", ".join(check.name for check in broken)
        typer.echo(f"gainrl: broken here: {names}", err=True)
        raise typer.Exit(1)


def examine() -> list[Check]:
    """Every check, section by section.  Takes some seconds: it imports torch and tries to break out of the sandbox."""
    from gainrl import tasks

    code = [Check("tasks", row.part, row.state, row.detail) for row in tasks.doctor()]
    return [*parts.build(), *parts.system(), *parts.gpu(), *parts.backends(), *parts.packages(), *code]


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            typer.echo(section)
        state = "" if check.state == "ok" else f"{check.state}: "
        typer.echo(f"  {check.name:<{width}}  {state}{check.detail}")
