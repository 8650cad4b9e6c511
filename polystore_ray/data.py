"""Ray Data on the memory of a cluster: read values without a copy, and write blocks back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import ray

from polystore.exceptions import UnsupportedFormatError, missing_dependency
from polystore.paths import P, normalize
from polystore_ray.patterns import matching
from polystore_ray.registry import RayBackendRegistry

try:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset, Datasink, Datasource, ReadTask, read_datasource
    from ray.data.block import BlockAccessor, BlockMetadata
except ImportError as error:
    raise missing_dependency("ray.data", error, "data") from error

__all__ = ["read", "write"]

_PATH, _DATA = "path", "data"
_TABLES = (pa.Table, pd.DataFrame)


def read(paths: P | Iterable[P], registry: RayBackendRegistry | None = None) -> Dataset:
    """Return values of the memory as a dataset, as they are now.

    Of an array the dataset has one row, with its ``path`` and, as ``data``, the array; of a table
    (of Arrow or pandas) all its rows. The tasks that read are given references. They see views of
    shared memory, and so do the functions that Ray Data runs in the same tasks, such as those of
    ``map_batches``; only what comes out of these is stored.

    Parameters
    ----------
    paths : str, os.PathLike or iterable of them
        The values; or one pattern such as ``"/plate1/*.npy"``, in natural order.
    registry : RayBackendRegistry, optional
        The store; by default ``RayBackendRegistry()``.

    Raises
    ------
    PathNotFoundError
        If there is no such value.
    UnsupportedFormatError
        By the dataset, if a value is neither an array nor a table.
    """
    memory = _memory(registry)
    found = matching(memory, paths)
    # To ask for each size would cost more than the estimate is worth.
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
    """Save a dataset in the memory, from the tasks that make it.

    Parameters
    ----------
    dataset : ray.data.Dataset
        The dataset.
    directory : str or os.PathLike
        Where; it is made.
    registry : RayBackendRegistry, optional
        The store; by default ``RayBackendRegistry()``.
    column : str, optional
        The column whose arrays are saved, each at the last name of its ``path``. By default,
        tables are, one for each block, which `read` gives back as they are.
    overwrite : bool, default False
        Whether existing files may be replaced.

    Raises
    ------
    PathExistsError
        If a file exists, unless `overwrite`.
    """
    place = normalize(directory, backend="memory")
    memory = _memory(registry)
    memory.ensure_directory(place)
    dataset.write_datasink(_Memory(memory, place, column, overwrite))


class _Values(Datasource):
    """What is behind some references, each of about this size in bytes."""

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
            yield BlockAccessor.batch_to_block({_PATH: [path], _DATA: value[np.newaxis]})
        else:
            raise UnsupportedFormatError(
                f"a dataset is made of arrays and tables, not of a {type(value).__name__}",
                path=path,
                backend="memory",
            )


class _Memory(Datasink[None]):
    """A directory of the memory that takes blocks."""

    def __init__(self, memory: Any, directory: str, column: str | None, overwrite: bool) -> None:
        super().__init__()
        self._memory = memory
        self._directory = directory
        self._column = column
        self._overwrite = overwrite

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:
        for number, block in enumerate(blocks):
            if self._column is None:
                self._save([block], [f"{ctx.task_idx:06d}-{number:06d}"])
            else:
                rows = BlockAccessor.for_block(block).to_numpy([_PATH, self._column])
                names = [str(path).rpartition("/")[2] for path in rows[_PATH]]
                self._save(list(rows[self._column]), names)

    def _save(self, values: list[Any], names: list[str]) -> None:
        paths = [f"{self._directory}/{name}" for name in names]
        self._memory.save_batch(values, paths, overwrite=self._overwrite, parents=True)


def _memory(registry: RayBackendRegistry | None) -> Any:
    return (RayBackendRegistry() if registry is None else registry)["memory"]
