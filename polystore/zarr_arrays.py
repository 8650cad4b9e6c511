"""Zarr arrays, wherever they lie: what is one, how it is created, read and written into."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from polystore.attempts import MOST_ATTEMPTS
from polystore.exceptions import (
    CorruptDataError,
    StorageError,
    StorageResolutionError,
    UnsupportedFormatError,
)
from polystore.fitting import refuse_mask
from polystore.formats import MOST_DECODED, check_claim
from polystore.region import Region, check_region, forward
from polystore.zarr_codecs import guarded

__all__ = [
    "DEFAULTS",
    "DOTTED",
    "GROUP",
    "METADATA",
    "SLASHED",
    "ArrayOptions",
    "Encoding",
    "Mode",
    "as_numbers",
    "described",
    "is_chunk",
    "node_type",
    "open_array",
    "open_node",
    "read_array",
    "write_part",
]

Mode = Literal["r", "r+"]
Encoding = Mapping[str, str]
"""How the key of a chunk is made, as `zarr.create_array` takes it."""

_OF_NO_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_MOST_AXES = 64  # of an array of NumPy
_FEW = 100_000  # chunks that are looked for even if nearly all are missing
_STORED = 8  # bytes that each of more chunks takes at least
METADATA = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()

# Two ways to name chunks that share no name.
SLASHED: Encoding = {"name": "default", "separator": "/"}
DOTTED: Encoding = {"name": "v2", "separator": "."}

_CHUNK = 2**20  # bytes, about
_SLASHED_NAME = re.compile(r"c(/[0-9]+)*")
_DOTTED_NAME = re.compile(r"[0-9]+(\.[0-9]+)*")
_CHUNK_NAME = re.compile(r"(c|[0-9]+)([./][0-9]+)*")  # of any way that zarr knows
_KINDS = "biufc"  # numbers, which every reader of zarr knows


def as_numbers(data: Any) -> np.ndarray[Any, Any] | None:
    """Return `data` as the array that zarr stores, None for what is no array of numbers."""
    if np.ma.isMaskedArray(data):
        refuse_mask(data)
    if not isinstance(data, np.ndarray | np.generic):
        return None
    array = np.asarray(data)
    return array if array.dtype.kind in _KINDS else None


def is_chunk(name: str, encoding: Encoding | None = None) -> bool:
    """Tell whether a key, from that of its array on, is one of a chunk; by default in any way.

    Nothing else of a hierarchy has such a key: arrays and groups have metadata, and files a suffix.
    """
    if encoding is None:
        return _CHUNK_NAME.fullmatch(name) is not None
    pattern = _DOTTED_NAME if encoding is DOTTED else _SLASHED_NAME
    return pattern.fullmatch(name) is not None


def node_type(metadata: bytes) -> str | None:
    """Return what the bytes of a ``zarr.json`` say there is, None where they cannot be read."""
    found = described(metadata).get("node_type")
    return found if isinstance(found, str) else None


def described(metadata: bytes | None) -> dict[str, Any]:
    """Return what metadata say, {} where there are none, or they cannot be read."""
    try:
        read = json.loads(metadata or b"")
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


@dataclass(frozen=True, slots=True)
class ArrayOptions:
    """How an array is stored; each option as `zarr.create_array` takes it.

    Parameters
    ----------
    chunks, shards : tuple of int, optional
        Shapes; by default chunks of about 1 MiB, and no shards.
    compressors, filters : optional
        Codecs.
    fill_value : scalar, optional
        The value of chunks that were never written.
    attributes : mapping, optional
        The array's attributes; by default those of the array that is replaced.
    """

    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    compressors: Any = "auto"
    filters: Any = "auto"
    fill_value: Any = None
    attributes: Mapping[str, Any] | None = None

    def write(
        self,
        store: Store | str,
        array: np.ndarray[Any, Any],
        *,
        replaced: Mapping[str, Any],
        encoding: Encoding | None = None,
    ) -> None:
        """Write a new array into an empty store.

        Parameters
        ----------
        store : zarr.abc.store.Store or str
            Where; a directory, or a store of this array alone.
        array : numpy.ndarray
            What.
        replaced : mapping
            The attributes of the array whose place it takes.
        encoding : mapping, optional
            How the keys of its chunks are made.

        Raises
        ------
        UnsupportedFormatError
            If zarr refuses the options.
        """
        attributes = replaced if self.attributes is None else self.attributes
        try:
            created = zarr.create_array(
                store=store,
                shape=array.shape,
                dtype=array.dtype,
                chunks=self.chunks or _chunks(array.shape, array.dtype.itemsize, self.shards),
                shards=self.shards,
                compressors=self.compressors,
                filters=self.filters,
                fill_value=self.fill_value,
                attributes=dict(attributes),
                chunk_key_encoding=encoding,  # type: ignore[arg-type]
            )
            if array.size:
                created[...] = array
        except StorageError:
            raise
        except (TypeError, ValueError) as error:
            raise UnsupportedFormatError(f"zarr refused the array: {error}") from error


DEFAULTS = ArrayOptions()


def open_node(store: Store | str, mode: Mode) -> zarr.Array[Any] | zarr.Group:
    """Return the array or the group in a store; nothing is made.

    Raises
    ------
    UnsupportedFormatError
        If there is neither.
    CorruptDataError
        If its metadata is damaged.
    """
    with _damage("it cannot be opened"):
        try:
            opened: Any = zarr.open(store=store, mode=mode)
        except FileNotFoundError as error:
            raise UnsupportedFormatError("the directory is not a zarr group") from error
        return _checked(opened) if isinstance(opened, zarr.Array) else opened


def open_array(store: Store | str, mode: Mode = "r") -> zarr.Array[Any]:
    """Return the array in a store.

    Raises
    ------
    CorruptDataError
        If its metadata is damaged.
    """
    with _damage("the zarr array cannot be opened"):
        return _checked(zarr.open_array(store=store, mode=mode))


def _checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array that NumPy can make, with codecs that can be trusted."""
    size = math.prod(side for side in array.shape if side) * array.dtype.itemsize
    if array.ndim > _MOST_AXES or size > sys.maxsize:
        raise ValueError(f"no array has the shape {array.shape} and the dtype {array.dtype}")
    return guarded(array)


def read_array(store: Store, region: Region | None, stored: Callable[[], int]) -> Any:
    """Return the array in a store, or a part of it; no more chunks than that touches are read.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where.
    region : int, slice, ... or tuple of them, optional
        The part.
    stored : callable
        Returns the bytes that are stored; called only if the array claims to be very large.

    Raises
    ------
    VFSTypeError
        If the array has no such part.
    CorruptDataError
        If its metadata or a chunk is damaged.
    StorageResolutionError
        If others change its shards all the time.
    """
    for _ in range(MOST_ATTEMPTS):
        watched = _Watched(store)
        try:
            value = _read(open_array(watched), region, stored)
        except CorruptDataError:
            if sync(watched.is_unchanged()):
                raise
        else:
            if sync(watched.is_unchanged()):
                return value
    raise StorageResolutionError("the array is changed faster than it can be read")


def _read(array: zarr.Array[Any], region: Region | None, stored: Callable[[], int]) -> Any:
    part = ... if region is None else region
    check_region(array.shape, part)
    index, turn = forward(array.shape, part)
    stored = cache(stored)  # it looks at every file
    if region is None and array.nbytes > MOST_DECODED:
        check_claim(array.nbytes, stored())
    touched = math.prod(map(_touched, index, array.chunks))
    at_once = min(touched, zarr.config.get("async.concurrency") or 1)
    decoded = at_once * math.prod(array.chunks) * array.dtype.itemsize
    if decoded > MOST_DECODED:
        check_claim(decoded, stored())
    if touched > _FEW and touched * _STORED > stored():
        raise CorruptDataError(
            f"{touched} chunks are to be in {stored()} bytes: damage, or next to nothing, of "
            f"which a smaller region= can be loaded"
        )
    with _damage("a chunk cannot be decoded"):
        return np.asarray(array[index])[turn]


def write_part(array: zarr.Array[Any], part: Any, values: Any) -> None:
    """Write into a part of an array, and keep the rest of the chunks that it touches.

    Raises
    ------
    CorruptDataError
        If one of those is damaged. It stays as it is; a part that covers all of it mends it.
    """
    with _damage("a chunk that the region covers in part cannot be decoded"):
        array[part] = values


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Let errors of zarr and its codecs out as damage; those of the system are none, nor ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        # What a codec raises has no number, even if it is an OSError as that of gzip.
        if isinstance(error, OSError) and error.errno not in _OF_NO_FILE:
            raise
        raise CorruptDataError(f"{what} ({error})") from error


def _touched(part: int | slice, side: int) -> int:
    """Return how many chunks of this side a part of an axis touches at most."""
    if not isinstance(part, slice):
        return 1
    side = max(1, side)
    return 0 if part.stop == part.start else (part.stop - 1) // side - part.start // side + 1


class _Watched(WrapperStore[Store]):
    """A store that notices shards which change while they are read, the index before the chunks."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._indices: dict[str, tuple[ByteRequest, BufferPrototype, bytes | None]] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        buffer = await super().get(key, prototype, byte_range)
        if byte_range is not None and key not in self._indices:
            self._indices[key] = (byte_range, prototype, _bytes(buffer))
        return buffer

    async def is_unchanged(self) -> bool:
        for key, (part, prototype, known) in self._indices.items():
            if _bytes(await super().get(key, prototype, part)) != known:
                return False
        return True


def _bytes(buffer: Buffer | None) -> bytes | None:
    return None if buffer is None else buffer.to_bytes()


def _chunks(
    shape: tuple[int, ...], itemsize: int, shards: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: the whole array, its longest sides halved until it fits.

    The sides of a shard are divided by whole numbers, as zarr requires.
    """
    chunks = [max(1, side) for side in shards or shape]
    while math.prod(chunks) * itemsize > _CHUNK and max(chunks) > 1:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    if shards is not None:
        chunks = [
            next(side for side in range(wanted, 0, -1) if whole % side == 0)
            for wanted, whole in zip(chunks, shards, strict=True)
        ]
    return tuple(chunks)
