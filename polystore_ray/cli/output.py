"""Output of the command line: text for people, JSON for programs.

All text is printed by `say`, which escapes control characters.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import click
import numpy as np

from polystore import StorageError
from polystore_ray.cli.escaping import shown
from polystore_ray.cli.failure import Failed
from polystore_ray.interop.json_text import json_pieces

__all__ = [
    "aligned",
    "fields",
    "human_bytes",
    "moment",
    "print_json",
    "print_value",
    "progress_bar",
    "say",
]

_PIECES_PER_WRITE = 4096

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def say(line: str = "") -> None:
    """Print a line with control characters escaped."""
    click.echo(shown(line))


def human_bytes(count: int | None) -> str:
    """Return a number of bytes with a unit.

    Examples
    --------
    >>> human_bytes(1536)
    '1.5 KiB'
    """
    if count is None:
        return "-"
    if not isinstance(count, int | float):  # a third-party backend may return anything
        return str(count)
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def moment(seconds: float | None) -> str:
    """Return a time, given in seconds since the epoch, as local date and time."""
    if seconds is None:
        return "-"
    try:
        return dt.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, TypeError, ValueError):  # beyond the years of datetime
        return f"{seconds} s after 1970"


def aligned(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in aligned columns; the last column is not padded."""
    table = [[*map(shown, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in table), strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        say("  ".join([*cells, row[-1]]))


def fields(facts: dict[str, Any]) -> None:
    """Print one fact per line; sizes with a unit, times as date and time."""
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):<{width}}  {_fact(name, value)}")


def _fact(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if name in ("size", "bytes") or name.endswith("_bytes"):
        text = human_bytes(value)
        return f"{text} ({value})" if text != f"{value} B" else text
    if name == "modified":
        return moment(value)
    if isinstance(value, tuple | list) and name != "shape":
        return ", ".join(map(str, value)) or "-"
    return str(value)


def print_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON document, on one line unless `indent` is given."""
    with _printed():
        pieces = json_pieces(value, indent)
        while text := "".join(islice(pieces, _PIECES_PER_WRITE)):
            click.echo(text, nl=False)
        click.echo()


@contextmanager
def _printed() -> Iterator[None]:
    """Report an error from printing a value in one line."""
    try:
        yield
    except (StorageError, click.ClickException, OSError):
        raise
    except Exception as error:
        # Any exception: a value is printed by the methods of its own class.
        raise Failed(
            f"the value cannot be printed ({type(error).__name__}: {error}); load it in Python"
        ) from error


def print_value(value: Any, *, as_json: bool) -> None:
    """Print a stored value: bytes and text unchanged, arrays as NumPy shows them, else JSON.

    On a terminal, control characters in bytes and text are escaped.
    """
    if as_json:
        print_json(value)
    elif isinstance(value, bytes | bytearray | str) and sys.stdout.isatty():
        text = value if isinstance(value, str) else value.decode(errors="backslashreplace")
        click.echo(shown(text, kept="\n\t"), nl=False)
    elif isinstance(value, bytes | bytearray):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
    elif isinstance(value, str):
        sys.stdout.write(value)  # `click.echo` removes escape sequences
    elif isinstance(value, np.ndarray):
        with _printed():
            lines = [f"array {value.shape} {value.dtype}", *str(value).splitlines()]
        for line in lines:
            say(line)
    else:
        print_json(value, indent=2)


@contextmanager
def progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows how much is done, on standard error if it is a terminal."""
    hidden = hidden or not sys.stderr.isatty()
    with click.progressbar(
        length=1, label=label, file=sys.stderr, hidden=hidden, show_pos=True
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
