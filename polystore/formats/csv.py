"""CSV that a load returns as it was saved: lists of dicts or of lists, numbers as numbers.

The text is plain CSV (RFC 4180, UTF-8). Quotes, which other readers ignore, carry the types: a
first row with all fields quoted is a header, and a quoted field is always text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np

from polystore.exceptions import CorruptDataError, UnsupportedFormatError

__all__ = ["dumps", "loads"]

# Possessive: backtracking from an unclosed quote would use memory for each character.
_FIELD = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*+))(,|\r\n|\n|\r|\Z)')
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*+)")
# Floats as programs write them: "1.50", "1e-05", "1E+05". Others may be codes: "007", "1e3".
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-][0-9]{2,3})?")
_MOST_DIGITS = 4300  # Python refuses to convert longer integers
_SPECIAL = ',"\r\n\ufeff'  # at the start of a file, the last is a byte order mark
_WORDS = {
    "": None,
    # As pandas, R and spreadsheets write them
    **dict.fromkeys(("NA", "#N/A", "<NA>")),
    **dict.fromkeys(("True", "TRUE"), True),
    **dict.fromkeys(("False", "FALSE"), False),
    **dict.fromkeys(("nan", "NaN"), math.nan),
    **dict.fromkeys(("inf", "Inf"), math.inf),
    **dict.fromkeys(("-inf", "-Inf"), -math.inf),
}


def dumps(table: Any) -> str:
    """Return a table as CSV.

    Parameters
    ----------
    table : list of dict or list of list, or str
        The dicts must have the same keys. Cells are text, integers, floats, booleans and None.
        A `str` is the CSV itself, as ``DataFrame.to_csv()`` returns it.

    Raises
    ------
    UnsupportedFormatError
        If the value is not such a table, or a load would return another value.
    """
    if isinstance(table, str):
        return _checked(table)
    rows: list[Any] = list(table) if isinstance(table, list | tuple) else [None]
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(rows[0])
        if any(list(row) != names for row in rows) or not names:
            raise UnsupportedFormatError(
                "all dicts of a CSV must have the same keys, in the same order"
            )
        header = [",".join(_quoted(_text(name)) for name in names)]
        return "".join(f"{line}\r\n" for line in (*header, *_lines(row.values() for row in rows)))
    if hasattr(table, "to_csv"):
        raise UnsupportedFormatError(
            "a CSV holds no table of pandas; save table.to_csv(index=False), which is text, or "
            "table.to_dict('records')"
        )
    if not all(isinstance(row, list | tuple) and row for row in rows):
        raise UnsupportedFormatError(
            "a CSV holds a list of dicts, a list of lists, none empty, or CSV text"
        )
    lines = list(_lines(rows))
    if lines and _parsed(lines[0])[0]:
        raise UnsupportedFormatError(
            "all cells of the first row need quotes, so a load would take it for a header; "
            "save a list of dicts"
        )
    return "".join(f"{line}\r\n" for line in lines)


def _checked(text: str) -> str:
    """Return a text that `loads` can open."""
    try:
        loads(text)
    except CorruptDataError as error:
        raise UnsupportedFormatError(f"the text is not CSV: {error}") from error
    return text


def loads(text: str) -> list[dict[str, Any]] | list[list[Any]]:
    """Return the table in a CSV: a list of dicts if it has a header with quoted fields.

    Raises
    ------
    CorruptDataError
        If a quote is not closed, or a row has another length than the header.
    """
    quoted, rows = _parsed(text)
    if not quoted:
        return rows
    names = _distinct(rows.pop(0))
    table: list[Any] = rows
    for number, row in enumerate(rows):  # in place, so that no row is in memory twice
        if len(row) != len(names):
            raise CorruptDataError(
                f"row {number + 2} has {len(row)} cells under {len(names)} names"
            )
        table[number] = dict(zip(names, row, strict=True))
    return table


def _distinct(names: list[str]) -> list[str]:
    """Return unique names: a second "a" becomes "a.1", as in pandas and R."""
    taken, repeated = set(names), {name: count(1) for name in names}
    found: list[str] = []
    seen: set[str] = set()
    for name in names:
        other = name
        while other in (taken if name in seen else seen):
            other = f"{name}.{next(repeated[name])}"
        seen.add(name)
        taken.add(other)
        found.append(other)
    return found


def _lines(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    for row in rows:
        yield ",".join(_cell(value) for value in row)


def _cell(value: Any) -> str:
    if (
        isinstance(value, np.generic) and value.dtype.kind not in "mM"
    ):  # whose item() may be an integer
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, bool):
        return repr(value)
    for number in (int, float):
        if isinstance(value, number):
            return number.__repr__(value)  # not repr(), which shows the name of an enum member
    text = _text(value)
    plain = not any(c in text for c in _SPECIAL) and _value(False, text) == text
    return text if plain else _quoted(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnsupportedFormatError(
            f"cells of a CSV are text or numbers, not a {type(value).__name__}; save str(value)"
        )
    return value


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _value(quoted: bool, cell: str) -> Any:
    """Return the value of a cell: quoted text, or a number or word without quotes."""
    if quoted:
        return cell
    if cell in _WORDS:
        return _WORDS[cell]
    if _INTEGER.fullmatch(cell):
        return int(cell) if len(cell) <= _MOST_DIGITS else cell
    return float(cell) if _FLOAT.fullmatch(cell) else cell


def _parsed(text: str) -> tuple[bool, list[list[Any]]]:
    """Return whether every field of the first row is quoted, and the rows of values."""
    header = True
    rows: list[list[Any]] = []
    row: list[Any] = []
    at = 0
    while at < len(text) or row:
        match = _FIELD.match(text, at)
        if match is None:
            raise CorruptDataError(f"row {len(rows) + 1} has a misplaced quote")
        quoted, plain, end = match.groups()
        if quoted is None:
            header = header and bool(rows)
            row.append(_value(False, plain))
        else:
            row.append(quoted.replace('""', '"'))
        at = match.end()
        if end != ",":
            rows.append(row.copy())  # a copy has no spare capacity
            row.clear()
    return header and bool(rows), rows
