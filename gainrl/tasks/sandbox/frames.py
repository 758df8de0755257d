"""The frames that pass between the grader and a sandbox: a module outside, a part of the harness inside.

One letter, 8 hex digits of a time limit in ms, 8 hex digits of length, the payload.  What the letters mean is in
`harness.py`.
"""

from __future__ import annotations

import posix as os  # not `os`: the start of an interpreter is most of what a grading costs
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER = 17
LARGEST = 64 << 20  # bytes of a frame; HumanEval/130 has answers of 20 MiB


class Late(Exception):
    """The time limit passed."""


class Flood(Exception):
    """More bytes than allowed."""


class Gone(Exception):
    """The other side closed its end."""


def frame(letter: str, payload: bytes = b"", limit: float = 0.0) -> bytes:
    return b"%c%08x%08x" % (ord(letter), int(limit * 1000), len(payload)) + payload


def wait(descriptor: int, event: int, until: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = until - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise Late


def wait_to_read(descriptor: int, until: float) -> None:
    wait(descriptor, select.POLLIN, until)


def read_exactly(descriptor: int, count: int, until: float, wait: Any = wait_to_read) -> bytes:
    parts = []
    while count:
        wait(descriptor, until)
        part = os.read(descriptor, min(count, 1 << 16))
        if not part:
            raise Gone
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(descriptor: int, until: float, wait: Any = wait_to_read) -> tuple[str, float, bytes]:
    """(letter, limit in seconds, payload)."""
    header = read_exactly(descriptor, HEADER, until, wait)
    try:
        limit, length = int(header[1:9], 16) / 1000, int(header[9:17], 16)
    except ValueError:
        raise Gone from None
    if length < 0 or length > LARGEST:
        raise Flood
    return chr(header[0]), limit, read_exactly(descriptor, length, until, wait)


def write(descriptor: int, data: bytes, until: float) -> None:
    view = memoryview(data)
    while view:
        wait(descriptor, select.POLLOUT, until)
        try:
            # at most a page at a time: a pipe that polls writable takes that much without blocking
            view = view[os.write(descriptor, view[:4096]) :]
        except OSError:
            raise Gone from None
