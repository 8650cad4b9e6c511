"""Files: the bytes of a value of the memory for programs that know only files."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from polystore.exceptions import (
    CorruptDataError,
    MissingDependencyError,
    StorageError,
    StorageWriteError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.formats import format_of, npy_array, npy_size

__all__ = ["NO_FILE", "as_file", "file_size", "from_file"]

NO_FILE = (
    CorruptDataError,
    MissingDependencyError,
    StorageWriteError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
"""The errors of a value that cannot be written as a file, or not in this process."""

_NPY = ".npy"
_BY_KIND = (
    (np.ndarray, _NPY),
    (str, ".txt"),
    ((dict, list, int, float, bool, type(None)), ".json"),
)


def as_file(value: Any, path: str) -> memoryview:
    """Return the bytes of a file at `path` that holds `value`.

    Bytes are themselves. So is a plain array of bytes (uint8), unless the suffix names a format
    that holds one. Everything else is encoded as the suffix says. Where that says nothing, arrays
    are encoded as ``.npy``, text as ``.txt``, what JSON holds as ``.json``, and the rest as a
    pickle.

    Raises `UnsupportedFormatError` if the suffix names a format that cannot hold the value;
    `MissingDependencyError` if the format needs a package that is not installed.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return memoryview(value).cast("B")
    if _is_plain(getattr(value, "dtype", None), np.ndim(value)) and not _holds_bytes(path):
        return memoryview(value)
    if _has_format(path):
        return _encoded(value, path)
    for kind, suffix in _BY_KIND:
        if isinstance(value, kind):
            with suppress(StorageError):  # such as an array of objects
                return _encoded(value, f"x{suffix}")
    return memoryview(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))


def _encoded(value: Any, path: str) -> memoryview:
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

    - `facts`: what `stat` says of the value
    """
    shape, dtype = facts.get("shape"), facts.get("dtype")
    if shape is None or dtype is None:
        return None
    if _is_plain(dtype, len(shape)) and not _holds_bytes(path):
        return int(shape[0])
    is_npy = path.lower().endswith(_NPY) or not _has_format(path)
    return npy_size(shape, dtype) if is_npy and str(dtype) != "object" else None


def _has_format(path: str) -> bool:
    try:
        format_of(path)
    except UnsupportedFormatError:
        return False
    return True


def _is_plain(dtype: object, ndim: int) -> bool:
    return str(dtype) == "uint8" and ndim == 1


def _holds_bytes(path: str) -> bool:
    """Return whether a plain array of bytes is encoded at a path."""
    name = path.rpartition("/")[2].lower()
    return _suffix_holds_bytes(name[name.index(".") :]) if "." in name else False


@lru_cache(maxsize=1024)
def _suffix_holds_bytes(suffix: str) -> bool:
    try:
        format_of(f"x{suffix}").save(io.BytesIO(), np.zeros(1, np.uint8))
    except StorageError:
        return False
    return True
