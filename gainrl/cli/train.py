"""`gainrl train`: train with the curriculum."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from gainrl.errors import UserError


def train(
    config: Annotated[
        list[Path],
        typer.Option(help="YAML file that describes the run (see examples/); of several, later ones win name by name."),
    ],
    output: Annotated[str | None, typer.Option(help="Run directory, instead of the config's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")] = False,
    report: Annotated[bool, typer.Option(help="Keep report.html in the run directory up to date.")] = True,
) -> None:
    """Train a model with the curriculum: rank the dataset if there is no score table yet, then draw, train, move on."""
    from gainrl.integrations.trl.run_config import RunConfig

    try:
        run = RunConfig.read(*config)
    except UserError as error:
        raise spoken(error, by_all=True) from None
    if output is not None:
        import dataclasses

        run = dataclasses.replace(run, output=output)
    # TRL 1.16 reads names that transformers 5.23 deprecates; a user of gainrl can change nothing about it
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)
    try:
        import trl  # noqa: F401
    except ImportError:
        raise UserError("gainrl train needs TRL: pip install 'gainrl[trl]'") from None
    from gainrl.integrations.trl.run import train as train_run

    named = "".join(f" --config {path}" for path in config)
    again = f"gainrl train{named}{f' --output {output}' if output else ''} --resume"
    try:
        result = train_run(run, resume=resume, overwrite=overwrite, report=report)
    except UserError as error:
        raise spoken(error, by_all=getattr(error, "on_every_rank", False)) from error
    except KeyboardInterrupt:
        print(f"\nstopped at once; go on with: {again}", file=sys.stderr)
        raise typer.Exit(130) from None
    if not result.main:
        raise typer.Exit(0 if result.finished else 130)
    where = result.checkpoint.name if result.checkpoint else "no checkpoint"
    if result.finished:
        print(f"trained {result.step} steps; run directory {run.output}, {where}")
        return
    print(f"stopped after {result.step} steps; go on from {where} with: {again}", file=sys.stderr)
    raise typer.Exit(130)


def spoken(error: UserError, *, by_all: bool) -> UserError | typer.Exit:
    """What this process raises for a mistake: of one that every process meets, the first of each machine speaks.

    On machines other than the first, whose mistakes can be their own, the message begins with the host's name.
    """
    rank = os.environ.get("RANK", "0")
    if by_all and os.environ.get("LOCAL_RANK", rank) != "0":
        return typer.Exit(2)
    return error if rank == "0" else UserError(f"{socket.gethostname()}, rank {rank}: {error}")
