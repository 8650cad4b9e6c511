"""Output of the command line: text for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import numpy as np

__all__ = [
    "aligned",
    "fields",
    "human_bytes",
    "moment",
    "print_json",
    "print_value",
    "say",
    "shown",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def say(line: str = "") -> None:
    """Print a line."""
    click.echo(line)


def shown(name: str) -> str:
    """Return a name as a terminal can show it, whatever characters are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def human_bytes(count: int | None) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> human_bytes(1536)
    '1.5 KiB'
    """
    if count is None:
        return "-"
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def moment(seconds: float | None) -> str:
    """Return a time, given in seconds since the epoch, as people read it."""
    if seconds is None:
        return "-"
    return dt.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def aligned(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns; the last one is left ragged."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in table), strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        say("  ".join([*cells, row[-1]]))


def fields(facts: dict[str, Any]) -> None:
    """Print facts, one a line; sizes and times as people read them."""
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):<{width}}  {shown(_fact(name, value))}")


def _fact(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if name in ("size", "bytes") or name.endswith("_bytes"):
        return f"{human_bytes(value)} ({value})" if value > 1023 else human_bytes(value)
    if name == "modified":
        return moment(value)
    if isinstance(value, tuple | list) and name != "shape":
        return ", ".join(map(str, value)) or "-"
    return str(value)


def print_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON document; on one line, unless it is to be indented."""
    say(json.dumps(value, default=_as_json, indent=indent))


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "dtype": str(value.dtype), "values": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes | bytearray):
        return value.decode("latin-1")
    if isinstance(value, set | frozenset | range):
        return list(value)
    return str(value)


def print_value(value: Any, *, as_json: bool) -> None:
    """Print a value that was stored: bytes and text as they are, arrays as NumPy shows them."""
    if as_json:
        print_json(value)
    elif isinstance(value, bytes | bytearray):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
    elif isinstance(value, str):
        click.echo(value, nl=False)
    elif isinstance(value, np.ndarray):
        say(f"array {value.shape} {value.dtype}")
        say(str(value))
    else:
        print_json(value, indent=2)
