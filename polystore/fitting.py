"""Conversion of values to the dtype of an array, or an error if a value would change.

NumPy's assignment checks Python integers only. From arrays, it wraps integers that are too large,
truncates fractions and text, and drops masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polystore.exceptions import UnsupportedFormatError

__all__ = ["fitted", "refuse_mask"]

_Array = np.ndarray[Any, np.dtype[Any]]
_NUMBERS = "biufc"
_CHECKED_BY_NUMPY = "OV"  # for objects and records, NumPy's own check is enough


def refuse_mask(value: Any) -> None:
    """Raise `UnsupportedFormatError` if a value is a masked array, or a list that contains one."""
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedFormatError(
            "a masked array would lose its mask; save array.filled(value), or array.data and "
            "array.mask as two arrays"
        )
    if isinstance(value, list | tuple):
        for part in value:
            refuse_mask(part)


def fitted(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Array:
    """Return values as an array of the given shape and dtype.

    A number fits if it stays equal: an integer within the range of the dtype, and a whole float
    in an integer array. Floats may be rounded, but must not become infinite. Text and times must
    not be truncated.

    - `data`: values of a shape that broadcasts to `shape`
    - `shape`: the shape to fill
    - `dtype`: the dtype to fill it with

    Raises `UnsupportedFormatError` if the values are masked; `TypeError`, `ValueError` or
    `OverflowError` if a value does not fit.

    Examples
    --------
    >>> fitted(np.int64(200), (2,), np.dtype("uint8"))
    array([200, 200], dtype=uint8)
    >>> fitted(np.int64(300), (2,), np.dtype("uint8"))
    Traceback (most recent call last):
    ValueError: 300 of dtype int64 would be stored as 44; convert the values to uint8 first
    """
    refuse_mask(data)
    values = np.empty(shape, dtype)
    given = _as_array(data, dtype)
    if given is None or (given.dtype.kind in "SU" and dtype.kind in "mM"):
        values[...] = data
        return values
    converted = values if given.shape == shape else np.empty(given.shape, dtype)
    with np.errstate(all="ignore"):  # the check below reports more
        converted[...] = given.real if _drops_imaginary(given, dtype) else given
        _check(given, converted)
    if converted is not values:
        values[...] = converted
    return values


def _as_array(data: Any, dtype: np.dtype[Any]) -> _Array | None:
    """Return values as an array of their own dtype; None if NumPy's assignment checks them."""
    if isinstance(data, np.ndarray | np.generic) and data.dtype.kind != "O":
        return np.asarray(data)
    if dtype.kind in _CHECKED_BY_NUMPY and not _is_number(dtype):
        return None
    try:
        found = np.asarray(data.tolist() if isinstance(data, np.ndarray) else data)
    except ValueError:  # a ragged list: NumPy's assignment raises the better error
        return None
    return found if found.dtype.kind in _NUMBERS or found.dtype.kind in "SU" else None


def _drops_imaginary(given: _Array, dtype: np.dtype[Any]) -> bool:
    return given.dtype.kind == "c" and dtype.kind in "biuf"


def _is_number(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is numeric, including those of other packages such as bfloat16."""
    return dtype.kind in _NUMBERS or (dtype.kind == "V" and dtype.type is not np.void)


def _check(given: _Array, stored: _Array) -> None:
    """Raise ValueError if a stored value differs from the given one."""
    if given.dtype == stored.dtype or stored.dtype.kind == "O":
        return
    names = stored.dtype.names
    if names:
        for number, name in enumerate(names):
            fields = given.dtype.names
            _check(given if fields is None else given[fields[number]], stored[name])
        return
    kept = np.asarray(_kept(given, stored))
    if not kept.all():
        at = np.unravel_index(int(np.argmin(kept)), kept.shape)
        raise ValueError(
            f"{given[at]} of dtype {given.dtype} would be stored as {stored[at]}; convert the "
            f"values to {stored.dtype} first"
        )


def _kept(given: _Array, stored: _Array) -> Any:
    """Return an array of bool: whether each stored value equals the given one."""
    if _is_number(given.dtype) and _is_number(stored.dtype):
        if given.dtype.kind == "V":
            given = given.astype(np.float64)
        if stored.dtype.kind in "biu":
            return stored == given
        kept = np.isfinite(stored) | ~np.isfinite(given)
        real = given.dtype.kind != "c" or stored.dtype.kind == "c"
        return kept if real else kept & (given.imag == 0)
    if given.dtype.kind in "mM":
        if stored.dtype.kind != given.dtype.kind:
            return np.zeros(given.shape, bool)
        back = stored.astype(given.dtype)
        return (back == given) | (np.isnat(back) & np.isnat(given))
    return stored.astype(given.dtype) == given
