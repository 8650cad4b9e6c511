"""Dask on the cluster memory: arrays of equal shape and dtype as one lazy array."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from polystore.exceptions import UnsupportedFormatError, missing_dependency
from polystore.paths import P
from polystore_ray.interop.globbing import matching
from polystore_ray.registry import RayBackendRegistry

try:
    import dask.array as da
    from dask.delayed import delayed
except ImportError as error:
    raise missing_dependency("dask.array", error, "dask") from error

__all__ = ["stack"]


def stack(paths: P | Iterable[P], registry: RayBackendRegistry | None = None) -> da.Array:
    """Return arrays of the memory, all of one shape and dtype, stacked along a new first axis.

    Only the first array is loaded at once. Each chunk is one array; a task that loads it gets a
    view of shared memory.

    Parameters
    ----------
    paths : str, os.PathLike or iterable of them
        The paths of the arrays; or one pattern such as ``"/plate1/*.npy"``, whose matches are
        stacked in natural order.
    registry : RayBackendRegistry, optional
        The store; by default ``RayBackendRegistry()``.

    Returns
    -------
    dask.array.Array
        An array of shape ``(number of paths, *shape)``.

    Raises
    ------
    PathNotFoundError
        If a path does not exist, or the pattern matches nothing.
    UnsupportedFormatError
        If a value is not an array, or differs from the first in shape or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> registry = RayBackendRegistry("stacked", local=True)
    >>> registry["memory"].save_batch([np.ones(4), np.zeros(4)], ["/a", "/b"])
    >>> stack("/*", registry).sum(axis=1).compute()
    array([4., 0.])
    """
    store = RayBackendRegistry() if registry is None else registry
    memory = store["memory"]
    found = matching(memory, paths)
    first = memory.load(found[0])
    kind = _kind_of(memory, found[0])
    for path in found:
        other = _kind_of(memory, path)
        if other != kind or kind[0] is None:
            raise UnsupportedFormatError(
                f"stack needs arrays of one shape and dtype; the first has shape {kind[0]} and "
                f"dtype {kind[1]}, this one {other[0]} and {other[1]}",
                path=path,
                backend="memory",
            )
    load = delayed(partial(_load, store), pure=False)
    arrays = [da.from_delayed(load(path), first.shape, first.dtype) for path in found]
    stacked: da.Array = da.stack(arrays)
    return stacked


def _kind_of(memory: Any, path: str) -> tuple[Any, Any]:
    facts = memory.stat(path)
    return facts.get("shape"), facts.get("dtype")


def _load(registry: RayBackendRegistry, path: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = registry["memory"].load(path)
    return array
