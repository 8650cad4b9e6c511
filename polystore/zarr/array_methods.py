"""Methods of the zarr backend for arrays alone: opened for lazy work, extended and cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import zarr

from polystore.paths import P
from polystore.zarr.array import updating
from polystore.zarr.array.reading import Mode
from polystore.zarr.trees import Trees

__all__ = ["append", "open_lazily", "resize"]


class HasTrees(Protocol):
    """The zarr backend, as functions use it that are methods of it."""

    _trees: Trees


def open_lazily(self: HasTrees, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
    """Return the zarr array at `path`, for lazy work; of a directory, the zarr group.

    Parameters
    ----------
    path : str or os.PathLike
        An array or a directory.
    mode : {"r", "r+"}, default "r"
        Whether it can be read only, or changed too.

    Raises
    ------
    PathNotFoundError
        If nothing is there. Nothing is made.
    UnsupportedFormatError
        If it is a file, or a directory that is not a zarr group.

    Notes
    -----
    As for `load`, a damaged chunk of an array raises an error. Of arrays that are reached
    through a group, a damaged Blosc chunk can end the process, as anywhere in zarr. An array
    that claims to be huge is only refused by `load`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from polystore import ZarrBackend
    >>> store = ZarrBackend(tempfile.mkdtemp())
    >>> store.save(np.zeros((100, 100)), "/image", attributes={"unit": "um"})
    >>> array = store.open("/image")
    >>> array.chunks, dict(array.attrs)
    ((100, 100), {'unit': 'um'})
    """
    tree, text = self._trees.of(path)
    return tree.open(text, mode)


def append(self: HasTrees, values: Any, path: P, *, axis: int = 0, durable: bool = False) -> int:
    """Put values at the end of a stored array's axis; return where along it they begin.

    They are written first, and then the new shape is published in one step: a reader, and the
    next to append, sees all of them or none, also if the writer is killed. Of several that
    append to one array at once each gets a range of its own, one after another. Writers that
    know their ranges beforehand `resize` once, and save regions at the same time.

    Parameters
    ----------
    values : array_like
        Of the array's shape, but for the axis.
    path : str or os.PathLike
        An array.
    axis : int, default 0
        The axis that grows.
    durable : bool, default False
        As for `save`.

    Returns
    -------
    int
        How long the axis was.

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    UnsupportedOperationError
        If it is a file.
    UnsupportedFormatError
        If the values do not fit.
    FileLockTimeoutError
        If other writers did not end within a minute.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from polystore import ZarrBackend
    >>> store = ZarrBackend(tempfile.mkdtemp())
    >>> store.save(np.zeros((2, 3)), "/rows", chunks=(64, 3))
    >>> store.append(np.ones((1, 3)), "/rows")
    2
    >>> store.load("/rows").shape
    (3, 3)
    """
    tree, text = self._trees.of(path)
    with tree.shared(text, durable=durable) as array:
        return updating.append(array, values, axis)


def resize(self: HasTrees, path: P, shape: Sequence[int], *, durable: bool = False) -> None:
    """Change the shape of a stored array.

    What it grows by reads as its fill value, also where it was cut off before. It waits for
    all writers of the array, and they for it. A reader that opened the array before it was cut
    off may still read what is gone, as fill values; `load` notices, and reads again.

    Parameters
    ----------
    path : str or os.PathLike
        An array.
    shape : sequence of int
        Its new shape, of as many axes.
    durable : bool, default False
        As for `save`.

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    UnsupportedOperationError
        If it is a file.
    VFSTypeError
        If the shape is none, or has another number of axes.
    FileLockTimeoutError
        If other writers did not end within a minute.
    """
    tree, text = self._trees.of(path)
    with tree.shared(text, durable=durable) as array:
        updating.resize(array, shape)
