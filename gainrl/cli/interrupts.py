"""Ctrl-C that is not lost on its way.

CPython raises KeyboardInterrupt in whatever Python code the main thread runs next.  In a destructor, in the callback of
a weak reference, or in code whose errors its caller in C drops, the exception ends there and the program goes on as if
nothing had been said ("Note on Signal Handlers and Exceptions" in the documentation of `signal`); a library may also
make an error of its own of it.  So an interrupt is remembered as well as raised.

A process that was started with SIGINT ignored (`command &` in a shell without job control) goes on ignoring it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


class Interrupts:
    """Whether Ctrl-C was pressed."""

    asked = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was, and this still runs."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def interruptible(said: Callable[[], str]) -> Iterator[Interrupts]:
    """Inside, Ctrl-C ends the program with what `said` returns on stderr and status 130.

    Call `check` of what is yielded wherever the work may stop: it raises the interrupt that was lost before.
    """
    interrupts = Interrupts()

    def interrupt(number: int, frame: Any) -> None:
        interrupts.asked = True
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    ours = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if ours:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield interrupts
        except Exception as error:
            if not interrupts.asked:
                raise
            raise KeyboardInterrupt from error
    except KeyboardInterrupt:
        print(said(), file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        if ours and signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
