"""How values come into a store that has no rename, and go: an array's metadata last, or first.

The caller holds the lock of the key.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import zarr

from polystore.exceptions import (
    CorruptDataError,
    PathExistsError,
    PathNotFoundError,
    StorageError,
    StorageWriteError,
    UnsupportedOperationError,
)
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.reading import (
    DOTTED,
    METADATA,
    NESTED,
    SLASHED,
    Encoding,
    described,
    is_chunk,
    open_array,
)
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.groups import RemoteGroups
from polystore.zarr.object_store.lock_objects import LockObject
from polystore.zarr.object_store.nodes import Node, below
from polystore.zarr.object_store.zarr_store import RemoteStore, UnpublishedArray

__all__ = [
    "as_new",
    "clear",
    "copy_array",
    "is_same",
    "put_array",
    "put_file",
    "put_group",
    "remove_group",
    "remove_value",
]

_log = logging.getLogger(__name__)

_MARK = 64  # characters


def put_array(
    objects: RemoteObjects,
    key: str,
    write: Callable[..., None],
    replaced: Node,
    lock: LockObject,
    *,
    axes: int,
    zarr_format: ZarrFormat,
) -> None:
    """Write an array: its chunks, then its metadata, which publish it in one put.

    An array of format 2 with at most one axis has but one way to name its chunks. Where it takes
    the place of one that has the same, that is deleted before the chunks are put.

    - `write`: writes it into an empty store, ``write(store, replaced=, encoding=)``, as `create`
      does

    Raises `PathExistsError` if something took the path that was free; `UnsupportedFormatError` if
    zarr refuses the options; `UnsupportedOperationError` if a file is to be replaced in a store
    with true directories.
    """
    _check_kind(objects, replaced, "file", "array")
    old: set[str] = set()
    encoding = _other_names(replaced, axes, zarr_format)
    if replaced.kind == "array":
        old = _parts(objects, key)
        if encoding is not None:
            # What a killed save left, of which not all would be written again.
            left = {name for name in old if is_chunk(name, encoding)}
            _delete(objects, key, left)
            old -= left
    else:
        clear(objects, key, replaced, lock)
    store = UnpublishedArray(objects, key, is_held=encoding is None)
    groups = RemoteGroups(objects, is_rooted=False)
    try:
        before = _stored_array(objects, key, replaced)
        write(store, replaced=before, encoding=encoding)
        groups.forget(key)
        if encoding is None:
            remove_value(objects, key, replaced)
            store.release()
    except BaseException:
        store.stop()
        _take_back(objects, key, store.written, lock)
        raise
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    if ".zattrs" in store.metadata:
        objects.wait(objects.put(below(key, ".zattrs"), store.metadata[".zattrs"]))
    new = replaced.kind != "array" or encoding is None
    _publish(objects, key, name, as_new(store.metadata[name]), store.written, lock, new=new)
    if encoding is not None:
        _tidy(objects, key, old - store.metadata.keys())
    if replaced.kind == "file":
        _tidy(objects, "", {key})


def put_file(
    objects: RemoteObjects, key: str, data: bytes, replaced: Node, lock: LockObject
) -> None:
    """Write a file, in one put.

    Raises `PathExistsError` if something took the path that was free; `UnsupportedOperationError`
    if an array is to be replaced in a store with true directories.
    """
    _check_kind(objects, replaced, "array", "file")
    old: set[str] = set()
    if replaced.kind == "array":
        old = _parts(objects, key)
    else:
        clear(objects, key, replaced, lock)
    if replaced.kind != "missing":
        objects.wait(objects.put(key, data))
    elif not objects.wait(_created(objects, key, data)):
        raise PathExistsError("another one has just taken the path")
    # Only now is it seen: an array hides a file of its name.
    if replaced.kind == "array":
        RemoteGroups(objects, is_rooted=False).forget(key)
    _delete(objects, key, old & METADATA)
    _tidy(objects, key, old - METADATA)


def _check_kind(objects: RemoteObjects, replaced: Node, old: str, new: str) -> None:
    if replaced.kind == old and not objects.is_flat:
        raise UnsupportedOperationError(
            f"in this store no {new} can take the place of an existing {old}; delete that first"
        )


def clear(objects: RemoteObjects, key: str, node: Node, lock: LockObject) -> None:
    """Delete the chunks that a killed save has left where there is no array."""
    if lock.inherited or node.occupied:
        _delete(objects, key, filter(is_chunk, objects.wait(objects.below(key))))


def copy_array(
    objects: RemoteObjects, source: str, target: str, node: Node, lock: LockObject
) -> bool:
    """Copy an array to a free key, its chunks in the store itself; False if it changed by then.

    Raises `PathExistsError` if something took the free key.
    """
    first = _parts(objects, source) - {node.metadata_name}
    try:
        copied = _copied(objects, source, target, first)
        unchanged = (
            objects.wait(objects.metadata(below(source, node.metadata_name))) == node.metadata
        )
    except BaseException:
        _take_back(objects, target, first, lock)
        raise
    if not (copied and unchanged):
        _take_back(objects, target, first, lock)
        if unchanged:
            raise StorageWriteError("a chunk was deleted while it was copied")
        return False
    metadata = as_new(node.metadata or b"")
    RemoteGroups(objects, is_rooted=False).forget(target)
    _publish(objects, target, node.metadata_name, metadata, first, lock, new=True)
    return True


def _copied(objects: RemoteObjects, source: str, target: str, names: Iterable[str]) -> bool:
    """Copy objects; return whether all of them were there."""
    try:
        objects.wait(objects.copy((below(source, n), below(target, n)) for n in names))
    except PathNotFoundError:
        return False
    return True


def remove_value(objects: RemoteObjects, key: str, node: Node) -> None:
    """Delete an array or a file, with what a killed save left; an array goes in one step."""
    names = _parts(objects, key)
    if node.kind == "array":
        RemoteGroups(objects, is_rooted=False).forget(key)
        # First a file that it may hide, and metadata that may lie under its own.
        _delete(objects, key, names & METADATA - {node.metadata_name})
        objects.wait(objects.delete([key]))
        _delete(objects, key, [node.metadata_name])
        _delete(objects, key, names - METADATA)
    else:
        _delete(objects, key, names - METADATA)
        objects.wait(objects.delete([key]))


def _parts(objects: RemoteObjects, key: str) -> set[str]:
    """Return the names that an array has, and none of what was saved below it by mischance."""
    names = objects.wait(objects.below(key))
    return {name for name in names if name in METADATA or is_chunk(name)}


def put_group(objects: RemoteObjects, key: str, metadata: Mapping[str, bytes]) -> bool:
    """Make a group of these metadata at a free key; False if something took the key."""
    RemoteGroups(objects, is_rooted=False).forget(key)
    [name] = metadata.keys() & {"zarr.json", ".zgroup"}
    for other in metadata.keys() - {name}:
        objects.wait(objects.put(below(key, other), metadata[other]))
    return objects.wait(objects.create(below(key, name), metadata[name]))


def remove_group(objects: RemoteObjects, key: str) -> bool:
    """Delete the metadata of a group; False if it is implied, and by a mark that stays."""
    names, _ = objects.wait(objects.entries(key))
    RemoteGroups(objects, is_rooted=False).forget(key)
    _delete(objects, key, names & METADATA)
    return bool(names & METADATA) or not objects.wait(objects.is_marked(key))


def _publish(
    objects: RemoteObjects,
    key: str,
    name: str,
    metadata: bytes,
    written: Iterable[str],
    lock: LockObject,
    *,
    new: bool,
) -> None:
    """Put the metadata of chunks that were written, or take these back."""
    location = below(key, name)
    try:
        if new:
            done = objects.wait(_created(objects, location, metadata))
        else:
            objects.wait(objects.put(location, metadata))
            done = True
    except StorageWriteError:
        lock.left = True  # until it is known whether the put, whose answer is lost, was done
        if objects.wait(objects.get(location)) != metadata:
            _take_back(objects, key, written, lock)
            raise
        lock.left, done = False, True
    if not done:
        _take_back(objects, key, written, lock)
        raise PathExistsError("another one has just taken the path")


async def _created(objects: RemoteObjects, key: str, data: bytes) -> bool:
    # A put whose answer was lost, and that is tried again, finds itself.
    return await objects.create(key, data) or await objects.get(key) == data


def _stored_array(objects: RemoteObjects, key: str, node: Node) -> zarr.Array[Any] | None:
    """Return the array at a key, None where there is none that can be read."""
    if node.kind != "array":
        return None
    with suppress(CorruptDataError):
        return open_array(RemoteStore(objects, key))
    return None


def _other_names(replaced: Node, axes: int, zarr_format: ZarrFormat) -> Encoding | None:
    """Return a way to name chunks that the array which is replaced has not, None if there is none.

    With it the chunks of both are there while readers still have the old metadata.
    """
    old = described(replaced.metadata)
    stored: Any = old.get("chunk_key_encoding")
    if replaced.kind != "array":
        return SLASHED if zarr_format == 3 else NESTED
    has_prefix = isinstance(stored, dict) and stored.get("name") == SLASHED["name"]
    if zarr_format == 3:
        return DOTTED if has_prefix else SLASHED
    if has_prefix:
        return NESTED
    shape = old.get("shape")
    if axes <= 1 or not isinstance(shape, list) or len(shape) <= 1:
        return None
    return DOTTED if old.get("dimension_separator") == "/" else NESTED


def as_new(metadata: bytes) -> bytes:
    """Return metadata with white space at the end that those of no other array have.

    By it a reader tells an array from the next one at its path, also if all else is the same. A
    field of its own would keep older versions of zarr from opening the array.
    """
    bits = int.from_bytes(os.urandom(8), "big")
    mark = bytes(b" \t"[bits >> location & 1] for location in range(_MARK))
    return metadata.rstrip() + b"\n" + mark


def is_same(metadata: bytes | None, others: bytes | None) -> bool:
    """Return whether metadata are those of one array, which may have grown since."""
    if metadata is None or others is None:
        return metadata is others
    mark, other = (found[len(found.rstrip()) :] for found in (metadata, others))
    return metadata == others or (mark == other and len(mark) > _MARK)


def _delete(objects: RemoteObjects, key: str, names: Iterable[str]) -> None:
    keys = [below(key, name) for name in names]
    if keys:
        objects.wait(objects.delete(keys))


def _take_back(objects: RemoteObjects, key: str, names: Iterable[str], lock: LockObject) -> None:
    """Delete what was written, while an error is on its way to the caller."""
    # Until it is done: chunks with neither metadata nor a lock object would look like a group.
    lock.left = True
    try:
        _delete(objects, key, names)
    except StorageError as error:
        _log.warning(
            "%s/%s: what was written stays, until the next save (%s)", objects.url, key, error
        )
    else:
        lock.left = False


def _tidy(objects: RemoteObjects, key: str, names: set[str]) -> None:
    """Delete what no reader sees any more. The save is done, whether this works or not."""
    try:
        _delete(objects, key, names & METADATA)
        _delete(objects, key, names - METADATA)
    except StorageError as error:
        _log.warning(
            "%s/%s: what was replaced stays, until the next save (%s)", objects.url, key, error
        )
