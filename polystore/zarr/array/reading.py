"""Zarr arrays, wherever they lie: what is one, how it is opened, read and written into."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
from polystore.stat import Details
from polystore.zarr.array.codec_guards import guarded
from polystore.zarr.array.elements import check_element, element_size
from polystore.zarr.array.pipelines import Pipeline, with_pipeline

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
    "array_facts",
    "described",
    "group_facts",
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


def open_node(
    store: Store, mode: Mode, pipeline: Pipeline = "zarr", directory: str | None = None
) -> zarr.Array[Any] | zarr.Group:
    """Return the array or the group in a store; nothing is made.

    `pipeline` and `directory` are those of `with_pipeline`, of an array or of those of a group.

    Raises `UnsupportedFormatError` if there is neither; `CorruptDataError` if its metadata is
    damaged.
    """
    with _damage("it cannot be opened"):
        found = sync(_array_metadata(store))
        if found is not None:
            return with_pipeline(_opened(store, found), pipeline, directory)
        try:
            group = zarr.open_group(store=store, mode=mode)
        except FileNotFoundError as error:
            raise UnsupportedFormatError("the directory is not a zarr group") from error
        return GuardedGroup(group._async_group, pipeline, directory)  # noqa: SLF001 - the same group, of a subclass


def apart(node: zarr.Array[Any] | zarr.Group) -> list[str]:
    """Return the names of what an array or a group has in addition to its values."""
    names = getattr(node.metadata, "dimension_names", None) or ()
    found = {
        "attributes": dict(node.attrs),
        "names of axes": [name for name in names if name is not None],
    }
    return [what for what, there in found.items() if there]


def open_array(
    store: Store, pipeline: Pipeline = "zarr", directory: str | None = None
) -> zarr.Array[Any]:
    """Return the array in a store.

    `pipeline` and `directory` are those of `with_pipeline`. Raises `CorruptDataError` if its
    metadata is damaged.
    """
    with _damage("the zarr array cannot be opened"):
        found = sync(_array_metadata(store))
        if found is None:
            raise ValueError("it has no metadata of an array")
        return with_pipeline(_opened(store, found), pipeline, directory)


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
    check_element(found.get("data_type", found.get("dtype")))
    metadata: Any = found
    array = zarr.Array(zarr.AsyncArray(metadata, StorePath(store)))
    size = math.prod(side for side in array.shape if side) * array.dtype.itemsize
    if array.ndim > _MOST_AXES or size > sys.maxsize:
        raise ValueError(f"no array has the shape {array.shape} and the dtype {array.dtype}")
    return guarded(array)


@dataclass(frozen=True)
class GuardedGroup(zarr.Group):
    """A group whose arrays raise an error for damaged chunks, as those of `open_array`."""

    _pipeline: Pipeline = "zarr"
    _directory: str | None = None

    def __getitem__(self, path: str) -> Any:
        return self._guarded(super().__getitem__(path))

    def members(self, *arguments: Any, **options: Any) -> tuple[tuple[str, Any], ...]:
        found = super().members(*arguments, **options)
        return tuple((name, self._guarded(node)) for name, node in found)

    def groups(self) -> Generator[tuple[str, zarr.Group], None]:
        for name, group in super().groups():
            yield name, self._guarded(group)

    def arrays(self) -> Generator[tuple[str, zarr.Array[Any]], None]:
        for name, array in super().arrays():
            yield name, self._guarded(array)

    def group_values(self) -> Generator[zarr.Group, None]:
        for _, group in self.groups():
            yield group

    def array_values(self) -> Generator[zarr.Array[Any], None]:
        for _, array in self.arrays():
            yield array

    def _guarded(self, node: Any) -> Any:
        if isinstance(node, zarr.Group):
            return GuardedGroup(node._async_group, self._pipeline, self._directory)  # noqa: SLF001 - the same group, of a subclass
        with _damage("the zarr array cannot be opened"):
            return with_pipeline(guarded(node), self._pipeline, self._directory)


def array_facts(array: zarr.Array[Any]) -> Details:
    """Return what `stat` says of an array besides its size and time."""
    facts: Details = {"shape": array.shape, "dtype": str(array.dtype), "chunks": array.chunks}
    attributes = dict(array.attrs)
    return {**facts, "attributes": attributes} if attributes else facts


def group_facts(new: bytes | None, old: Callable[[], bytes | None]) -> Details:
    """Return what `stat` says of a group besides its time.

    - `new`: the bytes of its ``zarr.json``, None for none
    - `old`: returns those of the ``.zattrs`` of a group of format 2
    """
    attributes = described(old()) if new is None else described(new).get("attributes")
    return {"attributes": attributes} if attributes and isinstance(attributes, dict) else {}


def read_array(
    store: Store,
    region: Region | None,
    stored: Callable[[], int],
    pipeline: Pipeline = "zarr",
    directory: str | None = None,
) -> Any:
    """Return the array in a store, or a part of it; no more chunks than that touches are read.

    - `region`: the part
    - `stored`: returns the bytes that are stored; called only if the array claims to be very large
    - `pipeline`, `directory`: as for `with_pipeline`

    Raises `VFSTypeError` if the array has no such part; `CorruptDataError` if its metadata or a
    chunk is damaged; `StorageResolutionError` if others change its shards all the time.
    """
    return read_until_stable(
        lambda: nullcontext(_Watched(store)),
        lambda watched: _read(open_array(watched, pipeline, directory), region, stored),
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
        self._note(key, prototype, byte_range, buffer)
        return buffer

    def get_sync(
        self, key: str, *, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        buffer: Buffer | None = super().get_sync(key, prototype=prototype, byte_range=byte_range)  # type: ignore[misc]
        self._note(key, prototype, byte_range, buffer)
        return buffer

    def _note(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None,
        buffer: Buffer | None,
    ) -> None:
        if byte_range is not None and key not in self._indices and key not in METADATA:
            self._indices.setdefault(key, (byte_range, prototype, _bytes(buffer)))

    async def is_unchanged(self) -> bool:
        for key, (part, prototype, known) in self._indices.items():
            if _bytes(await super().get(key, prototype, part)) != known:
                return False
        return True


def _bytes(buffer: Buffer | None) -> bytes | None:
    return None if buffer is None else buffer.to_bytes()
