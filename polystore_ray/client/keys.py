"""Methods of the cluster memory for libraries that keep keys in it, as in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystore.paths import P, normalize
from polystore_ray.client.batch import array_bytes
from polystore_ray.client.lookup import Memory, texts_of

__all__ = ["delete_keys", "load_existing"]


def load_existing(self: Memory, paths: Sequence[P]) -> list[Any]:
    """Return the values at `paths`, None for a path without a file, in one call.

    Parameters
    ----------
    paths : sequence of str or os.PathLike
        The paths; their values are of one moment.

    Raises
    ------
    DataLostError, CallTimeoutError, StoreUnavailableError
        As `load`; a lost value is never reported as missing.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("sparse", local=True)["memory"]
    >>> memory.save("there", "/a.txt")
    >>> memory.load_existing(["/a.txt", "/b.txt"])
    ['there', None]
    """
    transport = self._connect()
    with transport.measured("memory", "load"):
        values, _ = self._load(transport, texts_of(paths), existing=True)
    transport.moved("memory", "load", array_bytes(values))
    return values


def delete_keys(self: Memory, paths: Sequence[P], top: P) -> None:
    """Delete files and the directories below `top` that this leaves empty, in one step.

    Object stores have no directories, and a key that is missing may be deleted; this does the
    same for what keeps its keys in the memory. A directory that is not empty stays.

    Parameters
    ----------
    paths : sequence of str or os.PathLike
        What to delete.
    top : str or os.PathLike
        The directory that stays even if it is empty.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("keys", local=True)["memory"]
    >>> memory.save(1, "/top/c/0/0", parents=True)
    >>> memory.delete_keys(["/top/c/0/0", "/top/c/0/1"], "/top")
    >>> memory.list_dir("/top")
    []
    """
    texts = texts_of(paths)
    transport = self._connect()
    with transport.measured("memory", "delete"):
        kept = normalize(top, backend="memory").rstrip("/")
        path = texts[0] if texts else None
        transport.change("delete_keys", texts, kept, path=path)
