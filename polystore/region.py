"""Regions: the part of an array that a load or a save is about."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

import numpy as np

from polystore.exceptions import UnsupportedOperationError, VFSTypeError

__all__ = ["Region", "as_index", "check_region", "take_region"]

Region = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]


def as_index(region: Region) -> tuple[int | slice | EllipsisType, ...]:
    """Return `region` as a tuple for basic indexing, which always selects a view.

    Raises
    ------
    VFSTypeError
        If it holds anything but integers, slices and one ``...``.
    """
    index = region if isinstance(region, tuple) else (region,)
    for part in index:
        if not isinstance(part, int | slice | EllipsisType) or isinstance(part, bool):
            raise VFSTypeError(
                f"a region is made of integers, slices and '...', not {type(part).__name__}"
            )
    return index


def take_region(
    value: Any, region: Region | None, *, path: str | None = None, backend: str | None = None
) -> Any:
    """Return the part of an array that `region` selects, as a view; all of it for None.

    Raises
    ------
    UnsupportedOperationError
        If `value` is not an array.
    VFSTypeError
        If `region` does not fit the array.
    """
    if region is None:
        return value
    if not isinstance(value, np.ndarray):
        raise UnsupportedOperationError(
            f"only arrays have regions, and this is a {type(value).__name__}",
            path=path,
            backend=backend,
        )
    try:
        return value[as_index(region)]
    except IndexError as error:
        raise VFSTypeError(
            f"the region {region!r} does not fit an array of shape {value.shape}",
            path=path,
            backend=backend,
        ) from error


def check_region(shape: tuple[int, ...], region: Region) -> None:
    """Raise what `take_region` of an array of this shape would raise."""
    take_region(np.broadcast_to(np.uint8(0), shape), region)
