"""Writable values: what ``load(..., writable=True)`` returns."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["private"]


def private(value: Any) -> Any:
    """Return a loaded value with a copy of each array in it that is read-only.

    Arrays are looked for in dicts, lists and tuples, as far as these reach. The value is its
    holder's own, so its dicts and lists are changed in place.

    Examples
    --------
    >>> view = np.arange(3)
    >>> view.flags.writeable = False
    >>> loaded = private({"image": view, "names": ["a"]})
    >>> loaded["image"][0] = 7
    >>> loaded["image"], view
    (array([7, 1, 2]), array([0, 1, 2]))
    """
    return _private(value, set())


def _private(value: Any, seen: set[int]) -> Any:
    if isinstance(value, np.ndarray):
        return value if value.flags.writeable else value.copy(order="K")
    if not isinstance(value, dict | list | tuple) or id(value) in seen:
        return value
    seen.add(id(value))
    if isinstance(value, tuple):
        parts = [_private(part, seen) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return tuple(parts) if type(value) is tuple else type(value)(*parts)  # a named tuple
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        copy = _private(part, seen)
        if copy is not part:
            value[key] = copy
    return value
