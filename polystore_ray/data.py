"""Ray Data on the cluster memory: read values without copying, and write blocks back."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    StorageError,
    UnsupportedFormatError,
    missing_dependency,
)
from polystore.paths import P, normalize
from polystore_ray.interop.globbing import matching
from polystore_ray.registry import RayBackendRegistry

try:
    import pandas as pd
    import pyarrow as pa
    import ray
    from ray.data import Dataset, Datasink, Datasource, ReadTask, read_datasource
    from ray.data.block import BlockAccessor, BlockMetadata
    from ray.data.datasource import WriteResult
    from ray.data.extensions import ArrowPythonObjectArray
except ImportError as error:
    raise missing_dependency("ray.data", error, "data") from error

__all__ = ["read", "write"]

_PATH, _DATA = "path", "data"
_TABLES = (pa.Table, pd.DataFrame)
_NUMBERS = "?bBhHiIlLqQefd"
_TIMES = {(unit, 1) for unit in ("s", "ms", "us", "ns")}
_BLOCK = re.compile(r"\d{6}-\d{6}")


def read(paths: P | Iterable[P], registry: RayBackendRegistry | None = None) -> Dataset:
    """Return values of the memory, as they are now, as a dataset.

    An array becomes one row, with its ``path`` and the array as ``data``. A table (of Arrow or
    pandas) becomes all its rows. The reading tasks get references. They see views of shared memory,
    and so do functions that Ray Data runs in the same tasks, such as those of ``map_batches``; only
    the results of these functions are stored.

    Arrays are converted to the byte order of the machine. Arrow has no tensors for complex numbers,
    records, scalars (0-d), bfloat16 and masked arrays: these arrive unchanged, but as copies.

    Parameters
    ----------
    paths : str, os.PathLike or iterable of them
        The paths of the values; or one pattern such as ``"/plate1/*.npy"``, whose matches are read
        in natural order.
    registry : RayBackendRegistry, optional
        The store; by default ``RayBackendRegistry()``.

    Returns
    -------
    ray.data.Dataset
        The dataset. Reading it raises `UnsupportedFormatError` if a value is neither an array nor
        a table.

    Raises
    ------
    PathNotFoundError
        If a path does not exist, or the pattern matches nothing.
    """
    memory = _memory(registry)
    found = matching(memory, paths)
    # The size of the first value stands for all: asking for each size costs more than it is worth.
    size = int(memory.stat(found[0])["size"])
    dataset: Dataset = read_datasource(_Values(found, memory.refs(found), size))
    return dataset


def write(
    dataset: Dataset,
    directory: P,
    registry: RayBackendRegistry | None = None,
    *,
    column: str | None = None,
    overwrite: bool = False,
) -> None:
    """Save a dataset in the memory, from the tasks that compute it: all of it, or nothing.

    The directory is published in one step when all tasks are done. A task that Ray retries replaces
    its own output. In an existing directory, other files stay; no other process should change the
    directory during the write.

    Parameters
    ----------
    dataset : ray.data.Dataset
        The dataset.
    directory : str or os.PathLike
        The directory to write; it is created if it is missing.
    registry : RayBackendRegistry, optional
        The store; by default ``RayBackendRegistry()``.
    column : str, optional
        The column whose arrays are saved, each under the last name of its ``path``. By default,
        each block is saved as a table, which `read` returns unchanged.
    overwrite : bool, default False
        Whether to replace existing files: with `column`, files of the same names; without it, all
        blocks in the directory.

    Raises
    ------
    PathExistsError
        If a file exists and `overwrite` is False, or if two rows have the same name.
    InvalidPathError
        If the directory is the root.
    """
    memory = _memory(registry)
    place = normalize(directory, backend="memory")
    while memory.is_symlink(place):
        place = memory.stat(place)["target"]
    if place == "/":
        raise InvalidPathError(
            "a dataset needs a directory other than the root",
            path=place,
            backend="memory",
        )
    if memory.is_file(place):
        raise PathExistsError("the path is a file", path=place, backend="memory")
    parent, _, name = place.rpartition("/")
    staging = f"{parent}/.{name}.writing-{os.urandom(6).hex()}"
    memory.ensure_directory(staging)
    sink = _Staging(memory, staging, column)
    try:
        dataset.write_datasink(sink)
        _publish(memory, staging, place, sink, overwrite)
    except BaseException:
        with suppress(StorageError):  # the first error is the cause
            memory.delete_all(staging)
        raise


class _Values(Datasource):
    """Datasource over object references, each to a value of about `size` bytes."""

    def __init__(self, paths: list[str], references: list[Any], size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths = paths
        self._references = references
        self._size = size

    def get_name(self) -> str:
        return "Polystore"

    def estimate_inmemory_data_size(self) -> int:
        return self._size * len(self._paths)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        step = -(-len(self._paths) // max(1, parallelism))
        starts = range(0, len(self._paths), step or 1)
        return [self._task(slice(start, start + step)) for start in starts]

    def _task(self, part: slice) -> ReadTask:
        paths = self._paths[part]
        facts = BlockMetadata(
            num_rows=None,
            size_bytes=self._size * len(paths),
            input_files=tuple(paths),
            exec_stats=None,
        )
        return ReadTask(partial(_blocks, paths, self._references[part]), facts)


def _blocks(paths: list[str], references: list[Any]) -> Iterable[Any]:
    for path, value in zip(paths, ray.get(references), strict=True):
        if isinstance(value, _TABLES):
            yield value
        elif isinstance(value, np.ndarray):
            yield _block(path, value)
        else:
            raise UnsupportedFormatError(
                f"a dataset holds arrays and tables, not a {type(value).__name__}",
                path=path,
                backend="memory",
            )


def _block(path: str, value: np.ndarray[Any, Any]) -> Any:
    """Return an array as a block of one row, from which Ray Data returns an equal array.

    Arrow has tensors of plain numbers and times in the byte order of the machine. Ray Data would
    misread the bytes of other arrays, or turn them into lists, so these travel as objects.
    """
    dtype = value.dtype
    if type(value) is np.ndarray and value.ndim and _is_held_by_arrow(dtype):
        native = value if dtype.isnative else value.astype(dtype.newbyteorder("="))
        return BlockAccessor.batch_to_block({_PATH: [path], _DATA: native[np.newaxis]})
    return pa.table({_PATH: pa.array([path]), _DATA: ArrowPythonObjectArray.from_objects([value])})


def _is_held_by_arrow(dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "mM":
        return np.datetime_data(dtype) in _TIMES
    return dtype.char in _NUMBERS


class _Staging(Datasink[list[str]]):
    """Datasink that writes blocks to a staging directory until the dataset is complete."""

    def __init__(self, memory: Any, directory: str, column: str | None) -> None:
        super().__init__()
        self._memory = memory
        self._directory = directory
        self._column = column
        self.is_of_tables = column is None
        self.names: list[str] = []

    def get_name(self) -> str:
        return "Polystore"

    def write(self, blocks: Iterable[Any], ctx: Any) -> list[str]:
        """Save blocks; a retried task replaces what its first attempt saved."""
        saved: list[str] = []
        for number, block in enumerate(blocks):
            if self._column is None:
                values, names = [block], [f"{ctx.task_idx:06d}-{number:06d}"]
            else:
                rows = BlockAccessor.for_block(block).to_numpy([_PATH, self._column])
                values = list(rows[self._column])
                names = [str(path).rpartition("/")[2] for path in rows[_PATH]]
            paths = [f"{self._directory}/{name}" for name in names]
            # Without parents: a late task fails once the staging directory is deleted.
            self._memory.save_batch(values, paths, overwrite=True)
            saved += names
        return saved

    def on_write_complete(self, write_result: WriteResult[list[str]]) -> None:
        self.names = [name for names in write_result.write_returns for name in names]


def _publish(memory: Any, staging: str, place: str, sink: _Staging, overwrite: bool) -> None:
    """Move the complete staging directory to its place, with the files to keep of the old one."""
    names = set(sink.names)
    if len(names) < len(sink.names):
        twice = next(name for name, number in Counter(sink.names).items() if number > 1)
        raise PathExistsError(
            "several rows have this name; give each row a `path` with a unique last name",
            path=f"{place}/{twice}",
            backend="memory",
        )
    for name in set(memory.list_dir(staging)) - names:  # from first attempts of retried tasks
        memory.delete(f"{staging}/{name}")
    with suppress(PathExistsError):
        memory.move(staging, place)
        return

    def is_replaced(name: str) -> bool:
        return name in names or (sink.is_of_tables and _BLOCK.fullmatch(name) is not None)

    present = memory.list_dir(place)
    replaced = [name for name in present if is_replaced(name)]
    if replaced and not overwrite:
        raise PathExistsError(
            "the path exists already; overwrite=True replaces it",
            path=f"{place}/{replaced[0]}",
            backend="memory",
        )
    for name in present:
        if not is_replaced(name):
            memory.copy(f"{place}/{name}", f"{staging}/{name}")
    former = f"{staging}.former"
    memory.move(place, former)
    try:
        memory.move(staging, place)
    except BaseException:
        memory.move(former, place)
        raise
    for name in memory.list_dir(former):
        if name not in present and name not in names:  # saved by another process concurrently
            memory.move(f"{former}/{name}", f"{place}/{name}")
    memory.delete_all(former)


def _memory(registry: RayBackendRegistry | None) -> Any:
    return (RayBackendRegistry() if registry is None else registry)["memory"]
