"""NumPy arrays: ``.npy`` files, read as a whole or in part, and the encoding of one array."""

from __future__ import annotations

import ast
import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np
import numpy.lib.format as npy

from polystore.exceptions import CorruptDataError, UnsupportedFormatError
from polystore.fitting import refuse_mask
from polystore.formats.format import Format
from polystore.formats.limits import ANY_FILE
from polystore.formats.partial_reads import read_into, read_part
from polystore.region import check_region, take_region

__all__ = ["MAGIC", "NPY", "npy_array", "npy_size", "read_array", "write_array"]

MAGIC = b"\x93NUMPY"
_SMALL = 2**16  # bytes
_LARGE = 2**24  # bytes
_MOST_OF_A_HEADER = 2**20  # bytes; a table of ten thousand columns needs half of it
_ATTEMPTS = 10
_PYTHON_2_LONG = re.compile(r"(?<=[0-9])L(?=[,)])")


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise UnsupportedFormatError(
            f"only arrays can be written, not a {type(value).__name__}; convert it with np.asarray"
        )
    array = np.asanyarray(value)
    if array.dtype.hasobject:
        raise UnsupportedFormatError(
            "an array of Python objects would need pickle, which files never contain"
        )
    if isinstance(array, np.ma.MaskedArray):
        refuse_mask(array)
    return np.asarray(array)


# Writing


def write_array(file: IO[bytes], value: Any) -> None:
    """Write an array as NumPy does.

    Raises `UnsupportedFormatError` if the value is not an array, or a load would return another
    value.
    """
    array = _as_array(value)
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    header = _header(array.shape, array.dtype, order == "F")
    if array.nbytes <= _SMALL:
        # One write call: a second one would double the time for a small file.
        file.write(header + array.tobytes(order))
        return
    if len(header) + array.nbytes >= _LARGE:
        # Otherwise ext4 finds the place of all bytes while the file takes the name of another.
        with suppress(AttributeError, OSError):  # no file, or no room, as a write will say
            os.posix_fallocate(file.fileno(), 0, len(header) + array.nbytes)
    file.write(header)
    flat = array.T if order == "F" else array
    if flat.flags.c_contiguous:
        file.write(flat.reshape(-1).view(np.uint8).data)
        return
    parts: Any = np.nditer(
        flat,
        flags=["external_loop", "buffered", "zerosize_ok"],
        buffersize=max(1, ANY_FILE // array.itemsize),
        order="C",
    )
    for part in parts:
        file.write(part.tobytes("C"))


@lru_cache(maxsize=64)  # most arrays of a batch have the same header
def _header(shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool) -> bytes:
    """Return the header of an array, in the oldest version of the format that can hold it."""
    described = npy.dtype_to_descr(npy.drop_metadata(dtype))
    if npy.descr_to_dtype(described) != dtype:
        raise UnsupportedFormatError(
            f"the dtype {dtype} would be loaded as {npy.descr_to_dtype(described)}; save the array "
            f"as another dtype with astype, or its bits with view"
        )
    facts = {"descr": described, "fortran_order": fortran, "shape": shape}
    file = io.BytesIO()
    try:
        npy.write_array_header_1_0(file, facts)
    except UnicodeEncodeError:
        file.write(_header_3_0(facts))
    except ValueError:  # longer than 64 KiB
        npy.write_array_header_2_0(file, facts)
    if file.tell() > _MOST_OF_A_HEADER:
        raise UnsupportedFormatError(
            f"the header for {len(dtype.names or ())} fields has {file.tell()} bytes; the limit is "
            f"{_MOST_OF_A_HEADER}; save the fields as separate arrays"
        )
    return file.getvalue()


def _header_3_0(facts: dict[str, Any]) -> bytes:
    text = repr(facts).encode()
    before = len(MAGIC) + 2 + 4
    text += b" " * (-(before + len(text) + 1) % npy.ARRAY_ALIGN) + b"\n"
    return npy.magic(3, 0) + len(text).to_bytes(4, "little") + text


def npy_size(shape: tuple[int, ...], dtype: str) -> int | None:
    """Return the size of an ``.npy`` file with such an array; None if it cannot be known."""
    try:
        like = np.dtype(dtype)
        sizes = {len(_header(shape, like, fortran)) for fortran in (False, True)}
    except (TypeError, ValueError):
        return None  # the name of a structured dtype is not a dtype
    return sizes.pop() + math.prod(shape) * like.itemsize if len(sizes) == 1 else None


# Reading


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def over(self, data: Any, start: int = 0) -> np.ndarray[Any, Any]:
        """Return the array whose values are in `data`."""
        order: Any = "F" if self.fortran else "C"
        return np.ndarray(self.shape, self.dtype, data, start, order=order)


def read_array(file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """Return the array at the beginning of a file that has `size` bytes.

    Raises `CorruptDataError` if the file contains no array, or less than its header declares.
    """
    header = _read_header(file, size)
    data = np.empty(header.nbytes, np.uint8)
    read_into(file, data.data)
    return header.over(data)


def npy_array(data: bytes) -> Any:
    """Return the array in the bytes of an ``.npy`` file, as a view of them.

    Raises `CorruptDataError` if the bytes contain no array, or one of pickled objects.
    """
    with NPY.decoding():
        file = io.BytesIO(data)
        return _read_header(file, len(data)).over(data, file.tell())


def _read(path: str) -> Any:
    with _opened(path) as (file, size):
        return read_array(file, size)


def _read_region(path: str, index: tuple[Any, ...]) -> Any:
    with _opened(path) as (file, size):
        header = _read_header(file, size)
        check_region(header.shape, index)
        if not header.nbytes:
            return take_region(header.over(b""), index).copy()
        return read_part(file, header.shape, header.dtype, header.fortran, index)


def _describe(path: str) -> dict[str, Any]:
    with _opened(path) as (file, size):
        header = _read_header(file, size)
    return {"shape": header.shape, "dtype": str(header.dtype)}


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], int]]:
    with open(path, "rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def _read_header(file: IO[bytes], size: int) -> _Header:
    """Read a header; refuse declared sizes beyond the file before memory is allocated."""
    version = npy.read_magic(file)
    wide = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(wide), "little")
    if length > min(size, _MOST_OF_A_HEADER):
        raise CorruptDataError(
            f"the header declares {length} bytes; the limit is {_MOST_OF_A_HEADER}"
        )
    text = file.read(length)
    if len(text) < length:
        raise CorruptDataError("the file ends within its header")
    parse = _parsed_header if length <= _SMALL else _parsed_header.__wrapped__
    header = parse(version, text)
    there = size - len(MAGIC) - 2 - wide - length
    if header.nbytes > there or min(header.shape, default=0) < 0:
        raise CorruptDataError(
            f"the header declares {header.nbytes} bytes of data; the file has {there}"
        )
    return header


@lru_cache(maxsize=256)  # most files of a folder have the same header
def _parsed_header(version: tuple[int, int], header: bytes) -> _Header:
    """Parse a header, which is a Python literal. NumPy's own reader refuses long headers."""
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise CorruptDataError(f"NumPy has no format {version[0]}.{version[1]}")
    text = header.decode("utf-8" if version == (3, 0) else "latin-1").strip()
    try:
        facts = _literal(text)
    except SyntaxError:
        facts = _literal(_PYTHON_2_LONG.sub("", text))
    except (MemoryError, RecursionError) as error:  # the nesting exceeds the parser's stack
        raise CorruptDataError(f"the header is nested too deeply: {text[:40]!r} ...") from error
    if not isinstance(facts, dict) or facts.keys() != {"descr", "fortran_order", "shape"}:
        raise CorruptDataError(f"the header does not describe an array: {text[:80]!r}")
    shape, fortran = facts["shape"], facts["fortran_order"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise CorruptDataError(f"the header has no valid shape and order: {text[:80]!r}")
    if not all(type(side) is int for side in shape):
        raise CorruptDataError(f"the shape is invalid: {str(shape)[:80]}")
    dtype = npy.descr_to_dtype(facts["descr"])
    if dtype.hasobject:
        raise CorruptDataError("the file holds pickled objects, which are never loaded")
    if not dtype.itemsize and math.prod(shape) > ANY_FILE:
        raise CorruptDataError(f"the header declares {math.prod(shape)} values of size 0")
    return _Header(shape, fortran, dtype)


def _literal(text: str) -> Any:
    """Parse; retry if CPython 3.11 confuses two parsing threads (its issue 106905)."""
    for _ in range(_ATTEMPTS):
        with suppress(SystemError):
            return ast.literal_eval(text)
    return ast.literal_eval(text)


NPY = Format("NumPy", (".npy",), write_array, _read, _read_region, _describe)
