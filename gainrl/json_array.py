"""The items of a JSON array one at a time, so that a file of any size is read in constant memory.

Each item is parsed by the standard library's own parser, so values are what `json.loads` gives (NaN, large integers,
lone surrogates), which streaming parsers differ in.  A leaf: every package may import it, it imports nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 1 << 18
"""Characters read at once."""
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_WORD = 16
"""An error so close to the end of what was read may come of the cut: `-Infinity`, `\\ud83d\\ude00`."""
_LONGEST_NUMBER_SIGN = len("e+5")
_KINDS = {"{": "dict", '"': "str", "t": "bool", "f": "bool", "n": "NoneType"}


class NotJSON(ValueError):
    """Why the text is not JSON, and where."""


class NotAnArray(ValueError):
    """The text holds something else; the message is its Python type."""


def items(file: IO[str], chunk: int = CHUNK) -> Iterator[Any]:
    """The items of the array in `file`, in order; memory holds `chunk` characters and twice the longest item.

    Raises NotAnArray if the text begins as something else, NotJSON where it stops being JSON.
    """
    text = _Text(file, chunk)
    if (first := text.peek()) != "[":
        if first in _KINDS or (first and first in "-0123456789"):
            raise NotAnArray(_KINDS.get(first, "number"))
        raise text.wrong("Expecting value", text.at)
    text.at += 1
    mark = "," if text.peek() != "]" else "]"
    if mark == "]":
        text.at += 1
    while mark == ",":
        yield text.value()
        mark = text.peek()
        if mark not in (",", "]"):
            raise text.wrong("Expecting ',' delimiter", text.at)
        text.at += 1
    if text.peek():
        raise text.wrong("Extra data", text.at)


class _Text:
    """What was read and not yet used: `text` from `at` on."""

    def __init__(self, file: IO[str], chunk: int) -> None:
        self._file, self._chunk = file, chunk
        self._decoder = json.JSONDecoder()
        self._ended = False
        self._before = self._lines = 0  # characters, and line ends, of what was dropped
        self.text, self.at = "", 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self._ended:
                return ""
            self._more()

    def value(self) -> Any:
        """The value that begins next."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _LONGEST_WORD
                if self._ended or not cut:
                    raise self.wrong(error.msg, error.pos) from None
            else:
                # A number may go on where the text was cut: 1 of 1.5, 2 of 2e+5.
                number = isinstance(value, int | float) and not isinstance(value, bool)
                cut = end == len(self.text) or (
                    number and self.text[end] in ".eE" and end + _LONGEST_NUMBER_SIGN > len(self.text)
                )
                if self._ended or not cut:
                    self.at = end
                    return value
            self._more()

    def _more(self) -> None:
        """Read on: as much again as there is, so that a long item is not parsed over and over."""
        rest = len(self.text) - self.at
        self._before += self.at
        self._lines += self.text.count("\n", 0, self.at)
        read = self._file.read(max(self._chunk, rest))
        self.text, self.at, self._ended = self.text[self.at :] + read, 0, not read

    def wrong(self, what: str, at: int) -> NotJSON:
        line = self._lines + self.text.count("\n", 0, at) + 1
        return NotJSON(f"{what}: line {line}, character {self._before + at} of the file")
