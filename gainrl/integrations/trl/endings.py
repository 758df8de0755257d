"""How a run ends: when it is asked to, when the disk is full, and when another process of it has died."""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gainrl.errors import UserError
from gainrl.integrations.trl.checkpoints import last_complete
from gainrl.integrations.trl.config import GainRLConfig
from gainrl.integrations.trl.trainer import GainRLTrainer


@contextmanager
def graceful(trainer: GainRLTrainer) -> Iterator[None]:
    """SIGINT and SIGTERM end the run at the next point from which it can be resumed, a second one at once.

    Launchers pass on a Ctrl-C that the terminal has sent to every process already: what follows within two seconds
    is the same one.
    """
    asked = [0.0]

    def stop(number: int, frame: Any) -> None:
        if trainer.stopped_early:
            if time.monotonic() - asked[0] < 2.0:
                return
            raise KeyboardInterrupt
        asked[0] = time.monotonic()
        print("\nstopping at the end of this generation batch (again to stop at once)", file=sys.stderr)
        trainer.request_stop()

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the host program handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def failure_explained(settings: GainRLConfig) -> Iterator[None]:
    """A full disk, or another process that died, said in one sentence with where to go on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = _what_failed(error)
        if what is None:
            raise
        if torch.distributed.is_initialized():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends what is left; this is said first
        found, _ = last_complete(str(settings.output_dir))
        whole = f"{found.name} is whole" if found else "no checkpoint was saved yet"
        raise UserError(what.format(where=settings.output_dir, whole=whole)) from error


def _what_failed(error: Exception) -> str | None:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors and torch wrap what the system says in errors of their own
    if full or any(text in str(error) for text in ("No space left", "PytorchStreamWriter failed")):
        return "the disk of {where} is full: {whole}; make room and go on with --resume"
    lost = ("gloo", "NCCL", "closed by peer", "reset by peer", "Broken pipe")
    gone = isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in lost)
    if torch.distributed.is_initialized() and (gone or isinstance(error, torch.distributed.DistError)):
        return "another process of this run has died (the launcher says which one): {whole}; go on with --resume"
    return None
