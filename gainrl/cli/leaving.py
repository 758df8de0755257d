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
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


@contextmanager
def one_of_several() -> Iterator[None]:
    """End this process with the block, if a launcher started it as one of several (WORLD_SIZE above 1).

    The status is that of the block: 0, what SystemExit says, or 1 after printing the traceback of any other exception.
    Processes that succeeded wait for each other and destroy their process group.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    try:
        yield
        status = 0
    except SystemExit as error:
        status = _status(error)
    except BaseException:
        traceback.print_exc()
        status = 1
    if status == 0:
        status = _part()
    leave(status)


def leave(status: int) -> NoReturn:
    """Run the exit handlers, flush what was printed, and end the process without finalizing the interpreter."""
    if status == 0:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the children of multiprocessing do
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


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
        print(f"gainrl: rank {rank} is done, but another process of this run has died: {error}", file=sys.stderr)
        return 1
    return 0
