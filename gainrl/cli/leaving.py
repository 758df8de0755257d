"""How one process of several ends: with its own exit status, whatever the threads of torch's backends are doing.

A worker thread of gloo drops the tensors of its last collective some time after the collective is over.  That takes
the GIL, and an interpreter that is being finalized gives it to nobody: CPython before 3.14 unwinds such a thread
through C++ that must not be unwound, and the process aborts ("terminate called without an active exception",
pytorch/pytorch#190489) with all its work done.  `destroy_process_group` joins these threads only if nothing else holds
the group, and a DDP model does.  So a process of several does all that the end of a process does, and leaves before the
interpreter is finalized.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

STOPPED = 130  # of a run that all its processes stopped as asked
UNWRITTEN = 120  # what Python itself ends with if what was printed cannot be written


@contextmanager
def one_of_several() -> Iterator[None]:
    """End this process with the block, if a launcher started it as one of several (WORLD_SIZE above 1).

    The status is that of the block: 0, what SystemExit says, or 1 after the exception hook has had any other exception
    (130 for an interrupt).  Processes that succeeded, or that all stopped as asked (130), wait for each other and
    destroy their process group.
    """
    size = os.environ.get("WORLD_SIZE", "")
    if not size.isdecimal() or int(size) < 2:
        yield
        return
    ended, interrupted = True, False
    try:
        yield
        status = 0
    except SystemExit as error:
        status, interrupted = _status(error), _was_interrupted(error)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)  # trackers learn of a crash there
        status, ended = 130 if isinstance(error, KeyboardInterrupt) else 1, False
    if status == 0 or (status == STOPPED and ended and not interrupted):
        status = _part() or status
    leave(status, wait=ended)


def leave(status: int, *, wait: bool) -> NoReturn:
    """Run the exit handlers, flush what was printed, and end the process without finalizing the interpreter.

    wait: first for other threads, as the end of a process does (uploads under way, the children of multiprocessing).
    """
    if wait:
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a full disk, or nobody reads it any more
            status = status or UNWRITTEN
    os._exit(status)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether this process ended because it alone, perhaps, was interrupted."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _status(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _part() -> int:
    """Wait for the others (whoever serves the store must not be the first to go) and destroy the process group."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0
    try:
        dist.barrier()
        dist.destroy_process_group()
    except RuntimeError as error:
        rank = os.environ.get("RANK", "?")
        print(
            f"gainrl: rank {rank} is done, but another process of this run has died, or took longer than the process "
            f"group's timeout: {error}",
            file=sys.stderr,
        )
        return 1
    return 0
