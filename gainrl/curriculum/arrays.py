"""One number per prompt in a JSON state: NumPy array -> short text -> the same array.

The bytes of the array, little-endian, the lowest byte of all elements first, then the next one (neighbours are
alike that way), compressed with zlib and written in base64.  At its worst the text has 4/3 of the array's bytes, so
three bytes a prompt stay below 0.41 MB per 100 thousand prompts.  Only the decoded values count: another release of
zlib may write another text for the same array, which is read all the same.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError


def to_text(array: npt.NDArray[Any], dtype: str) -> str:
    """A one-dimensional integer array as text; `dtype` is the unsigned type that it is kept in, such as `<u2`."""
    kept = array.astype(dtype)
    if not np.array_equal(kept, array):
        raise UserError(f"a count of the curriculum's state does not fit {np.dtype(dtype).name}")
    planes = kept.view(np.uint8).reshape(-1, kept.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def from_text(text: Any, dtype: str, size: int, name: str) -> npt.NDArray[np.int64]:
    """The inverse of `to_text` for `size` elements, (size,) int64; UserError naming `name` for anything else."""
    width = np.dtype(dtype).itemsize
    try:
        raw = zlib.decompress(base64.b64decode(text, validate=True))
    except (TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise UserError(f"curriculum state: {name} is damaged ({error})") from None
    if len(raw) != width * size:
        raise UserError(f"curriculum state: {name} holds {len(raw)} bytes, {size} prompts need {width * size}")
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(width, size)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(size).astype(np.int64)
