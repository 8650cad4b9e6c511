"""File formats: from the suffix of a path to what reads and writes its bytes."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.lib.format as npy

from polystore import csv_format
from polystore.exceptions import (
    CorruptDataError,
    StorageError,
    UnsupportedFormatError,
    VFSTypeError,
    missing_dependency,
)
from polystore.region import put_region, take_region

__all__ = [
    "DEFLATE",
    "MOST_DECODED",
    "Format",
    "check_claim",
    "format_of",
    "known_suffixes",
    "npy_array",
    "npy_size",
]

T = TypeVar("T")

ENTRY_POINT_GROUP = "polystore.formats"
_SMALL = 2**16  # bytes
_ATTEMPTS = 10
DEFLATE = 1100.0
"""More than Deflate can compress: 1032 times, and some for what lies around it."""
_SLACK = 2**24  # bytes that are believed of any file
MOST_DECODED = 2**32
"""Bytes that a small compressed file may decode to; a larger image has a file to match."""


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of file is read and written.

    Parameters
    ----------
    name : str
        What messages call it.
    suffixes : tuple of str
        With their dot, in lower case, such as ``(".tif", ".ome.tif")``.
    write : callable
        ``write(file, value)``: write the whole of a file that is open for bytes.
    read : callable
        ``read(path)``: return the value in a file.
    read_region : callable, optional
        ``read_region(path, index)``: return the part of an array that a tuple of integers,
        slices and ``...`` selects, without reading the rest where that can be.
    describe : callable, optional
        ``describe(path)``: return ``{"shape": ..., "dtype": ...}`` from the header alone.
    compressed : bool, default False
        Whether decoding is work worth a thread of its own, when a batch is loaded.
    corrupt : type, default CorruptDataError
        The error for a damaged file.
    unwritable : type, default UnsupportedFormatError
        The error for a value the format cannot hold.
    options : frozenset of str, optional
        Names of keyword arguments that `read` and `read_region` take, and so ``load``.
    rewrite : callable, optional
        ``rewrite(path, file, index, data)``: write to `file` what the file at `path` holds, with
        the part that `index` selects replaced. Without it, the array is loaded and saved.
    kept_apart : callable, optional
        ``kept_apart(path)``: name what a file holds that `read` does not return, such as a scale.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[IO[bytes], Any], None]
    read: Callable[..., Any]
    read_region: Callable[..., Any] | None = None
    describe: Callable[[str], dict[str, Any]] | None = None
    compressed: bool = False
    corrupt: type[StorageError] = CorruptDataError
    unwritable: type[StorageError] = UnsupportedFormatError
    options: frozenset[str] = frozenset()
    rewrite: Callable[[str, IO[bytes], tuple[Any, ...], Any], None] | None = None
    kept_apart: Callable[[str], list[str]] | None = None

    def load(self, path: str, index: tuple[Any, ...] | None = None, **options: Any) -> Any:
        """Return the value in a file, or the part of an array that `index` selects.

        Raises
        ------
        UnsupportedOperationError, VFSTypeError
            If a part is asked of no array, or one that the array does not have, or the format
            has no such option.
        CorruptDataError
            Or the format's own error for a damaged file, with its cause.
        """
        for option in sorted(options.keys() - self.options):
            known = f"it has {', '.join(sorted(self.options))}" if self.options else "it has none"
            raise VFSTypeError(f"{self.name} has no option {option!r} for load; {known}")
        with self.decoding():
            if index is None:
                return self.read(path, **options)
            if self.read_region is None:
                return take_region(self.read(path, **options), index)
            return self.read_region(path, index, **options)

    def header(self, path: str) -> dict[str, Any]:
        """Return what `describe` tells, nothing for a format without; errors as of `load`."""
        with self.decoding():
            return {} if self.describe is None else self.describe(path)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Raise the format's `corrupt` error for what says that a file is damaged."""
        try:
            yield
        except (StorageError, MemoryError):
            raise
        except Exception as error:
            # The system's own errors have a number; a seek to where a damaged file says may too.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise self.corrupt(
                f"the file cannot be decoded as {self.name} ({type(error).__name__}: {error})"
            ) from error

    def save(self, file: IO[bytes], value: Any) -> None:
        """Write a value, or raise the format's `unwritable` error with its cause."""
        with self._encoding(value):
            self.write(file, value)

    def save_region(self, path: str, file: IO[bytes], index: tuple[Any, ...], data: Any) -> None:
        """Write what a file holds to another, with a part of the array replaced.

        Raises
        ------
        StorageError
            As of `load`, of `put_region` and of `save`; also if something would be lost.
        """
        if self.rewrite is None:
            array = self.load(path)
            put_region(array, index, data)
            self.save(file, array)
            return
        with self.decoding():
            self.rewrite(path, file, index, data)

    def apart(self, path: str) -> list[str]:
        """Return the names of what a file holds beside the value that `load` returns."""
        if self.kept_apart is None:
            return []
        with self.decoding():
            return self.kept_apart(path)

    @contextmanager
    def _encoding(self, value: Any) -> Iterator[None]:
        try:
            yield
        except (StorageError, OSError, MemoryError):
            raise
        except Exception as error:
            raise self.unwritable(
                f"a {type(value).__name__} cannot be written as {self.name}: {error}"
            ) from error


def format_of(path: str) -> Format:
    """Return the format of a path: that of its longest known suffix, without regard to case.

    Raises
    ------
    UnsupportedFormatError
        If no format has the suffix.
    MissingDependencyError
        If the format needs a package that is not installed.
    """
    name = os.path.basename(path).lower()
    endings = [name[i:] for i, letter in enumerate(name) if letter == "."]
    known = _formats() if endings else {}
    for ending in endings:
        if ending in known:
            return known[ending]()
    raise UnsupportedFormatError(
        f"the suffix of a file names its format; the known ones are {', '.join(known_suffixes())}"
    )


def known_suffixes() -> list[str]:
    """Return every suffix that has a format, also where its package is not installed."""
    return sorted(_formats())


@cache
def _formats() -> dict[str, Callable[[], Format]]:
    """Return what gives the format of each suffix; a third party's are names of entry points."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    plugins = {point.name.lower(): partial(_imported, point, "all") for point in points}
    return {**plugins, **_BUILT_IN}


def _late(place: str, extra: str) -> Callable[[], Format]:
    """Return what imports a format whose package is optional."""
    return partial(_imported, EntryPoint("", place, ENTRY_POINT_GROUP), extra)


def _imported(point: EntryPoint, extra: str) -> Format:
    try:
        found = point.load()
    except ImportError as error:
        raise missing_dependency("the format", error, extra) from error
    except Exception as error:
        raise UnsupportedFormatError(
            f"the import of {point.value} failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Format):
        raise UnsupportedFormatError(f"{point.value} is no polystore.formats.Format")
    return found


# NumPy's arrays


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise UnsupportedFormatError(
            f"only arrays can be written, not a {type(value).__name__}; np.asarray makes one"
        )
    array = np.asanyarray(value)
    if array.dtype.hasobject:
        raise UnsupportedFormatError(
            "an array of Python objects would have to be pickled, and files hold no pickles"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise UnsupportedFormatError(
            "a masked array would lose its mask; save .data and .mask in an .npz file"
        )
    return np.asarray(array)


def _write_npy(file: IO[bytes], value: Any) -> None:
    array = _as_array(value)
    if array.nbytes > _SMALL:
        npy.write_array(file, array, allow_pickle=False)
        return
    # The same bytes in one write, which is half of what a small file costs.
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    file.write(_header(array.shape, array.dtype, order) + array.tobytes(order))


@lru_cache(maxsize=256)  # the arrays of a batch mostly share theirs
def _header(shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> bytes:
    whole = io.BytesIO()
    like = np.zeros(shape, dtype, order)
    npy.write_array(whole, like, allow_pickle=False)
    return whole.getvalue()[: whole.tell() - like.nbytes]


def _read_npy(path: str) -> Any:
    with open(path, "rb") as file:
        shape, fortran, dtype = _read_header(file, os.fstat(file.fileno()).st_size)
        count = math.prod(shape)
        array = np.fromfile(file, dtype, count)
        if array.size < count:
            raise CorruptDataError(f"the file ends after {array.size} of {count} values")
        return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _read_npy_region(path: str, index: tuple[Any, ...]) -> Any:
    with open(path, "rb") as file:
        shape, fortran, dtype = _read_header(file, os.fstat(file.fileno()).st_size)
        if not math.prod(shape):
            return take_region(np.empty(shape, dtype), index)
        order: Any = "F" if fortran else "C"
        mapped = np.memmap(file, dtype, "r", file.tell(), shape, order)
        part = take_region(mapped, index)
        # A copy of the part, so that it holds neither the file nor the whole.
        return np.array(part) if isinstance(part, np.ndarray) else part


def npy_array(data: bytes) -> Any:
    """Return the array in the bytes of an ``.npy`` file, as a view of them.

    Raises
    ------
    CorruptDataError
        If there is none in them, or one of pickled objects.
    """
    with _NPY.decoding():
        file = io.BytesIO(data)
        shape, fortran, dtype = _read_header(file, len(data))
        order: Any = "F" if fortran else "C"
        return np.ndarray(shape, dtype, data, file.tell(), order=order)


def npy_size(shape: tuple[int, ...], dtype: str) -> int | None:
    """Return the size of an ``.npy`` file of such an array, None where these do not tell."""
    try:
        like = np.dtype(dtype)
    except (TypeError, ValueError):
        return None  # of a structured dtype, the name is none
    headers = []
    for fortran_order in (False, True):
        file = io.BytesIO()
        facts = {"shape": shape, "fortran_order": fortran_order, "descr": npy.dtype_to_descr(like)}
        npy.write_array_header_1_0(file, facts)
        headers.append(file.tell())
    return headers[0] + math.prod(shape) * like.itemsize if len(set(headers)) == 1 else None


def _describe_npy(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        shape, _, dtype = _read_header(file, os.fstat(file.fileno()).st_size)
    return {"shape": shape, "dtype": str(dtype)}


def _read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and dtype, refusing more than there is before memory is taken for it."""
    version = npy.read_magic(file)
    start = file.read(2 if version == (1, 0) else 4)
    header = start + file.read(int.from_bytes(start, "little"))
    shape, fortran, dtype = _parsed_header(version, header)
    if dtype.hasobject:
        raise CorruptDataError("the file holds pickled objects, which are never loaded")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size - file.tell() or min(shape, default=0) < 0:
        raise CorruptDataError(
            f"the header claims {claimed} bytes of data, and {size - file.tell()} are there"
        )
    return shape, fortran, dtype


@lru_cache(maxsize=256)  # the files of a folder mostly share theirs
def _parsed_header(
    version: tuple[int, int], header: bytes
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0

    def parse() -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(io.BytesIO(header))
        return found

    return _parsed(parse)


def _parsed(parse: Callable[[], T]) -> T:
    """Parse, and again where CPython 3.11 took two threads that do for one (its issue 106905)."""
    for _ in range(_ATTEMPTS):
        with suppress(SystemError):
            return parse()
    return parse()


def check_claim(claimed: int, stored: int, most: float = math.inf) -> None:
    """Refuse compressed data that claims to hold far more than it could.

    Parameters
    ----------
    claimed, stored : int
        Bytes, decoded and as they are.
    most : float, optional
        How many times its size the compression can hold at most. Beyond `MOST_DECODED` bytes,
        100 times is believed of any.

    Raises
    ------
    CorruptDataError
        Before any memory is taken.
    """
    believed = max(_SLACK, most * stored)
    if claimed > min(believed, max(MOST_DECODED, 100 * stored)):
        raise CorruptDataError(
            f"{stored} bytes claim to hold {claimed}: damage, or a decompression bomb"
        )


def _write_npz(file: IO[bytes], value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UnsupportedFormatError("an .npz file holds a dict from names to arrays")
    if any("\0" in name for name in value):
        raise UnsupportedFormatError("a name in an .npz file would be cut at its NUL")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in value.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, _as_array(array), allow_pickle=False)


def _read_npz(path: str) -> dict[str, Any]:
    # Not np.load: it would try to unpickle what is no archive, and believe any header.
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        check_claim(claimed, os.fstat(file.fileno()).st_size, DEFLATE)
        return {
            member.filename.removesuffix(".npy"): _read_member(archive, member)
            for member in archive.infolist()
        }


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with archive.open(member) as file:
        _read_header(file, member.file_size)
    return _parsed(partial(_read_whole_member, archive, member))


def _read_whole_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with archive.open(member) as file:
        array = npy.read_array(file, allow_pickle=False)
        if file.read(1):  # its checksum is compared when the end is reached
            raise CorruptDataError(f"the member {member.filename!r} is longer than its array")
        return array


# Text and bytes


def _write_json(file: IO[bytes], value: Any) -> None:
    file.write(json.dumps(value, ensure_ascii=False, indent=2).encode())


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _write_csv(file: IO[bytes], value: Any) -> None:
    file.write(csv_format.dumps(value).encode())


def _read_csv(path: str) -> Any:
    return csv_format.loads(Path(path).read_bytes().decode("utf-8-sig"))


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


_NPY = Format("NumPy", (".npy",), _write_npy, _read_npy, _read_npy_region, _describe_npy)
_NPZ = Format("NumPy archive", (".npz",), _write_npz, _read_npz, compressed=True)
_JSON = Format("JSON", (".json",), _write_json, _read_json)
_CSV = Format("CSV", (".csv",), _write_csv, _read_csv)
_TEXT = Format("UTF-8 text", (".txt",), _write_text, _read_text)
_BYTES = Format("bytes", (".bin",), _write_bytes, lambda path: Path(path).read_bytes())

_BUILT_IN: dict[str, Callable[[], Format]] = {
    suffix: (lambda found=found: found)
    for found in (_NPY, _NPZ, _JSON, _CSV, _TEXT, _BYTES)
    for suffix in found.suffixes
} | {
    ".tif": _late("polystore.tiff_format:TIFF", "images"),
    ".tiff": _late("polystore.tiff_format:TIFF", "images"),
    ".png": _late("polystore.image_formats:PNG", "images"),
    ".jpg": _late("polystore.image_formats:JPEG", "images"),
    ".jpeg": _late("polystore.image_formats:JPEG", "images"),
    ".pt": _late("polystore.torch_format:TORCH", "torch"),
    ".pth": _late("polystore.torch_format:TORCH", "torch"),
}
