"""Files: the bytes as which a value of a memory appears to what knows only files."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np

from polystore.exceptions import CorruptDataError, StorageError, UnsupportedFormatError
from polystore.formats import format_of, npy_array, npy_size

__all__ = ["as_file", "file_size", "from_file"]

_NPY = ".npy"


def as_file(value: Any, path: str) -> memoryview:
    """Return the bytes of a file at `path` that holds `value`.

    Bytes are themselves. So is a plain array of bytes (uint8), unless the suffix names a format
    that holds one. Everything else is encoded as the suffix says.

    Raises
    ------
    UnsupportedFormatError
        If the suffix names no format, or one that cannot hold the value.
    MissingDependencyError
        If the format needs a package that is not installed.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return memoryview(value).cast("B")
    if _is_plain(getattr(value, "dtype", None), np.ndim(value)) and not _holds_bytes(path):
        return memoryview(value)
    file = io.BytesIO()
    format_of(path).save(file, value)
    return file.getbuffer()


def from_file(data: bytes, path: str) -> Any:
    """Return the value that appears at `path` as exactly these bytes.

    An ``.npy`` file is its array, where NumPy writes that array as the same bytes. Every other
    file is a plain array of its bytes, or, where the suffix names a format that holds one, `bytes`.
    """
    if path.lower().endswith(_NPY):
        try:
            array = npy_array(data)
            if as_file(array, path) == data:
                return array
        except (CorruptDataError, UnsupportedFormatError):
            pass
    return data if _holds_bytes(path) else np.frombuffer(data, np.uint8)


def file_size(facts: dict[str, Any], path: str) -> int | None:
    """Return the size of the file as which a value appears, None where only its encoding tells.

    Parameters
    ----------
    facts : dict
        What `stat` says of the value.
    path : str
        Where it is.
    """
    shape, dtype = facts.get("shape"), facts.get("dtype")
    if shape is None or dtype is None:
        return None
    if _is_plain(dtype, len(shape)) and not _holds_bytes(path):
        return int(shape[0])
    return npy_size(shape, dtype) if path.lower().endswith(_NPY) else None


def _is_plain(dtype: object, ndim: int) -> bool:
    return str(dtype) == "uint8" and ndim == 1


def _holds_bytes(path: str) -> bool:
    """Tell whether a plain array of bytes is encoded at a path."""
    name = path.rpartition("/")[2].lower()
    return _suffix_holds_bytes(name[name.index(".") :]) if "." in name else False


@lru_cache(maxsize=1024)
def _suffix_holds_bytes(suffix: str) -> bool:
    try:
        format_of(f"x{suffix}").save(io.BytesIO(), np.zeros(1, np.uint8))
    except StorageError:
        return False
    return True
