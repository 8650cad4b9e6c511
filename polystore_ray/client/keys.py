"""Methods of the cluster memory for libraries that keep keys in it, as in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystore.paths import P, normalize
from polystore_ray.client.batch import Sealing, array_bytes, publish
from polystore_ray.client.lookup import Memory, texts_of
from polystore_ray.wire.messages import Items

__all__ = ["delete_keys", "load_existing", "load_versions", "save_versions"]


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
    return load_versions(self, paths)[0]


def load_versions(self: Memory, paths: Sequence[P]) -> tuple[list[Any], list[int]]:
    """Return what `load_existing` returns, and the version of each value, 0 for a missing one."""
    transport = self._connect()
    with transport.measured("memory", "load"):
        values, versions = self._load(transport, texts_of(paths), existing=True)
    transport.moved("memory", "load", array_bytes(values))
    return values, versions


def save_versions(
    self: Memory,
    values: Sequence[Any],
    paths: Sequence[P],
    versions: Sequence[int | None],
    *,
    bundled: int = 0,
) -> None:
    """Save values in one step, if the values that they replace still have these versions.

    Parameters
    ----------
    values, paths : sequence
        The values, and where they are to be stored; missing directories are made.
    versions : sequence of int or None
        One for each path, as of `load_versions`; None overwrites any value.
    bundled : int, default 0
        As for `save_batch`.

    Raises
    ------
    VersionConflictError
        If one has another version; nothing is saved then.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("versions", local=True)["memory"]
    >>> memory.save("old", "/a.txt")
    >>> _, versions = memory.load_versions(["/a.txt", "/b.txt"])
    >>> memory.save_versions(["new", "new"], ["/a.txt", "/b.txt"], versions)
    >>> memory.load_batch(["/a.txt", "/b.txt"])
    ['new', 'new']
    """
    texts = texts_of(paths)
    items = Items(texts, [], [], overwrite=True, parents=True, versions=list(versions))
    publish(self._connect(), Sealing(values, texts, bundled=bundled), items, None)


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
