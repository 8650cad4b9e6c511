"""Read many chunks of a zarr array at once: one request for all of them, threads for the copies.

zarr decodes a chunk in a coroutine or call of its own and copies it into the result afterwards.
Chunks that are stored as they are in memory need neither: they are views of shared memory, and one
copy puts each where it belongs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from polystore.exceptions import CorruptDataError, VFSTypeError
from polystore.region import Region, check_region, forward
from polystore_ray.interop.zarr_buffers import Bytes, is_plain

__all__ = ["read_chunks", "read_into"]

_REQUEST_BYTES = 64 * 2**20  # bytes of chunks in one request

Load = Callable[[Sequence[str]], Sequence[Bytes | None]]
Array = npt.NDArray[Any]
_Copy = tuple[str, tuple[slice, ...], tuple[slice, ...]]
"""The key of a chunk, the part of it, and where that part goes."""


def read_into(
    array: zarr.Array[Any], region: Region | None, out: Array | None, load: Load
) -> Array:
    """Return an array of zarr or a part of it, read by the fastest way that its codecs allow.

    - `region`: the part; by default all of it
    - `out`: where to put the values; by default a new array
    - `load`: returns the bytes of some keys of the array's store, None for a missing one

    Raises `VFSTypeError` if the array has no such region, or `out` has another shape or dtype;
    `CorruptDataError` if a chunk has not the size that the metadata give it.
    """
    part = ... if region is None else region
    shape = check_region(array.shape, part)
    if out is None:
        out = np.empty(shape, array.dtype)
    elif out.shape != shape or out.dtype != array.dtype:
        raise VFSTypeError(
            f"out has the shape {out.shape} and dtype {out.dtype}; the values have {shape} and "
            f"{array.dtype}"
        )
    index, reverse = forward(array.shape, part)
    if _is_plain(array) and all(isinstance(p, int) or p.step in (1, None) for p in index):
        dropped = tuple(i for i, p in enumerate(index) if isinstance(p, int))
        whole: Any = (*reverse, ...)  # always a view
        target = np.expand_dims(out[whole], dropped)
        sides = zip(index, array.shape, strict=True)
        read_chunks(array, [_as_slice(p, side) for p, side in sides], target, load)
    else:
        out[reverse] = array[index]
    return out


def _as_slice(part: int | slice, side: int) -> slice:
    return part if isinstance(part, slice) else slice(part % side, part % side + 1)


def read_chunks(array: zarr.Array[Any], part: Sequence[slice], out: Array, load: Load) -> None:
    """Fill `out` with a part of an array whose chunks are stored as they are in memory."""
    nbytes = int(np.prod(array.chunks)) * array.dtype.itemsize
    many = max(1, _REQUEST_BYTES // max(1, nbytes))
    copies = _copies(array, part)
    with ThreadPoolExecutor(os.cpu_count() or 1, "polystore-chunks") as threads:
        while batch := list(itertools.islice(copies, many)):
            chunks = load([key for key, _, _ in batch])
            list(threads.map(partial(_copy, array, out), batch, chunks))


def _copy(array: zarr.Array[Any], out: Array, copy: _Copy, chunk: Bytes | None) -> None:
    key, inside, outside = copy
    if chunk is None:
        out[outside] = array.fill_value
        return
    try:
        values = chunk.view(array.dtype).reshape(array.chunks)
    except ValueError as error:
        raise CorruptDataError(
            f"the chunk has {len(chunk)} bytes, not those of an array of shape {array.chunks} and "
            f"dtype {array.dtype}",
            path=key,
            backend="memory",
        ) from error
    out[outside] = values[inside]


def _copies(array: zarr.Array[Any], part: Sequence[slice]) -> Iterator[_Copy]:
    """Yield what has to be copied where, chunk by chunk."""
    axes = [
        list(_pieces(taken.start or 0, taken.stop, side))
        for taken, side in zip(part, array.chunks, strict=True)
    ]
    prefix = f"{array.path}/" if array.path else ""
    encode: Callable[[tuple[int, ...]], str] = array.metadata.encode_chunk_key
    for pieces in itertools.product(*axes):
        number, inside, outside = zip(*pieces, strict=True) if pieces else ((), (), ())
        yield prefix + encode(number), inside, outside


def _pieces(start: int, stop: int, side: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the chunks that a part of an axis touches: number, part of the chunk, part of it."""
    at = start
    while at < stop:
        number = at // side
        end = min(stop, (number + 1) * side)
        first = number * side
        yield number, slice(at - first, end - first), slice(at - start, end - start)
        at = end


def _is_plain(array: zarr.Array[Any]) -> bool:
    """Return whether the chunks are the bytes of the values, in C order and native byte order."""
    if not array.dtype.isnative or array.dtype.hasobject or array.dtype.kind not in "biufc":
        return False
    if array.fill_value is None:  # zarr decides what a missing chunk holds
        return False
    if array.metadata.zarr_format == 2:
        compressed = array.metadata.compressor is not None or bool(array.metadata.filters)
        return not compressed and array.metadata.order == "C"
    return is_plain(array.metadata.codecs)
