"""Changes of a zarr array that is there, by many writers at once: regions, appends and resizes.

A writer of a shard holds its lock from before the shard is read until the whole of it is written
again. A writer that changes the shape holds the lock of the shape, writes what the new shape shows
before anybody can see it, and then publishes the shape in one step. So nothing is lost, and a
reader sees an append whole or not at all.
"""

from __future__ import annotations

import json
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from polystore.exceptions import UnsupportedFormatError, VFSTypeError
from polystore.fitting import fitted, refuse_mask
from polystore.formats import MOST_DECODED
from polystore.region import Region, check_region, fitting_region, forward
from polystore.zarr.array.elements import element_size
from polystore.zarr.array.locks import Locks, lock_of
from polystore.zarr.array.pipelines import Pipeline
from polystore.zarr.array.reading import described, open_array, write_part

__all__ = ["Shared", "append", "resize", "write_region"]

_MOST_AT_ONCE = 2**31  # bytes of a shard, or of a chunk where there are none, as of Blosc's
_MOST_CHUNKS = 2**20  # in a shard


class Shared(ABC):
    """An array that several may change at once, wherever it lies.

    - `store`: the store of this array alone, for writing
    - `locks`: those of its writers
    - `pipeline`: what reads and writes its chunks
    """

    store: Store
    locks: Locks
    pipeline: Pipeline = "zarr"

    @abstractmethod
    def metadata(self) -> tuple[str, bytes]:
        """Return the name and the bytes of what says the shape."""

    @abstractmethod
    def publish(self, metadata: bytes, *, shows_less: bool = False) -> None:
        """Replace the bytes of `metadata`, in one step.

        - `shows_less`: whether something is cut off that readers may be about to read
        """

    @abstractmethod
    def chunks(self) -> Iterable[str]:
        """Return the keys of the chunks that are stored, also outside the shape."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete chunks."""


def write_region(array: Shared, region: Region, data: Any) -> None:
    """Write into a part of an array, in place.

    Raises `VFSTypeError` if the array has no such part; `UnsupportedFormatError` if the value does
    not fit it; `FileLockTimeoutError` if other writers do not end in time.
    """
    while True:
        stored = _opened(array)
        # As NumPy takes them: zarr would leave out what does not fit.
        shape = check_region(stored.shape, region)
        size = math.prod(shape) * stored.dtype.itemsize
        if size > MOST_DECODED and size > 100 * getattr(data, "nbytes", 0):
            raise UnsupportedFormatError(
                f"the region {region!r} has the shape {shape}: more than such a value can fill; "
                f"save smaller ones, if the array is what it says"
            )
        values = fitting_region(data, region, stored, shape)
        index, reverse = forward(stored.shape, region)
        if not values.size:
            return
        with array.locks.shards(_locks_of(stored, index)):
            if open_array(array.store).shape != stored.shape:
                continue  # the region may mean another part now
            write_part(stored, index, values[reverse])
            return


def append(array: Shared, values: Any, axis: int) -> int:
    """Put values at the end of an axis; return where they begin.

    Raises `VFSTypeError` if the array has no such axis; `UnsupportedFormatError` if the values do
    not fit the other axes, or are none that the array can hold; `FileLockTimeoutError` if other
    writers do not end in time.
    """
    with array.locks.shape():
        stored = _opened(array)
        axis = _checked_axis(axis, stored.ndim)
        fitting = _fitting(values, stored, axis)
        start = stored.shape[axis]
        end = start + fitting.shape[axis]
        if start == end:
            return start
        grown, metadata = _reshaped(array, _with(stored.shape, axis, end))
        region = _with((slice(None),) * stored.ndim, axis, slice(start, end))
        if fitting.size:
            index, _ = forward(grown.shape, region)
            with array.locks.shards(_locks_of(grown, index)):
                write_part(grown, region, fitting)
        array.publish(metadata)
        return start


def resize(array: Shared, shape: Sequence[int]) -> None:
    """Change the shape of an array; what it grows by is fill values, what it is cut off by is gone.

    Raises `VFSTypeError` if the shape is none, or has another number of axes;
    `FileLockTimeoutError` if other writers do not end in time.
    """
    with array.locks.shape(), array.locks.all_shards():
        stored = _opened(array)
        old, new = stored.shape, _checked_shape(shape, stored.ndim)
        if old == new:
            return
        grown, metadata = _reshaped(array, new)
        sides = stored.shards or stored.chunks
        keys = list(array.chunks())
        # What an append left that was killed, or what another program cut off.
        array.delete(key for key in keys if _is_outside(key, old, sides))
        fill = 0 if stored.fill_value is None else stored.fill_value
        for edge in _new_edges(old, new, sides):
            write_part(grown, edge, fill)
        array.publish(metadata, shows_less=any(map(operator.lt, new, old)))
        array.delete(key for key in keys if _is_outside(key, new, sides))


def _opened(array: Shared) -> zarr.Array[Any]:
    """Return the array to write into, what is written at once being no more than can be held."""
    stored = open_array(array.store, array.pipeline)
    side = stored.shards or stored.chunks
    size = math.prod(side) * element_size(stored)
    chunks = math.prod(side) // max(1, math.prod(stored.chunks))
    if not 0 < size <= _MOST_AT_ONCE or chunks > _MOST_CHUNKS:
        raise UnsupportedFormatError(
            f"a part of an array cannot be written whose shards, or chunks, have the shape {side}, "
            f"{size} bytes and {chunks} chunks: that is nothing, or too much to hold"
        )
    return stored


def _locks_of(array: zarr.Array[Any], index: tuple[int | slice, ...]) -> list[int]:
    sides = array.shards or array.chunks
    parts = zip(index, array.shape, sides, strict=True)
    return lock_of([_touched(part, length, side) for part, length, side in parts])


def _touched(part: int | slice, length: int, side: int) -> Iterable[int]:
    """Return the indices of the shards along an axis that a part of it touches."""
    if not isinstance(part, slice):
        return [operator.index(part) % length // side]
    taken = range(*part.indices(length))
    if taken.step >= side:
        return [place // side for place in taken]
    return range(taken[0] // side, taken[-1] // side + 1) if taken else []


def _fitting(values: Any, stored: zarr.Array[Any], axis: int) -> np.ndarray[Any, Any]:
    """Return values as the array stores them, of its shape but for the axis."""
    given = np.asanyarray(values)
    length = given.shape[axis] if given.ndim == stored.ndim else -1
    shape = _with(stored.shape, axis, length)
    if given.shape != shape:
        raise UnsupportedFormatError(
            f"values of shape {given.shape} do not fit the end of axis {axis} of an array of "
            f"shape {stored.shape}"
        )
    try:
        refuse_mask(values)
        return fitted(given, shape, stored.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedFormatError(
            f"the values do not fit an array of dtype {stored.dtype} ({error})"
        ) from error


def _checked_axis(axis: int, dimensions: int) -> int:
    number = _integer(axis, "an axis")
    if not -dimensions <= number < dimensions:
        raise VFSTypeError(f"an array of {dimensions} dimensions has no axis {number}")
    return number % dimensions


def _checked_shape(shape: Sequence[int], dimensions: int) -> tuple[int, ...]:
    sides = tuple(_integer(side, "a side of a shape") for side in shape)
    if len(sides) != dimensions or min(sides, default=0) < 0:
        raise VFSTypeError(f"the array has {dimensions} dimensions, for which {sides} is no shape")
    return sides


def _integer(value: Any, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise VFSTypeError(f"{what} is an integer, not {type(value).__name__}") from error


def _with(parts: tuple[Any, ...], axis: int, part: Any) -> tuple[Any, ...]:
    return (*parts[:axis], part, *parts[axis + 1 :])


def _is_outside(key: str, shape: tuple[int, ...], sides: tuple[int, ...]) -> bool:
    """Return whether nothing of a chunk lies within a shape."""
    place = [int(number) for number in re.findall(r"\d+", key)]
    return len(place) == len(shape) and any(
        number * side >= length for number, side, length in zip(place, sides, shape, strict=True)
    )


def _new_edges(
    old: tuple[int, ...], new: tuple[int, ...], sides: tuple[int, ...]
) -> list[tuple[slice, ...]]:
    """Return the parts that a new shape shows of shards which the old one shows in part."""
    edges = [
        min(after, -(-before // side) * side)
        for before, after, side in zip(old, new, sides, strict=True)
    ]
    whole = tuple(slice(0, edge) for edge in edges)
    return [
        _with(whole, axis, slice(old[axis], edge))
        for axis, edge in enumerate(edges)
        if old[axis] < edge and all(edges)
    ]


class _Reshaped(WrapperStore[Store]):
    """The store of an array whose new metadata nobody else sees yet."""

    def __init__(self, store: Store, name: str = "", metadata: bytes = b"") -> None:
        super().__init__(store)
        self._name, self._metadata = name, metadata

    def _with_store(self, store: Store) -> _Reshaped:
        return _Reshaped(store, self._name, self._metadata)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == self._name:
            buffer = (prototype or default_buffer_prototype()).buffer
            return buffer.from_bytes(self._metadata)
        return await super().get(key, prototype, byte_range)


def _reshaped(array: Shared, shape: tuple[int, ...]) -> tuple[zarr.Array[Any], bytes]:
    """Return an array of another shape on the same chunks, and the metadata that publish it."""
    name, metadata = array.metadata()
    grown = described(metadata) | {"shape": shape}
    # With the white space at the end by which a store tells the array from another.
    changed = json.dumps(grown, indent=2).encode() + metadata[len(metadata.rstrip()) :]
    return open_array(_Reshaped(array.store, name, changed), array.pipeline), changed
