"""The command line: `gainrl <verb>`.  A verb is one function in a module of its own, which imports nothing heavy.

A `UserError` is printed as one message and ends the process with status 2; anything else is a bug and shows
its traceback.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
from collections.abc import Sequence
from typing import Any

import typer

from gainrl.errors import UserError

VERBS = {
    "score": "gainrl.cli.score",
    "train": "gainrl.cli.train",
    "eval": "gainrl.cli.eval",
    "compare": "gainrl.cli.compare",
    "profile": "gainrl.cli.profile",
    "report": "gainrl.cli.report",
    "doctor": "gainrl.cli.doctor",
}

app = typer.Typer(
    name="gainrl",
    help="Reinforcement fine-tuning with a curriculum: rank, train, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def options(panel: str) -> Any:
    """Makes options of one group, each a line of an 80-column terminal in `--help`."""

    def option(help: str, metavar: str = "TEXT", *names: str) -> Any:
        return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False)

    return option


@app.callback()
def _options(verbose: bool = typer.Option(False, "--verbose", help="Log what is chosen and why.")) -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("gainrl").setLevel(logging.INFO if verbose else logging.WARNING)


def _register(arguments: Sequence[str] = ()) -> None:
    """Load the verb that `arguments` name, or all of them (for --help, or a verb that does not exist)."""
    named = [word for word in arguments if not word.startswith("-")][:1]
    for verb in VERBS.keys() & named or VERBS:
        module = importlib.import_module(VERBS[verb])
        app.command(verb, **getattr(module, "COMMAND", {}))(getattr(module, verb))


def main() -> None:
    """Entry point of the `gainrl` command."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows ? for what it cannot
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    _register(sys.argv[1:])
    try:
        app()
    except UserError as error:
        print(f"gainrl: {error}", file=sys.stderr)
        sys.exit(2)
