"""An array in a store that several writers change, and their lock objects."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from polystore.zarr.array.locks import Locks
from polystore.zarr.array.reading import is_chunk
from polystore.zarr.array.updating import Shared
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.groups import RemoteGroups
from polystore.zarr.object_store.lock_objects import lock_object
from polystore.zarr.object_store.nodes import Node, below
from polystore.zarr.object_store.shared_array import as_new
from polystore.zarr.object_store.zarr_store import RemoteStore

__all__ = ["SharedObjects"]

_SHARD_LOCKS = 16  # for the shards of an array; a resize takes them all, two requests each


class SharedObjects(Shared):
    """The objects of an array.

    - `node`: what lies there. Whoever changes the shape holds the lock of the key
    """

    def __init__(self, objects: RemoteObjects, key: str, node: Node) -> None:
        self._objects, self._key = objects, key
        self._name = node.metadata_name
        self.store = RemoteStore(objects, key, read_only=False)
        self.locks = _LockObjects(objects, key)

    def metadata(self) -> tuple[str, bytes]:
        return self._name, self._objects.wait(self._objects.metadata(self._place)) or b""

    def publish(self, metadata: bytes, *, shows_less: bool = False) -> None:
        RemoteGroups(self._objects, is_rooted=False).forget(self._key)
        # As that of another array, so that readers of what is cut off read again.
        data = as_new(metadata) if shows_less else metadata
        self._objects.wait(self._objects.put(self._place, data))

    def chunks(self) -> Iterable[str]:
        return filter(is_chunk, self._objects.wait(self._objects.below(self._key)))

    def delete(self, keys: Iterable[str]) -> None:
        self._objects.wait(self._objects.delete(below(self._key, key) for key in keys))

    @property
    def _place(self) -> str:
        return below(self._key, self._name)


class _LockObjects(Locks):
    """Lock objects next to an array, each for some of its shards."""

    def __init__(self, objects: RemoteObjects, key: str) -> None:
        self._objects, self._key = objects, key

    def shape(self) -> ExitStack:
        return ExitStack()  # whoever changes it holds the lock of the array

    def shards(self, numbers: Iterable[int]) -> ExitStack:
        with ExitStack() as stack:
            for number in sorted({number % _SHARD_LOCKS for number in numbers}):
                key = f"{self._key}~shard~{number:02}"
                stack.enter_context(lock_object(self._objects, key))
            return stack.pop_all()
