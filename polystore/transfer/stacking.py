"""Many stored arrays as the rows of one: made beside its place, filled, and moved there at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from polystore.exceptions import StorageError
from polystore.progress import Progress, reporting

__all__ = ["Fill", "Rows", "stack"]

Like = tuple[tuple[int, ...], str]
"""A shape and a dtype."""

_CHUNK = 2**20  # bytes in a chunk, about
_AT_ONCE = 32 * 2**20  # bytes that one call fills, about


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an array that is filled, which share no shard, or chunk, with the next ones.

    Attributes
    ----------
    paths : tuple of str
        Those of the arrays that they are copies of.
    like : tuple
        The shape and the dtype of each of these.
    place : str
        The path of the array that is filled.
    start : int
        Which row is the first.
    """

    paths: tuple[str, ...]
    like: Like
    place: str
    start: int


Fill = Callable[[Sequence[Rows], Callable[[Rows], None]], None]


def stack(
    paths: Sequence[str],
    path: str,
    first: Like,
    target: Any,
    fill: Fill,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Stack arrays along a new first axis.

    Parameters
    ----------
    paths : sequence of str
        Where they are.
    path : str
        Where the new array goes, which exists only once it is whole.
    first : tuple
        The shape and the dtype of the first of them, which the others have too.
    target : StorageBackend
        Where the new array goes.
    fill : callable
        Saves rows, in any order; called with all of them, and with what to call after each.
    progress : callable or bool, optional
        Called with the numbers of arrays that are stacked and of all.
    **options
        For ``target.save``, such as ``chunks=``.
    """
    shape, dtype = first
    sides = options.get("shards") or options.get("chunks")
    if sides is None:
        sides = options["chunks"] = _chunks(len(paths), shape, np.dtype(dtype).itemsize)
    place = f"{path}.stacking-{os.urandom(6).hex()}"
    target.save(np.empty((0, *shape), dtype), place, **options)
    try:
        target.resize(place, (len(paths), *shape))
        with reporting(progress, len(paths), "stacking") as step:
            fill(
                list(_rows(paths, first, place, sides[0])),
                lambda rows: step(len(rows.paths)),
            )
        target.move(place, path)
    except BaseException:
        with suppress(StorageError):  # the first error tells more
            target.delete(place)
        raise


def _chunks(number: int, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: several rows, one, or a part of one."""
    chunks = [max(1, side) for side in shape]
    rows = max(1, min(number, _CHUNK // (prod(chunks) * itemsize)))
    while prod(chunks) * itemsize > _CHUNK and max(chunks) > 1:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    return (rows, *chunks)


def _rows(paths: Sequence[str], like: Like, place: str, side: int) -> Iterator[Rows]:
    size = max(1, prod(like[0]) * np.dtype(like[1]).itemsize)
    step = side * max(1, _AT_ONCE // (side * size))
    for start in range(0, len(paths), step):
        yield Rows(tuple(paths[start : start + step]), like, place, start)
