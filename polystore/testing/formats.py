"""A check of a format of files, for its author."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polystore.exceptions import StorageError
from polystore.formats import Format

__all__ = ["check_format"]


def check_format(format: Format, values: Sequence[Any], refused: Sequence[Any] = ()) -> None:  # noqa: A002 - what it is
    """Check a format with some values, in a temporary directory.

    Each value comes back as it was, also parts of arrays, and with the description that `stat`
    shows. A value that the format refuses, and a file that is cut off, raise a `StorageError`, if
    anything.

    Parameters
    ----------
    format : Format
        The format.
    values : sequence of object
        Values that it keeps. Of arrays, take one of no axes, one without elements, and one in
        Fortran order too.
    refused : sequence of object, optional
        Values that it does not keep.

    Raises
    ------
    AssertionError
        If the format does not keep its promises; the message says which.

    Examples
    --------
    >>> import numpy as np
    >>> from polystore.formats import format_of
    >>> arrays = [np.ones((3, 4)), np.array(2.5), np.zeros((0, 2)), np.ones((2, 3), order="F")]
    >>> check_format(format_of("a.npy"), arrays, refused=[[1, 2], np.array([None])])
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"file{format.suffixes[0]}")
        for value in values:
            _write(format, value, path)
            _check_same(format.load(path), value)
            if isinstance(value, np.ndarray):
                _check_array(format, path, value)
            size = os.path.getsize(path)
            for kept in sorted({0, 1, size // 2, size - 1} - {size, -1}, reverse=True):
                os.truncate(path, kept)
                _check_damaged(format, path)
        for value in refused:
            try:
                _write(format, value, path)
            except StorageError:
                continue
            raise AssertionError(f"{format.name} must refuse {value!r}")


def _write(tested: Format, value: Any, path: str) -> None:
    with open(path, "wb") as file:  # a backend's file cannot be read either
        tested.save(file, value)


def _check_array(tested: Format, path: str, array: Any) -> None:
    header = tested.header(path)
    if tested.describe is not None:
        assert tuple(header["shape"]) == array.shape, f"describe returns {header}"
        assert str(header["dtype"]) == str(array.dtype), f"describe returns {header}"
    for region in _regions(array.ndim):
        try:
            expected = array[region]
        except IndexError:
            continue
        _check_same(np.asarray(tested.load(path, region)), np.asarray(expected))


def _regions(axes: int) -> Iterator[tuple[Any, ...]]:
    yield (...,)
    for part in (0, -1, slice(0, 1), slice(1, None, 2), slice(None, None, -1), slice(9, 9)):
        if axes:
            yield (part,)
            yield (..., part)


def _check_same(loaded: Any, saved: Any) -> None:
    shown = f"{saved!r} comes back as {loaded!r}"
    assert type(loaded) is type(saved), f"{shown} of type {type(loaded).__name__}"
    if isinstance(saved, np.ndarray):
        assert (loaded.dtype, loaded.shape) == (saved.dtype, saved.shape), shown
        np.testing.assert_array_equal(loaded, saved)
    elif isinstance(saved, dict):
        assert list(loaded) == list(saved), shown
        for key, part in saved.items():
            _check_same(loaded[key], part)
    else:
        assert loaded == saved, shown
        assert repr(loaded) == repr(saved), shown


def _check_damaged(tested: Format, path: str) -> None:
    for use in (tested.load, tested.header):
        try:
            use(path)
        except StorageError:
            continue
