"""Methods of the backends of files that watch a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol

from polystore.events import Event, Events, async_events
from polystore.paths import P

__all__ = ["awatch", "watch"]


class HasTree(Protocol):
    """A backend of files, as functions use it that are methods of it."""

    def _forward(self, operation: str, path: P, /, *args: Any, **options: Any) -> Any: ...


def watch(
    self: HasTree, path: P, *, recursive: bool = True, timeout: float | None = None
) -> Events:
    """Yield what happens in a directory, whichever process of this machine does it.

    The watch begins with the call: nothing that happens after it returns is missed. It is an
    iterator, and a context manager at whose end the watch ends, as with ``close()``.

    Parameters
    ----------
    path : str or os.PathLike
        An existing directory.
    recursive : bool, default True
        Whether to watch all levels below it; otherwise the directory and what is in it.
    timeout : float, optional
        End after so many seconds without an event. Without it the iterator has no end.

    Yields
    ------
    Event
        A path that was created, replaced or deleted, named as `list_files` names it. The numbers
        count the events of this watch.

    Raises
    ------
    PathNotFoundError
        If the directory is missing. By the iterator, if it was deleted, moved or replaced by
        another one, after an event for each path that was in it.
    PathNotDirectoryError
        If it is a file.
    StorageResolutionError
        If the system refuses to watch so many directories.
    UnsupportedOperationError
        If a URL names the directory: object stores do not say what changes in them.
    MissingDependencyError
        If the package ``watchfiles`` is missing, which the extra ``watch`` brings.

    Notes
    -----
    An event is the difference between two looks at the directory: about 0.1 s after a change that
    the system reports, and within half a second while changes go on. What is done to one path
    between two looks is one event, or none if nothing of it is left. The events of one look have
    no order in time: what was deleted comes first, then what was created or replaced.

    A save is one event. An array of the zarr backend is one value: a save into a region of it is
    an event ``replaced`` of the array, after which all its chunks are looked at. A file that
    another program writes in place is created first, and replaced as it grows. Temporary files of
    polystore have no events. A move is ``deleted`` and ``created``, and each path of a tree has an
    event of its own. Links are not followed.

    The system reports changes of this machine only. What other machines do to a network file
    system is found by a look at the whole directory, each 10 s or, for a large one, less often; so
    is what the system lost because too much happened at once. Where it reports nothing, as on some
    mounts in containers, the environment variable ``WATCHFILES_FORCE_POLLING=1`` lets `watchfiles`
    look itself. Files keep no past to go on from: list the directory after the watch has begun.

    Examples
    --------
    >>> import tempfile
    >>> from polystore import DiskBackend
    >>> disk = DiskBackend(tempfile.mkdtemp())
    >>> events = disk.watch("/", timeout=0.1)
    >>> disk.save([1, 2], "/plate1/counts.json", parents=True)
    >>> for event in events:
    ...     print(event.kind, event.type, event.path)
    created directory /plate1
    created file /plate1/counts.json
    """
    begun: Events = self._forward("watching", path, recursive=recursive, timeout=timeout)
    return begun


def awatch(
    self: HasTree,
    path: P,
    *,
    recursive: bool = True,
    timeout: float | None = None,
) -> AsyncIterator[Event]:
    """Yield as `watch` does, while the event loop goes on; it begins with the first step.

    Each takes a thread until it ends.
    """
    begin = partial(self._forward, "watching", path, recursive=recursive, timeout=timeout)
    return async_events(begin)
