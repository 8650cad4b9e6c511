"""The zarr store on cluster memory: zarr, xarray and Dask keep their arrays in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.registry import register_pipeline

from polystore.exceptions import InvalidPathError, VFSTypeError
from polystore.paths import P, normalize
from polystore.region import Region
from polystore.zarr.array.stores import wanted_part
from polystore_ray.deadline import Deadline
from polystore_ray.interop.batcher import Gathering
from polystore_ray.interop.chunk_pipeline import ChunkPipeline, ChunkStore
from polystore_ray.interop.chunk_reading import read_into
from polystore_ray.interop.stored_bytes import StoredBytes, Write
from polystore_ray.interop.zarr_buffers import Bytes, buffer_of, bytes_of
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.leased_reads import NOT_KEPT

__all__ = ["ClusterPipeline", "ClusterStore", "intermediates", "read"]

_BATCH_BYTES = 32 * 2**20  # of writes in one batch, two of which run at a time


class ClusterStore(ChunkStore):
    """A zarr store in the memory of a cluster, the same in every process of a Ray store.

    Chunks are read as views of shared memory, with no copy. Each write is atomic, and what was
    read stays as it is when its key is written again. Reads and writes that come at the same time
    travel together. The store pickles, and so does what is opened in it: tasks of Ray and workers
    of Dask have the same arrays.

    The keys are paths of the backend ``memory`` whose values are arrays of bytes, so that the other
    operations of a `polystore.FileManager` (copy, move, list, delete) work on them too. A value
    that is not bytes is refused, and nothing that its author chose is run.

    Parameters
    ----------
    path : str or os.PathLike
        The directory of the cluster memory under which the keys lie.
    registry : RayBackendRegistry, optional
        The store of Ray; by default ``RayBackendRegistry()``.
    read_only : bool, default False
        Whether writing is refused.

    Attributes
    ----------
    path : str
        The directory, in its one spelling.

    Raises
    ------
    InvalidPathError
        By every operation with a key that leads out of the directory, as ``..`` does.
    UnsupportedFormatError
        By reads of a value that is not bytes.
    StoreUnavailableError, CallTimeoutError, DataLostError
        By every operation, as of the backend; never reported as a missing key.

    Examples
    --------
    >>> import zarr
    >>> from polystore_ray import RayBackendRegistry
    >>> store = ClusterStore("/plates/1.zarr", RayBackendRegistry("zarr", local=True))
    >>> image = zarr.create_array(store, shape=(4, 4), chunks=(2, 2), dtype="u1")
    >>> image[:] = 7
    >>> int(zarr.open_array(store, mode="r")[1:3, 1:3].sum())
    28
    """

    def __init__(
        self, path: P, registry: RayBackendRegistry | None = None, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        self.path = normalize(path, backend="memory")
        self._registry = RayBackendRegistry() if registry is None else registry
        self._values = values = StoredBytes(self.path, self._registry)
        self._gets: Gathering[str, None, Bytes | None] = Gathering(values.load)
        self._deletes: Gathering[str, None, None] = Gathering(values.delete)
        self._sets: Gathering[Write, Bytes, None]
        self._sets = Gathering(values.save, _nbytes, _BATCH_BYTES)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {self._registry!r})"

    def __str__(self) -> str:
        return f"polystore://memory{self.path}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterStore) and (self.path, self._registry) == (
            other.path,
            other._registry,
        )

    def __hash__(self) -> int:
        return hash((self.path, self._registry))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._registry, self.read_only)

    def with_read_only(self, read_only: bool = False) -> ClusterStore:
        store = type(self)(self.path, self._registry, read_only)
        # Reads of both travel together, and what one keeps, the other has too.
        store._values, store._gets = self._values, self._gets  # noqa: SLF001 - of its class
        return store

    # Values

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        path, wanted = self._at(key), wanted_part(byte_range)
        value = self._values.kept(path)
        if value is NOT_KEPT:
            value = await self._gets.ask(path, None)
        return buffer_of(value, wanted, prototype)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return what `get` returns, outside an event loop."""
        wanted = wanted_part(byte_range)
        [value] = self._values.load([self._at(key)])
        return buffer_of(value, wanted, prototype)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._sets.ask(Write(self._at(key)), bytes_of(value))

    def set_sync(self, key: str, value: Buffer) -> None:
        """Do what `set` does, outside an event loop."""
        self._check_writable()
        self._values.save([Write(self._at(key))], [bytes_of(value)])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._sets.ask(Write(self._at(key), only_new=True), bytes_of(value))

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._deletes.ask(self._at(key), None)

    def delete_sync(self, key: str) -> None:
        """Do what `delete` does, outside an event loop."""
        self._check_writable()
        self._values.delete([self._at(key)])

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix, in one step."""
        self._check_writable()
        await asyncio.to_thread(self._values.delete_below, self._at(prefix))

    async def clear(self) -> None:
        await self.delete_dir("")

    # Many chunks at once

    @property
    def deadline(self) -> Deadline:
        deadline: Deadline = self._registry._connect().deadline  # noqa: SLF001 - as plain_memory does
        return deadline

    def load_chunks(self, keys: Sequence[str]) -> tuple[Sequence[Bytes | None], Sequence[int]]:
        return self._values.load_versions([self._at(key) for key in keys])

    def save_chunks(
        self, keys: Sequence[str], values: Sequence[Bytes], versions: Sequence[int | None]
    ) -> None:
        self._check_writable()
        self._values.save_versions([self._at(key) for key in keys], values, versions)

    def delete_chunks(self, keys: Sequence[str]) -> None:
        self._check_writable()
        self._values.delete([self._at(key) for key in keys])

    # Questions

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._values.has, self._at(key))

    async def getsize(self, key: str) -> int:
        return await asyncio.to_thread(self._values.size, self._at(key))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        directory = self._at(prefix.rpartition("/")[0])
        for key in await asyncio.to_thread(self._values.keys_below, directory):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in await asyncio.to_thread(self._values.names, self._at(prefix)):
            yield name

    def _at(self, key: str) -> str:
        if not {".", ".."}.isdisjoint(key.split("/")):
            raise InvalidPathError(
                f"a key leads down from {self}, without '.' and '..'", path=key, backend="memory"
            )
        return self._values.path(key)


@contextmanager
def intermediates(registry: RayBackendRegistry | None = None) -> Iterator[ClusterStore]:
    """Yield an empty store for the intermediate arrays of one computation, deleted at the end.

    Its directory has a name of its own below the root of the cluster memory. The end is that of the
    ``with`` block, also by an error. What a process leaves that dies before is freed with its job,
    unless the store of Ray is detached.

    Parameters
    ----------
    registry : RayBackendRegistry, optional
        The store of Ray; by default ``RayBackendRegistry()``.

    Examples
    --------
    >>> import zarr
    >>> from polystore_ray import RayBackendRegistry
    >>> registry = RayBackendRegistry("intermediates", local=True)
    >>> with intermediates(registry) as store:
    ...     half = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="u1", name="half")
    ...     half[:] = 3
    ...     total = int(half[:].sum())
    >>> total, registry["memory"].list_dir("/")
    (12, [])
    """
    store = ClusterStore(f"/intermediates-{uuid4().hex}", registry)
    try:
        yield store
    finally:
        store._values.delete_below(store.path)  # noqa: SLF001 - of this module


class ClusterPipeline(ChunkPipeline):
    """A codec pipeline for arrays in a `ClusterStore`, which `zarr.config` may name.

    Arrays that are opened or created then are read and written with one request for many chunks.
    And no update is lost where several processes write regions that do not fit the chunks: a chunk,
    or shard, of which a write covers a part replaces only the value that it was made of; if another
    writer was faster, it is read, merged and written again. With zarr's own pipelines the last
    writer of a chunk wins, in every store.

    Arrays in other stores have the fastest pipeline of zarr itself. An array keeps its pipeline
    when it is pickled; a process that opens arrays by itself has to name it again.

    Raises
    ------
    CallTimeoutError
        By a write, if other writers change the same chunks until the deadline.

    Examples
    --------
    >>> import zarr
    >>> from polystore_ray import RayBackendRegistry
    >>> store = ClusterStore("/plates/3.zarr", RayBackendRegistry("pipeline", local=True))
    >>> with zarr.config.set({"codec_pipeline.path": "polystore_ray.zarr.ClusterPipeline"}):
    ...     image = zarr.create_array(store, shape=(8,), chunks=(4,), dtype="u1")
    >>> image[2:6] = 7
    >>> image[:].tolist()
    [0, 0, 7, 7, 7, 7, 0, 0]
    """


register_pipeline(ClusterPipeline)


def read(
    array: zarr.Array[Any], region: Region | None = None, *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return an array that lies in a `ClusterStore`, or a part of it, faster than ``array[...]``.

    Chunks that are not compressed are fetched 64 MiB at a time in one request each, and threads
    copy them from shared memory to where they belong. Arrays with other codecs, and regions with
    steps, are read by zarr.

    Parameters
    ----------
    array : zarr.Array
        An array that was opened or created in a `ClusterStore`.
    region : int, slice, ... or tuple of them, optional
        The part to read; by default all of the array.
    out : numpy.ndarray, optional
        An array of the same shape and dtype as the values, which is filled and returned. A new
        array costs the system's time for new pages; one that is used again does not.

    Returns
    -------
    numpy.ndarray
        The values: `out` where it is given.

    Raises
    ------
    VFSTypeError
        If the array lies in another store, has no such region, or does not fit `out`.
    CorruptDataError
        If a chunk has another size than the metadata say.
    DataLostError, CallTimeoutError, StoreUnavailableError
        As by any read of the store.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from polystore_ray import RayBackendRegistry
    >>> store = ClusterStore("/plates/2.zarr", RayBackendRegistry("read", local=True))
    >>> array = zarr.create_array(
    ...     store, data=np.arange(12).reshape(3, 4), chunks=(2, 2), compressors=None
    ... )
    >>> read(array, (slice(1, 3), slice(0, 2)))
    array([[4, 5],
           [8, 9]])
    """
    store = array.store
    if not isinstance(store, ClusterStore):
        raise VFSTypeError(
            f"read takes an array in a ClusterStore, not one in a {type(store).__name__}; "
            f"array[...] reads any"
        )
    return read_into(array, region, out, lambda keys: store.load_chunks(keys)[0])


def _nbytes(value: Bytes) -> int:
    return value.nbytes
