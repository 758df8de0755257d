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


def floats_to_text(array: npt.NDArray[np.float64]) -> str:
    """A one-dimensional float64 array as text, to the last bit: its bytes, little-endian, in base64."""
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def floats_from_text(text: Any, size: int, name: str) -> npt.NDArray[np.float64]:
    """The inverse of `floats_to_text` for `size` finite elements, (size,) float64; UserError naming `name`."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"curriculum state: {name} is damaged ({error})") from None
    if len(raw) != 8 * size:
        raise UserError(f"curriculum state: {name} holds {len(raw)} bytes, {size} numbers need {8 * size}")
    values = np.frombuffer(raw, dtype="<f8").astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"curriculum state: {name} has numbers that are not finite")
    return values
