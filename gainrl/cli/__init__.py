"""The command line: `gainrl <verb>`.  A verb is one function in a module of its own, which imports nothing heavy.

A `UserError` is printed as one message and ends the process with status 2, as does what typer refuses; anything else
is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

import typer

from gainrl.errors import UserError

VERBS = ("score", "train", "eval", "report", "compare", "profile", "doctor")

app = typer.Typer(
    name="gainrl",
    help="Reinforcement fine-tuning with a curriculum: rank, train, evaluate, report.",
    epilog="Example: gainrl score --model smollm2-135m --task arithmetic --directions --output scores.parquet",
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)


def options(panel: str) -> Any:
    """Makes options of one group, each a line of an 80-column terminal in `--help`; `flag` for one without a value."""

    def option(help: str, metavar: str = "TEXT", *, flag: str = "", **more: Any) -> Any:
        names, metavar = ([flag], "") if flag else ([], metavar)
        return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False, **more)

    return option


@app.callback()
def _options(verbose: bool = typer.Option(False, "--verbose", help="Log what is chosen and why.")) -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("gainrl").setLevel(logging.INFO if verbose else logging.WARNING)


def load(verbs: Iterable[str]) -> None:
    """Import the modules of these verbs and make them commands."""
    for verb in verbs:
        module = importlib.import_module(f"gainrl.cli.{verb}")
        app.command(verb, **getattr(module, "COMMAND", {}))(getattr(module, verb))


def main() -> None:
    """Entry point of the `gainrl` command."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows ? for what it cannot
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    words = sys.argv[1:] or ["--help"]
    named = next((word for word in words if not word.startswith("-")), "")
    load([named] if named in VERBS else VERBS)  # all for --help, or for a verb that does not exist
    try:
        sys.exit(app(words, standalone_mode=False))
    except Exception as error:
        told = str if isinstance(error, UserError) else getattr(type(error), "format_message", None)  # typer's have it
        if told is None:
            raise
        print(f"gainrl: {told(error)}", file=sys.stderr)
        sys.exit(2)
