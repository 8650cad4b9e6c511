"""Regions: the part of an array that a load reads or a save writes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from types import EllipsisType
from typing import Any, SupportsIndex

import numpy as np

from polystore.error_translation import located
from polystore.exceptions import (
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.fitting import fitted
from polystore.paths import P

__all__ = [
    "CHUNK_BYTES",
    "Region",
    "as_index",
    "check_region",
    "chunk_shape",
    "fitting_region",
    "forward",
    "put_region",
    "take_region",
]

Region = SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType, ...]

CHUNK_BYTES = 2**20
"""The size of a chunk that nobody chose, about."""


def chunk_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: the whole array, its longest sides halved until it fits."""
    chunks = [max(1, side) for side in shape]
    while prod(chunks) * itemsize > CHUNK_BYTES and max(chunks) > 1:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    return tuple(chunks)


def as_index(region: Region) -> tuple[int | slice | EllipsisType, ...]:
    """Return `region` as a tuple for basic indexing, which always selects a view.

    Raises `VFSTypeError` if it contains anything but integers, slices and ``...``.
    """
    return tuple(map(_part, region if isinstance(region, tuple) else (region,)))


def _part(part: object) -> int | slice | EllipsisType:
    if isinstance(part, EllipsisType):
        return part
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        start, stop, step = (None if bound is None else _integer(bound) for bound in bounds)
        if step == 0:
            raise VFSTypeError("the step of a slice cannot be 0")
        return slice(start, stop, step)
    return _integer(part)


def _integer(value: Any) -> int:
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise VFSTypeError(
        f"a region consists of integers, slices and '...', not {type(value).__name__}"
    )


def take_region(
    value: Any, region: Region | None, *, path: P | None = None, backend: str | None = None
) -> Any:
    """Return the part of an array that `region` selects, as a view; the whole array for None.

    Raises `UnsupportedOperationError` if `value` is not an array; `VFSTypeError` if `region` does
    not fit the array.
    """
    if region is None:
        return value
    with located(path, backend):
        if not isinstance(value, np.ndarray):
            raise UnsupportedOperationError(
                f"only arrays have regions; the value is a {type(value).__name__}"
            )
        try:
            return value[as_index(region)]
        except IndexError as error:
            raise VFSTypeError(
                f"the region {region!r} does not fit an array of shape {value.shape}"
            ) from error


def put_region(
    array: Any, region: Region, data: Any, *, path: P | None = None, backend: str | None = None
) -> None:
    """Write `data` into the part of an array that `region` selects.

    Raises `UnsupportedFormatError` if the part cannot hold the data unchanged: see
    `polystore.fitting.fitted`; as `take_region` otherwise.
    """
    part = take_region(array, region, path=path, backend=backend)
    with located(path, backend):
        array[as_index(region)] = fitting_region(data, region, array, np.shape(part))


def fitting_region(data: Any, region: Region, array: Any, shape: tuple[int, ...]) -> Any:
    """Return `data` with the dtype of `array` and `shape`, the shape that `region` selects.

    Raises `UnsupportedFormatError` if the part cannot hold the data unchanged.
    """
    try:
        if isinstance(array, np.ma.MaskedArray) and isinstance(data, np.ma.MaskedArray):
            nothing: Any = np.zeros((), data.dtype)[()]
            behind = data.filled(nothing)
            values = fitted(behind, shape, array.dtype)
            mask = np.broadcast_to(np.ma.getmaskarray(data), shape)
            return np.ma.MaskedArray(values, mask)
        return fitted(data, shape, array.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedFormatError(
            f"the value does not fit the region {region!r} of an array of shape "
            f"{array.shape} and dtype {array.dtype} ({error})"
        ) from error


def check_region(shape: tuple[int, ...], region: Region) -> tuple[int, ...]:
    """Return the shape that a region selects, or raise the error that `take_region` raises."""
    part: tuple[int, ...] = take_region(np.broadcast_to(np.uint8(0), shape), region).shape
    return part


def forward(
    shape: tuple[int, ...], region: Region
) -> tuple[tuple[int | slice, ...], tuple[slice, ...]]:
    """Return an index without negative steps, and the index that then reverses the axes.

    Examples
    --------
    >>> array = np.arange(12).reshape(3, 4)
    >>> index, turn = forward(array.shape, (1, slice(None, None, -1)))
    >>> array[index][turn]
    array([7, 6, 5, 4])
    """
    index: list[int | slice] = []
    turn: list[slice] = []
    for part, side in zip(_without_ellipsis(as_index(region), len(shape)), shape, strict=True):
        if not isinstance(part, slice):
            index.append(part)
            continue
        taken = range(*part.indices(side))
        turned = taken[::-1] if taken.step < 0 else taken
        index.append(slice(turned[0], turned[-1] + 1, turned.step) if taken else slice(0, 0))
        turn.append(slice(None, None, -1 if taken.step < 0 else 1))
    return tuple(index), tuple(turn)


def _without_ellipsis(
    index: tuple[int | slice | EllipsisType, ...], dimensions: int
) -> list[int | slice]:
    """Return an index with one element for each dimension."""
    given = [part for part in index if not isinstance(part, EllipsisType)]
    at = next((i for i, part in enumerate(index) if isinstance(part, EllipsisType)), len(index))
    return [*given[:at], *[slice(None)] * (dimensions - len(given)), *given[at:]]
