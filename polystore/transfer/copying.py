"""Values on their way from one backend into another, in the process that calls.

Backends that live elsewhere let this run where the bytes are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from polystore.exceptions import StorageError, UnsupportedFormatError
from polystore.progress import Progress, reporting
from polystore.transfer.stacking import Rows

__all__ = ["RAW", "Pairs", "copy_values", "naming_written", "save_rows"]

Pairs = Sequence[tuple[str, str]]
"""Paths of values, and those that their copies get in the other backend."""

RAW = ".bin"
"""The suffix whose format is the bytes of a file."""

_HELD = 32 * 2**20  # bytes of values that are held at a time, about
_MOST = 256  # values, of which most have no size that is known beforehand

SaveBatch = Callable[..., None]


def copy_values(
    values: Iterable[Any],
    pairs: Pairs,
    save_batch: SaveBatch,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Save values as they come, some at a time, so that no more of them are in memory.

    Parameters
    ----------
    values : iterable of object
        The values of the first paths of the pairs.
    pairs : sequence of (str, str)
        The paths; no value is loaded twice.
    save_batch : callable
        That of the other backend.
    progress : callable or bool, optional
        Called with the numbers of values that are copied and of all; `True` shows a bar.
    **options
        For `save_batch`.

    Raises
    ------
    Exception
        What either backend raises. It names what was written.
    """
    targets = [target for _, target in pairs]
    written: list[str] = []
    with (
        naming_written(written, len(targets)),
        reporting(progress, len(targets), "copying") as step,
    ):
        for part in _parts(values):
            places = targets[len(written) : len(written) + len(part)]
            save_batch(part, places, **options)
            written += places
            step(len(places))


@contextmanager
def naming_written(
    written: list[str], number: int, done: str = "values were copied"
) -> Iterator[None]:
    """Let an error name the paths that were written, those in its own ``written`` among them."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError):
            error.written = tuple(dict.fromkeys((*written, *error.written)))
            written = [*error.written]
        error.add_note(f"{len(written)} of {number} {done}: {written}")
        raise


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    held = 0
    for value in values:
        part.append(value)
        held += len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)
        if held >= _HELD or len(part) >= _MOST:
            yield part
            part, held = [], 0
    if part:
        yield part


def save_rows(values: Iterable[Any], rows: Rows, save: Callable[..., None]) -> None:
    """Save arrays as rows of a stored one, all in one region.

    Raises
    ------
    UnsupportedFormatError
        If one of them is not like the first.
    """
    shape, dtype = rows.like
    data = np.empty((len(rows.paths), *shape), dtype)
    for number, (value, path) in enumerate(zip(values, rows.paths, strict=True)):
        found = (value.shape, str(value.dtype)) if isinstance(value, np.ndarray) else None
        if found != rows.like:
            what = f"of shape {found[0]} and dtype {found[1]}" if found else type(value).__name__
            raise UnsupportedFormatError(
                f"arrays of one shape and dtype can be stacked, here {shape} and {dtype}, and "
                f"this one is {what}",
                path=path,
            )
        data[number] = value
    save(data, rows.place, region=slice(rows.start, rows.start + len(data)))
