"""How many bytes an element of an array takes, by its metadata and by its fill value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import zarr

__all__ = ["check_element", "element_size"]

_MOST_ELEMENT = 2**24  # bytes


def check_element(dtype: Any) -> None:
    """Refuse a dtype of which a single element, such as the fill value, takes all memory."""
    size = _element(dtype)
    if not 0 <= size <= _MOST_ELEMENT:
        raise ValueError(f"an element of {size} bytes is larger than {_MOST_ELEMENT}, or none")


def element_size(array: zarr.Array[Any]) -> int:
    """Return the bytes that an element takes, if it is the fill value: a string may be long."""
    fill_value = array.fill_value
    long = len(fill_value) if isinstance(fill_value, str | bytes) else 0
    return int(array.dtype.itemsize) + (0 if array.dtype.kind in "SUV" else long)


def _element(dtype: Any) -> int:
    """Return the bytes of an element as metadata describe it, 0 where they do not say."""
    if isinstance(dtype, str):  # as format 3 names raw bits, or as format 2 names any
        bits = re.fullmatch(r"r([0-9]+)", dtype)
        if bits is not None:
            return int(bits[1]) // 8
        number = re.fullmatch(r"[<>|=]?[SUVa]([0-9]+)", dtype)
        return int(number[1]) * (4 if "U" in dtype else 1) if number else 0
    if isinstance(dtype, Mapping):
        configuration = dtype.get("configuration")
        if not isinstance(configuration, Mapping):
            return 0
        length = configuration.get("length_bytes", 0)
        return (length if isinstance(length, int) else 0) + _element(configuration.get("fields"))
    if not isinstance(dtype, list):
        return 0
    size = 0
    for field in dtype:  # a name, a dtype and in format 2 perhaps a shape
        parts: list[Any] = list(field.values()) if isinstance(field, Mapping) else field
        if isinstance(parts, list) and len(parts) > 1:
            sides = parts[2] if len(parts) > 2 else []
            sides = sides if isinstance(sides, list) else [sides]
            size += _element(parts[1]) * math.prod(side for side in sides if isinstance(side, int))
    return size
