"""Frames over pipes, each a letter, 8 hex digits of ms, 8 hex digits of length, the payload.

Spoken between a pool and its workers, a grader and its sandbox, and inside it (the harness carries this file's text).
A `wait` is called with the descriptor and the event before each step, and raises `Late`; without one, steps block.
"""

from __future__ import annotations

# The start of an interpreter is most of what a grading costs, so only what is built in: `posix` without `os`.
import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Wait = Callable[[int, int], None]

HEADER = 17
LARGEST = 64 << 20  # bytes of a frame; HumanEval/130 has answers of 20 MiB


class Late(Exception):
    """The time limit passed."""


class Flood(Exception):
    """More bytes than allowed."""


class Gone(Exception):
    """The other side closed its end, or sent no frame."""


def within(seconds: float) -> Wait:
    """A way to wait, for so many seconds of wall time in all."""
    until = time.monotonic() + seconds

    def wait(descriptor: int, event: int) -> None:
        poll = select.poll()  # unlike select, good for descriptors above 1023
        poll.register(descriptor, event)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(min(left, 1e6) * 1000):
            raise Late("no answer in time")

    return wait


def frame(letter: str, payload: bytes = b"", seconds: float = 0.0) -> bytes:
    return b"%c%08x%08x" % (ord(letter), int(min(seconds, 1e6) * 1000), len(payload)) + payload


def send(descriptor: int, data: bytes, wait: Wait | None = None) -> None:
    """Write all of `data`; to a descriptor that does not block if there is a `wait`."""
    view = memoryview(data)
    while view:
        if wait is not None:
            wait(descriptor, select.POLLOUT)
        try:
            view = view[posix.write(descriptor, view) :]
        except BlockingIOError:
            continue
        except OSError:
            raise Gone("it closed its end") from None


def receive(descriptor: int, wait: Wait | None = None, most: int = LARGEST) -> tuple[str, float, bytes]:
    """(letter, seconds, payload) of the next frame."""

    def take(count: int) -> bytes:
        chunks = []
        while count:
            if wait is not None:
                wait(descriptor, select.POLLIN)
            chunk = posix.read(descriptor, min(count, 1 << 16))
            if not chunk:
                raise Gone("it ended early")
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    header: Any = take(HEADER)
    try:
        seconds, length = int(header[1:9], 16) / 1000, int(header[9:], 16)
    except ValueError:
        raise Gone("it sent no frame") from None
    if length < 0 or length > most:
        raise Flood("it sent too much")
    return chr(header[0]), seconds, take(length)
