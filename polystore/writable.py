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
    return _private(value, {})


def _private(value: Any, made: dict[int, tuple[Any, Any]]) -> Any:
    if not isinstance(value, np.ndarray | dict | list | tuple):
        return value
    if id(value) in made:
        return made[id(value)][1]
    new = value
    made[id(value)] = value, new  # which keeps it, so that no other gets its id
    if isinstance(value, np.ndarray):
        new = value if value.flags.writeable else value.copy(order="K")
    elif isinstance(value, tuple):
        parts = [_private(part, made) for part in value]
        if any(one is not other for one, other in zip(parts, value, strict=True)):
            new = getattr(type(value), "_make", type(value))(parts)  # a named tuple has it
    else:
        for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
            copy = _private(part, made)
            if copy is not part:
                value[key] = copy
    made[id(value)] = value, new
    return new
