"""Text and bytes: ``.json``, ``.csv``, ``.txt`` and ``.bin``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from polystore.exceptions import UnsupportedFormatError
from polystore.formats import csv
from polystore.formats.format import Format
from polystore.formats.partial_reads import read_part
from polystore.region import check_region

__all__ = ["BYTES", "CSV", "JSON", "TEXT"]


def _write_json(file: IO[bytes], value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False, indent=2, default=_not_json).encode())


def _not_json(part: Any) -> NoReturn:
    kind = type(part).__name__
    if hasattr(part, "tolist"):  # an array or a scalar of NumPy, or of a library like it
        raise UnsupportedFormatError(
            f"JSON holds Python's numbers and lists, not a {kind} of NumPy; save its .tolist()"
        )
    if hasattr(part, "to_dict"):
        raise UnsupportedFormatError(
            f"JSON holds no {kind}; save its .to_dict(), or a table's .to_dict('records')"
        )
    raise UnsupportedFormatError(
        f"JSON holds dicts, lists, text, numbers, booleans and None, not a {kind}"
    )


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _write_csv(file: IO[bytes], value: Any) -> None:
    file.write(csv.dumps(value).encode())


def _read_csv(path: str) -> Any:
    return csv.loads(Path(path).read_bytes().decode("utf-8-sig"))


def _write_text(file: IO[bytes], value: Any) -> None:
    if not isinstance(value, str):
        raise UnsupportedFormatError(f"a .txt file holds a str, not a {type(value).__name__}")
    file.write(value.encode())


def _read_text(path: str) -> str:
    return Path(path).read_bytes().decode()


def _write_bytes(file: IO[bytes], value: Any) -> None:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise UnsupportedFormatError(f"a .bin file holds bytes, not a {type(value).__name__}")
    file.write(value)


def _read_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _read_some_bytes(path: str, index: tuple[Any, ...]) -> Any:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        check_region((size,), index)
        return read_part(file, (size,), np.dtype("uint8"), False, index).tobytes()


JSON = Format("JSON", (".json",), _write_json, _read_json)
CSV = Format("CSV", (".csv",), _write_csv, _read_csv)
TEXT = Format("UTF-8 text", (".txt",), _write_text, _read_text)
BYTES = Format("bytes", (".bin",), _write_bytes, _read_bytes, _read_some_bytes)
