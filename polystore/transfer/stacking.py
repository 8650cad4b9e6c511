"""Stack many stored arrays into one: create it under another name, fill it, and move it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import Resizable
from polystore.exceptions import (
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.paths import P, as_text, display
from polystore.progress import Progress, reporting
from polystore.region import CHUNK_BYTES, chunk_shape
from polystore.transfer.copying import values_of
from polystore.transfer.proxies import Like, Rows, Sender, class_of, portable

__all__ = ["save_rows", "stack"]

_FILLED_BYTES = 32 * 2**20  # by one call, about


def stack(
    source: DataSource,
    target: StorageBackend,
    paths: Sequence[P],
    path: P,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Stack arrays along a new first axis into one array of another backend.

    The new array exists only once it is complete.

    - `source`, `target`: the two backends. The arrays of `target` have regions and can be resized
    - `paths`: arrays of one shape and dtype, at least one
    - `path`: the path of the new array
    - `progress`: called with the number of arrays stacked so far and the number of all; `True`
      shows a bar
    - `options`: passed to the ``save`` of `target`, such as ``chunks=`` and ``shards=``. By default
      a chunk has about 1 MiB: several rows, one, or a part of one

    Raises `UnsupportedFormatError` if the values are not arrays of one shape and dtype;
    `UnsupportedOperationError` if the arrays of `target` cannot be resized.
    """
    texts = [as_text(each) for each in paths]
    if not texts:
        raise VFSTypeError("there is nothing to stack")
    kind = class_of(target)
    if not issubclass(kind, Resizable):
        raise UnsupportedOperationError(
            f"{kind.__name__} does not support resize, which a stack needs",
            path=display(path),
            backend=kind._backend_type,  # noqa: SLF001 - the contract's
        )
    final = portable(target, path)
    like = shape, dtype = _like(source, texts[0])
    sides = options.get("shards") or options.get("chunks")
    if sides is None:
        sides = options["chunks"] = _chunks(len(texts), shape, np.dtype(dtype).itemsize)
    temporary = f"{final}.stacking-{os.urandom(6).hex()}"
    target.save(np.empty((0, *shape), dtype), temporary, **options)
    try:
        target.resize(temporary, (len(texts), *shape))
        parts = list(_rows(texts, like, temporary, sides[0]))
        with reporting(progress, len(texts), "stacking") as step:
            for part in _filled(source, target, parts):
                step(len(part.paths))
        target.move(temporary, final)
    except BaseException:
        with suppress(StorageError):  # the first error tells more
            target.delete(temporary)
        raise


def _filled(source: DataSource, target: StorageBackend, parts: Sequence[Rows]) -> Iterator[Rows]:
    if isinstance(source, Sender):
        yield from source.send_rows(target, parts)
        return
    for rows in parts:
        save_rows(source, target, rows)
        yield rows


def save_rows(source: DataSource, target: StorageBackend, rows: Rows) -> None:
    """Load arrays and save them as rows of a stored array, all in one region.

    Raises `UnsupportedFormatError` if an array differs in shape or dtype from the first one of the
    stack.
    """
    shape, dtype = rows.like
    data = np.empty((len(rows.paths), *shape), dtype)
    values = zip(values_of(source, rows.paths), rows.paths, strict=True)
    for number, (value, path) in enumerate(values):
        found = (value.shape, str(value.dtype)) if isinstance(value, np.ndarray) else None
        if found != rows.like:
            what = f"of shape {found[0]} and dtype {found[1]}" if found else type(value).__name__
            raise UnsupportedFormatError(
                f"arrays of one shape and dtype can be stacked; the first is of shape {shape} and "
                f"dtype {dtype}, this one is {what}",
                path=path,
                backend=class_of(source)._backend_type,  # noqa: SLF001 - the contract's
            )
        data[number] = value
    target.save(data, rows.place, region=slice(rows.start, rows.start + len(data)))


def _like(source: DataSource, path: str) -> Like:
    """Return the shape and the dtype of a stored array."""
    stat = source.stat(path)
    if "dtype" in stat:
        return tuple(stat["shape"]), str(stat["dtype"])
    value = source.load(path)
    if not isinstance(value, np.ndarray):
        raise UnsupportedFormatError(
            f"only arrays can be stacked; this value is of type {type(value).__name__}", path=path
        )
    return value.shape, str(value.dtype)


def _chunks(number: int, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: several rows, one, or a part of one."""
    row = prod(max(1, side) for side in shape) * itemsize
    return max(1, min(number, CHUNK_BYTES // row)), *chunk_shape(shape, itemsize)


def _rows(paths: Sequence[str], like: Like, place: str, side: int) -> Iterator[Rows]:
    size = max(1, prod(like[0]) * np.dtype(like[1]).itemsize)
    step = side * max(1, _FILLED_BYTES // (side * size))
    for start in range(0, len(paths), step):
        yield Rows(tuple(paths[start : start + step]), like, place, start)
