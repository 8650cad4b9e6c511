"""CSV that comes back as it was saved: lists of dicts or of lists, numbers as numbers.

The text is plain CSV (RFC 4180, UTF-8). What its readers ignore carries the rest: a first row whose
every field is quoted is a header, and a quoted field is text whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from polystore.exceptions import CorruptDataError, UnsupportedFormatError

__all__ = ["dumps", "loads"]

_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)')
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_SPECIAL = ',"\r\n\ufeff'  # at the beginning of a file the last would be read as a mark
_WORDS = {"": None, "True": True, "False": False}


def dumps(table: Any) -> str:
    """Return a table as CSV.

    Parameters
    ----------
    table : list of dict or list of list
        The dicts all have the same keys. Cells are text, integers, floats, booleans and None.

    Raises
    ------
    UnsupportedFormatError
        If it is another value, or would not come back as it is.
    """
    rows: list[Any] = list(table) if isinstance(table, list | tuple) else [None]
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(rows[0])
        if any(list(row) != names for row in rows) or not names:
            raise UnsupportedFormatError("the dicts of a CSV all have the same keys, in one order")
        header = [",".join(_quoted(_text(name)) for name in names)]
        return "".join(f"{line}\r\n" for line in (*header, *_lines(row.values() for row in rows)))
    if not all(isinstance(row, list | tuple) and row for row in rows):
        raise UnsupportedFormatError("a CSV holds a list of dicts or a list of lists, none empty")
    lines = list(_lines(rows))
    if lines and all(quoted for quoted, _ in _parsed(lines[0])[0]):
        raise UnsupportedFormatError(
            "every cell of the first row has to be quoted, so it would come back as a header; "
            "save a list of dicts"
        )
    return "".join(f"{line}\r\n" for line in lines)


def loads(text: str) -> list[dict[str, Any]] | list[list[Any]]:
    """Return the table in a CSV: dicts where it has a header whose fields are quoted.

    Raises
    ------
    CorruptDataError
        If a quote is not closed, or rows of a table with a header differ in length.
    """
    rows = _parsed(text)
    if not rows or not all(quoted for quoted, _ in rows[0]):
        return [[_value(quoted, cell) for quoted, cell in row] for row in rows]
    names = [cell for _, cell in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise CorruptDataError(f"row {number} has {len(row)} cells under {len(names)} names")
    return [
        dict(zip(names, (_value(quoted, cell) for quoted, cell in row), strict=True))
        for row in rows[1:]
    ]


def _lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    for row in rows:
        yield ",".join(_cell(value) for value in row)


def _cell(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, bool):
        return repr(value)
    for number in (int, float):
        if isinstance(value, number):
            return number.__repr__(value)  # a member of an enum would show its name
    text = _text(value)
    plain = not any(c in text for c in _SPECIAL) and _value(False, text) == text
    return text if plain else _quoted(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnsupportedFormatError(
            f"the cells of a CSV are text and numbers, not a {type(value).__name__}"
        )
    return value


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _value(quoted: bool, cell: str) -> Any:
    """Return a cell as it was: a quoted one is text, another may be a number or a word."""
    if quoted:
        return cell
    if cell in _WORDS:
        return _WORDS[cell]
    if _INTEGER.fullmatch(cell):
        return int(cell)
    try:
        number = float(cell)
    except ValueError:
        return cell
    # Only what a float is written as: "1e3", "007.5" and "1_0" may be codes.
    return number if repr(number) == cell else cell


def _parsed(text: str) -> list[list[tuple[bool, str]]]:
    """Return the rows of fields, each with whether it was quoted."""
    rows: list[list[tuple[bool, str]]] = []
    row: list[tuple[bool, str]] = []
    at = 0
    while at < len(text) or row:
        match = _FIELD.match(text, at)
        if match is None:
            raise CorruptDataError(f"row {len(rows) + 1} has a quote that is out of place")
        quoted, plain, end = match.groups()
        row.append((False, plain) if quoted is None else (True, quoted.replace('""', '"')))
        at = match.end()
        if end != ",":
            rows.append(row)
            row = []
    return rows
