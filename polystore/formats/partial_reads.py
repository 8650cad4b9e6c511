"""Read a part of an array in a file, without mapping the file.

If another process truncates a mapped file, the reading process is killed; a read returns less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from polystore.exceptions import CorruptDataError
from polystore.region import forward

__all__ = ["read_into", "read_part"]

_PIECE = 2**20  # bytes per read into a temporary buffer
_NEAR = 2**13  # bytes; reading a gap of up to this size costs less than a seek


def read_into(file: IO[bytes], target: memoryview) -> None:
    """Fill memory from the position of a file; raise `CorruptDataError` if the file ends before."""
    done = 0
    while done < len(target):
        got = file.readinto(target[done : done + 16 * _PIECE])  # type: ignore[attr-defined]
        if not got:
            raise CorruptDataError(f"the file ends after {done} of {len(target)} bytes")
        done += got


def read_part(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, index: Any
) -> Any:
    """Return a copy of a part of an array whose values begin at the position of the file.

    - `shape`, `dtype`, `fortran`: shape and dtype of the array, and whether its first axis varies
      fastest
    - `index`: an index that `polystore.region.check_region` accepts and that selects at least one
      value
    """
    ahead, turn = forward(shape, index)
    taken = [
        range(*part.indices(side))
        if isinstance(part, slice)
        else range(part % side, part % side + 1)
        for part, side in zip(ahead, shape, strict=True)
    ]
    kept = tuple(slice(None) if isinstance(part, slice) else 0 for part in ahead)
    if fortran:
        part = _read_block(file, dtype, shape[::-1], taken[::-1]).T
    else:
        part = _read_block(file, dtype, shape, taken)
    found = part[(*kept, ...)]
    if turn:
        found = found[turn]
    if any(one.step == -1 for one in turn):
        found = found.copy(order="K")
    return found if turn or Ellipsis in index else found[()]


def _read_block(
    file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], taken: list[range]
) -> np.ndarray[Any, Any]:
    """Return the values that ranges of the axes select, from an array in C order."""
    sides = tuple(map(len, taken))
    data = np.empty(math.prod(sides) * dtype.itemsize, np.uint8)
    block: np.ndarray[Any, Any] = np.ndarray(sides, dtype, data)
    if not data.size:
        return block
    start = file.tell()
    strides = [math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]
    if _span(taken, strides, dtype) == data.size:
        file.seek(start + _offset(taken, strides))
        read_into(file, data.data)
        return block
    for part in _pieces(taken, strides, dtype):
        within = [taken[axis][chosen] for axis, chosen in enumerate(part)]
        buffer = np.empty(_span(within, strides, dtype), np.uint8)
        file.seek(start + _offset(within, strides))
        read_into(file, buffer.data)
        steps = tuple(one.step * stride for one, stride in zip(within, strides, strict=True))
        block[part] = np.ndarray(tuple(map(len, within)), dtype, buffer, strides=steps)
    return block


def _offset(taken: list[range], strides: list[int]) -> int:
    return sum(one[0] * stride for one, stride in zip(taken, strides, strict=True))


def _span(taken: list[range], strides: list[int], dtype: np.dtype[Any]) -> int:
    """Return the number of bytes from the first selected value to the end of the last."""
    sides = zip(taken, strides, strict=True)
    return dtype.itemsize + sum((one[-1] - one[0]) * stride for one, stride in sides)


def _pieces(
    taken: list[range], strides: list[int], dtype: np.dtype[Any]
) -> Iterator[tuple[slice, ...]]:
    """Yield indices of parts to read at once: small parts, with small gaps between values."""
    whole = len(taken)  # axes from this one on are read at once
    while whole:
        span = _span(taken[whole - 1 :], strides[whole - 1 :], dtype)
        needed = math.prod(map(len, taken[whole - 1 :])) * dtype.itemsize
        if span > max(2 * needed, _NEAR) or span > 16 * _PIECE:
            break
        whole -= 1
    used = _span(taken[whole:], strides[whole:], dtype)
    runs = [
        [slice(None)]
        if axis >= whole
        else _runs(taken[axis], strides[axis], used, axis == whole - 1)
        for axis in range(len(taken))
    ]
    return itertools.product(*runs)


def _runs(taken: range, stride: int, used: int, last: bool) -> list[slice]:
    """Return the values of an axis in runs of several values, if the gaps are small."""
    step = taken.step * stride
    length = max(1, _PIECE // step) if last and step - used <= _NEAR else 1
    return [slice(at, at + length) for at in range(0, len(taken), length)]
