"""Zarr arrays, wherever they lie: what is one, how it is opened, read and written into."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

from polystore.exceptions import (
    CorruptDataError,
    StorageError,
    UnsupportedFormatError,
)
from polystore.filesystem.retry import read_until_stable
from polystore.formats import MOST_DECODED, check_declared_size
from polystore.region import Region, check_region, forward
from polystore.zarr.array.codec_guards import guarded

__all__ = [
    "DOTTED",
    "GROUP",
    "METADATA",
    "MOST_METADATA",
    "NESTED",
    "SLASHED",
    "Encoding",
    "Mode",
    "apart",
    "described",
    "element_size",
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
_MOST_ELEMENT = 2**24  # bytes
_STORED = 8  # bytes that each of more chunks takes at least
MOST_METADATA = 2**24
"""Bytes of an array's metadata; read, they take up to thirty times as many."""
METADATA = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()

# Ways to name chunks, of which the first shares no name with the others, and the others none but
# those of arrays of no or one axis. Format 2 has the last two.
SLASHED: Encoding = {"name": "default", "separator": "/"}
DOTTED: Encoding = {"name": "v2", "separator": "."}
NESTED: Encoding = {"name": "v2", "separator": "/"}

_CHUNK_NAME = re.compile(r"(c|[0-9]+)([./][0-9]+)*")  # of any way that zarr knows


def is_chunk(name: str, encoding: Encoding | None = None) -> bool:
    """Return whether a key, from that of its array on, is one of a chunk; by default in any way.

    Nothing else of a hierarchy has such a key: arrays and groups have metadata, and files a suffix.
    """
    if encoding is None:
        return _CHUNK_NAME.fullmatch(name) is not None
    separator = re.escape(encoding["separator"])
    first = "[0-9]+" if encoding["name"] == "v2" else "c"
    return re.fullmatch(f"{first}({separator}[0-9]+)*", name) is not None


def node_type(metadata: bytes) -> str | None:
    """Return what the bytes of a ``zarr.json`` say there is, None where they cannot be read."""
    found = described(metadata).get("node_type")
    return found if isinstance(found, str) else None


def described(metadata: bytes | None) -> dict[str, Any]:
    """Return what metadata say, {} where there are none, or they cannot be read."""
    try:
        read = json.loads(metadata or b"") if len(metadata or b"") <= MOST_METADATA else {}
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def open_node(store: Store, mode: Mode) -> zarr.Array[Any] | zarr.Group:
    """Return the array or the group in a store; nothing is made.

    Raises `UnsupportedFormatError` if there is neither; `CorruptDataError` if its metadata is
    damaged.
    """
    with _damage("it cannot be opened"):
        found = sync(_array_metadata(store))
        if found is not None:
            return _opened(store, found)
        try:
            group = zarr.open_group(store=store, mode=mode)
        except FileNotFoundError as error:
            raise UnsupportedFormatError("the directory is not a zarr group") from error
        return GuardedGroup(group._async_group)  # noqa: SLF001 - the same group, of a subclass


def apart(node: zarr.Array[Any] | zarr.Group) -> list[str]:
    """Return the names of what an array or a group has in addition to its values."""
    names = getattr(node.metadata, "dimension_names", None) or ()
    found = {
        "attributes": dict(node.attrs),
        "names of axes": [name for name in names if name is not None],
    }
    return [what for what, there in found.items() if there]


def open_array(store: Store) -> zarr.Array[Any]:
    """Return the array in a store.

    Raises `CorruptDataError` if its metadata is damaged.
    """
    with _damage("the zarr array cannot be opened"):
        found = sync(_array_metadata(store))
        if found is None:
            raise ValueError("it has no metadata of an array")
        return _opened(store, found)


async def _array_metadata(store: Store) -> dict[str, Any] | None:
    """Return the metadata of an array as zarr takes them, None where there are none."""
    found = await _read_json(store, "zarr.json")
    if found is not None:
        return found if found.get("node_type") == "array" else None
    found = await _read_json(store, ".zarray")
    if found is None:
        return None
    return found | {"attributes": await _read_json(store, ".zattrs") or {}}


async def _read_json(store: Store, name: str) -> dict[str, Any] | None:
    prototype, wanted = default_buffer_prototype(), RangeByteRequest(0, MOST_METADATA + 1)
    buffer = await store.get(name, prototype, wanted)
    if buffer is None:
        return None
    data = buffer.to_bytes()
    if len(data) > MOST_METADATA:
        raise ValueError(f"{name} has more than {MOST_METADATA} bytes")
    found = json.loads(data)
    if not isinstance(found, dict):
        raise TypeError(f"{name} is not a JSON object")
    return found


def _opened(store: Store, found: dict[str, Any]) -> zarr.Array[Any]:
    """Return an array that NumPy can make, with codecs that can be trusted."""
    _check_element(found.get("data_type", found.get("dtype")))
    metadata: Any = found
    array = zarr.Array(zarr.AsyncArray(metadata, StorePath(store)))
    size = math.prod(side for side in array.shape if side) * array.dtype.itemsize
    if array.ndim > _MOST_AXES or size > sys.maxsize:
        raise ValueError(f"no array has the shape {array.shape} and the dtype {array.dtype}")
    return guarded(array)


def _check_element(dtype: Any) -> None:
    """Refuse a dtype of which a single element, such as the fill value, takes all memory."""
    size = _element(dtype)
    if not 0 <= size <= _MOST_ELEMENT:
        raise ValueError(f"an element of {size} bytes is larger than {_MOST_ELEMENT}, or none")


def _element(dtype: Any) -> int:
    """Return the bytes of an element as metadata describe it, 0 where they do not say."""
    if isinstance(dtype, str):  # as format 3 names raw bits, or as format 2 names any
        bits = re.fullmatch(r"r([0-9]+)", dtype)
        if bits is not None:
            return int(bits[1]) // 8
        number = re.fullmatch(r"[<>|=]?[SUVa]([0-9]+)", dtype)
        return int(number[1]) * (4 if "U" in dtype else 1) if number else 0
    if isinstance(dtype, Mapping):
        configuration = dtype.get("configuration")
        if not isinstance(configuration, Mapping):
            return 0
        length = configuration.get("length_bytes", 0)
        return (length if isinstance(length, int) else 0) + _element(configuration.get("fields"))
    if not isinstance(dtype, list):
        return 0
    size = 0
    for field in dtype:  # a name, a dtype and in format 2 perhaps a shape
        parts: list[Any] = list(field.values()) if isinstance(field, Mapping) else field
        if isinstance(parts, list) and len(parts) > 1:
            sides = parts[2] if len(parts) > 2 else []
            sides = sides if isinstance(sides, list) else [sides]
            size += _element(parts[1]) * math.prod(side for side in sides if isinstance(side, int))
    return size


class GuardedGroup(zarr.Group):
    """A group whose arrays raise an error for damaged chunks, as those of `open_array`."""

    def __getitem__(self, path: str) -> Any:
        return _guarded_node(super().__getitem__(path))

    def members(self, *arguments: Any, **options: Any) -> tuple[tuple[str, Any], ...]:
        found = super().members(*arguments, **options)
        return tuple((name, _guarded_node(node)) for name, node in found)

    def groups(self) -> Generator[tuple[str, zarr.Group], None]:
        for name, group in super().groups():
            yield name, _guarded_node(group)

    def arrays(self) -> Generator[tuple[str, zarr.Array[Any]], None]:
        for name, array in super().arrays():
            yield name, _guarded_node(array)

    def group_values(self) -> Generator[zarr.Group, None]:
        for _, group in self.groups():
            yield group

    def array_values(self) -> Generator[zarr.Array[Any], None]:
        for _, array in self.arrays():
            yield array


def _guarded_node(node: Any) -> Any:
    if isinstance(node, zarr.Group):
        return GuardedGroup(node._async_group)  # noqa: SLF001 - the same group, of a subclass
    with _damage("the zarr array cannot be opened"):
        return guarded(node)


def read_array(store: Store, region: Region | None, stored: Callable[[], int]) -> Any:
    """Return the array in a store, or a part of it; no more chunks than that touches are read.

    - `region`: the part
    - `stored`: returns the bytes that are stored; called only if the array claims to be very large

    Raises `VFSTypeError` if the array has no such part; `CorruptDataError` if its metadata or a
    chunk is damaged; `StorageResolutionError` if others change its shards all the time.
    """
    return read_until_stable(
        lambda: nullcontext(_Watched(store)),
        lambda watched: _read(open_array(watched), region, stored),
        lambda watched: sync(watched.is_unchanged()),
    )


def _read(array: zarr.Array[Any], region: Region | None, stored: Callable[[], int]) -> Any:
    part = ... if region is None else region
    shape = check_region(array.shape, part)
    index, reverse = forward(array.shape, part)
    stored = cache(stored)  # it looks at every file
    element = element_size(array)
    size = math.prod(shape) * element
    if size > MOST_DECODED and (region is None or element > array.dtype.itemsize):
        check_declared_size(size, stored())
    touched = math.prod(map(_touched, index, array.chunks))
    at_once = min(touched, zarr.config.get("async.concurrency") or 1)
    decoded = at_once * math.prod(array.chunks) * element
    if decoded > MOST_DECODED:
        check_declared_size(decoded, stored())
    if touched > _FEW and touched * _STORED > stored():
        raise CorruptDataError(
            f"{touched} chunks are to be in {stored()} bytes: damage, or next to nothing, of "
            f"which a smaller region= can be loaded"
        )
    with _damage("a chunk cannot be decoded"):
        return np.asarray(array[index])[reverse]


def element_size(array: zarr.Array[Any]) -> int:
    """Return the bytes that an element takes, if it is the fill value: a string may be long."""
    fill_value = array.fill_value
    long = len(fill_value) if isinstance(fill_value, str | bytes) else 0
    return int(array.dtype.itemsize) + (0 if array.dtype.kind in "SUV" else long)


def write_part(array: zarr.Array[Any], part: Any, values: Any) -> None:
    """Write into a part of an array, and keep the rest of the chunks that it touches.

    Raises `CorruptDataError` if one of those is damaged. It stays as it is; a part that covers all
    of it mends it.
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
        if byte_range is not None and key not in self._indices and key not in METADATA:
            self._indices[key] = (byte_range, prototype, _bytes(buffer))
        return buffer

    async def is_unchanged(self) -> bool:
        for key, (part, prototype, known) in self._indices.items():
            if _bytes(await super().get(key, prototype, part)) != known:
                return False
        return True


def _bytes(buffer: Buffer | None) -> bytes | None:
    return None if buffer is None else buffer.to_bytes()
