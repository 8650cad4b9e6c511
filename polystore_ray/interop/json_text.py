"""JSON for any value. What JSON has no type for becomes text; NaN and infinity become null.

The text is yielded in pieces, and written pieces are not kept: a small value from a hostile pickle
may be nested to any depth and produce any amount of text.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["json_pieces"]

_NUMBERS_PER_STEP = 65_536  # of an array that are converted together


class _Level(NamedTuple):
    """An open JSON object or array: its remaining members, each with the text before it."""

    members: Iterator[tuple[str, Any]]
    end: str
    value: Any  # kept alive, so that its id stays unique


class _Rows(NamedTuple):
    """The values of an array."""

    array: Any


def json_pieces(value: Any, indent: int | None = None) -> Iterator[str]:
    """Yield the JSON text of a value in pieces, on one line unless `indent` is given.

    Raises `ValueError` if the value contains itself.
    """
    levels: list[_Level] = []
    inside: set[int] = set()
    while True:
        text = _leaf(value)
        if text is not None:
            yield text
        else:
            if id(value) in inside:
                raise ValueError("it contains itself, which JSON cannot express")
            inside.add(id(value))
            begin, level = _begun(value)
            levels.append(level)
            yield begin
            first = True
        while levels:
            member = next(levels[-1].members, None)
            if member is not None:
                break
            ended = levels.pop()
            inside.discard(id(ended.value))
            yield ("" if first else _new_line(indent, len(levels))) + ended.end
            first = False
        else:
            return
        before, value = member
        separator = "" if first else ("," if indent is not None else ", ")
        yield separator + _new_line(indent, len(levels)) + before
        first = False


def _new_line(indent: int | None, depth: int) -> str:
    return "" if indent is None else "\n" + " " * (indent * depth)


def _begun(value: Any) -> tuple[str, _Level]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        members = _named((name, getattr(value, name)) for name in names)
    elif isinstance(value, Mapping):
        members = _named(value.items())
    elif isinstance(value, np.ndarray):
        facts = {"shape": value.shape, "dtype": str(value.dtype), "values": _Rows(value)}
        members = _named(facts.items())
    else:
        rows = _rows(value.array) if isinstance(value, _Rows) else value
        return "[", _Level((("", member) for member in rows), "]", value)
    return "{", _Level(members, "}", value)


def _named(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for key, member in items:
        text = _leaf(key)
        text = str(key) if text is None else text
        yield (text if text.startswith('"') else json.dumps(text)) + ": ", member


def _rows(array: Any) -> Iterator[Any]:
    if array.ndim > 1:
        for row in array:
            yield _Rows(row)
    elif array.dtype.kind in "biufSU":
        for start in range(0, len(array), _NUMBERS_PER_STEP):
            yield from array[start : start + _NUMBERS_PER_STEP].tolist()
    else:  # tolist() turns some dates into numbers of nanoseconds
        yield from array


def _leaf(value: Any) -> str | None:
    """Return the JSON text of a value without members; None for a value with members."""
    if isinstance(value, _Rows):
        if value.array.size == 0:
            return "[]"  # its other axes may claim any length
        return _leaf(value.array[()]) if value.array.ndim == 0 else None
    if isinstance(value, np.generic) and value.dtype.kind in "biufSU":
        value = float(value) if isinstance(value, np.longdouble) else value.item()
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return _number(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else "null"
    if isinstance(value, bytes | bytearray):
        return json.dumps(value.decode("latin-1"))
    if isinstance(value, np.void) and value.dtype.names is not None:
        return None
    if isinstance(value, Mapping | list | tuple | set | frozenset | np.ndarray):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return None
    return json.dumps(value if isinstance(value, str) else str(value))


def _number(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # Python refuses to convert more than 4300 digits
        return f'"{value:#x}"'
