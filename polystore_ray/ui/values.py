"""What the page shows of one value: its facts, and how the value itself is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from polystore import FileManager, StorageError
from polystore.exceptions import CorruptDataError, PathNotFoundError
from polystore.formats import csv
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.interop.json_text import json_pieces
from polystore_ray.interop.stored_files import is_raw
from polystore_ray.ui.pictures import is_colour, is_drawn, is_labels
from polystore_ray.ui.reading import Place

__all__ = ["described"]

_MOST_OPENED = 8 * 2**20  # bytes of a value that can only be opened whole
_MOST_TEXT = 2**16  # bytes or characters
_MOST_ROWS = 100
_MOST_COLUMNS = 50
_MOST_CELL = 200  # characters
_HEX_BYTES = 512
_NEVER_OPENED = (".pt", ".pth")  # which hold pickles

Shown = dict[str, Any]


def described(fm: FileManager, place: Place) -> dict[str, Any]:
    """Return the facts about a path, and what is shown of its value.

    ``shown`` has one of the keys ``image``, ``table``, ``text`` and ``note``.
    """
    facts: dict[str, Any] = {**fm.stat(place.path, place.backend)}
    if facts["type"] == "missing":
        raise PathNotFoundError("no such file or directory", path=place.path, backend=place.backend)
    backend = fm.registry[place.backend]
    if isinstance(backend, ClusterMemoryBackend) and facts["type"] == "file":
        facts |= backend.why(place.path)
    try:
        shown = _shown(fm, place, facts)
    except StorageError as error:
        shown = {"note": str(error)}
    return {"facts": facts, "shown": shown}


def _shown(fm: FileManager, place: Place, facts: Mapping[str, Any]) -> Shown:
    if facts.get("lost"):
        return {"note": f"The value is lost: {facts['lost']}"}
    if fm.is_dir(place.path, place.backend):
        return {"note": "A directory"}
    if facts.get("shape") is not None and "dtype" in facts:
        return _array(fm, place, facts["shape"], str(facts["dtype"]))
    if place.path.lower().endswith(_NEVER_OPENED):
        return {"note": "The page does not open files of torch, which hold pickles"}
    if is_raw(fm.registry[place.backend]):
        return _file(fm, place, facts)
    if (facts.get("size") or 0) > _MOST_OPENED:
        return {"note": "The value is too large to be opened here"}
    return _value(fm.load(place.path, place.backend))


def _array(fm: FileManager, place: Place, shape: tuple[int, ...], dtype: str) -> Shown:
    if is_drawn(shape, dtype):
        image = {"colour": is_colour(shape, dtype), "labels": is_labels(dtype)}
        return {"image": image | {"shape": shape}}
    part = (slice(0, _MOST_ROWS), slice(0, _MOST_COLUMNS))[: len(shape)]
    array = np.asarray(fm.load(place.path, place.backend, region=part))
    if array.dtype.names is not None and array.ndim == 1:
        return _table(array.dtype.names, (tuple(row) for row in array))
    if array.ndim in (1, 2):
        return _table(None, array.reshape(len(array), -1))
    return {"text": str(array)}


def _file(fm: FileManager, place: Place, facts: Mapping[str, Any]) -> Shown:
    """Show the beginning of a file, of which no more is read."""
    name = place.path.lower()
    if name.endswith(".npz") and facts.get("size", 0) <= _MOST_OPENED:
        arrays = fm.load(place.path, place.backend).items()
        rows = ((name, array.shape, str(array.dtype)) for name, array in arrays)
        return _table(("name", "shape", "dtype"), rows)
    if facts.get("series", 1) > 1:
        return {"note": f"The file holds {facts['series']} images"}
    data = fm.load(place.path, place.backend, suffix=".bin", region=(slice(0, _MOST_TEXT + 1),))
    if name.endswith(".csv"):
        text = data.decode("utf-8-sig", errors="replace")
        whole = text if len(data) <= _MOST_TEXT else text[: text.rfind("\n") + 1]
        with suppress(CorruptDataError):  # also if the end is within quotes
            return _rows(csv.loads(whole))
    return _bytes(data)


def _value(value: Any) -> Shown:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes | bytearray):
        return _bytes(bytes(value))
    if isinstance(value, list) and any({*map(type, value)} == {kind} for kind in (dict, list)):
        return _rows(value)
    return _text(_beginning(json_pieces(value, indent=2), _MOST_TEXT))


def _bytes(data: bytes) -> Shown:
    try:
        # The end may be in the middle of a character.
        text = data.decode() if len(data) <= _MOST_TEXT else data.decode(errors="ignore")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return _text(text, is_cut=len(data) > _MOST_TEXT)
    lines = (data[at : at + 16].hex(" ") for at in range(0, min(len(data), _HEX_BYTES), 16))
    return {"text": "\n".join(lines), "note": f"The first {_HEX_BYTES} bytes"}


def _text(text: str, *, is_cut: bool = False) -> Shown:
    if len(text) <= _MOST_TEXT and not is_cut:
        return {"text": text}
    return {"text": text[:_MOST_TEXT], "note": "Only the beginning is shown"}


def _rows(rows: list[Any]) -> Shown:
    first = rows[:_MOST_ROWS]
    if not all(isinstance(row, dict) for row in first):
        return _table(None, first)
    names = list(dict.fromkeys(name for row in first for name in row))
    return _table(names, ([row.get(name) for name in names] for row in first))


def _table(names: Iterable[Any] | None, rows: Iterable[Iterable[Any]]) -> Shown:
    cells = [[_cell(cell) for cell in islice(row, _MOST_COLUMNS)] for row in rows]
    header = None if names is None else [_cell(name) for name in islice(names, _MOST_COLUMNS)]
    return {"table": {"names": header, "rows": cells}}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _beginning(json_pieces(value), _MOST_CELL)
    return text if len(text) <= _MOST_CELL else f"{text[:_MOST_CELL]}…"


def _beginning(pieces: Iterable[str], most: int) -> str:
    """Return the first pieces of a text, as soon as they are longer than `most`."""
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > most:
            break
    return text
