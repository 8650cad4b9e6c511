"""Look values up, again while the objects that hold them move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from polystore.arguments import check_collection
from polystore.exceptions import StorageError
from polystore.paths import P, as_text
from polystore_ray.errors import DataLostError
from polystore_ray.transport.base import Transport
from polystore_ray.wire.messages import Found, NotPinnedError

__all__ = ["Memory", "Read", "look_up", "nodes_if_known", "nodes_of", "texts_of"]

T = TypeVar("T")


Read = Callable[[Transport, list[str], bool], tuple[list[Any], list[int]]]
"""Returns the values at paths and their versions; Nones where ``existing`` and nothing is there."""


Nodes = list[tuple[str, ...]]
"""For each of some paths, the ids of the nodes that hold its bytes."""


class Memory(Protocol):
    """The cluster memory, as functions use it that are methods of it."""

    _connect: Callable[[], Transport]
    _registry: Mapping[str, Any]

    def load(self, path: P) -> Any: ...

    def save(
        self, data: Any, path: P, *, overwrite: bool = False, parents: bool = False
    ) -> None: ...

    def _load(
        self, transport: Transport, paths: list[str], *, existing: bool = False
    ) -> tuple[list[Any], list[int]]: ...


def texts_of(paths: Sequence[P]) -> list[str]:
    """Return the paths of a batch as text."""
    check_collection(paths, "paths", backend="memory")
    return [as_text(path, backend="memory") for path in paths]


def nodes_of(transport: Transport, paths: list[str]) -> Nodes:
    """Return, for each path, the ids of the nodes that hold its bytes."""
    found: Nodes = transport.ask("nodes", paths, path=paths[0] if paths else None)
    return found


def nodes_if_known(find: Callable[[list[str]], Nodes], paths: list[str]) -> Nodes:
    """Return the nodes that `find` returns for paths, none for any if it raises for one.

    The task that is to run near a path reports what is wrong with it.
    """
    try:
        return find(paths)
    except (ConnectionError, TimeoutError):
        raise
    except StorageError:
        return [()] * len(paths)


def look_up(
    transport: Transport, paths: list[str], use: Callable[[Found], T], *, existing: bool = False
) -> T:
    """Return what `use` makes of what is stored at some paths.

    - `transport`: where to ask
    - `use`: called with a `Found`, and again with a new one whenever it raises `NotPinnedError`
    - `existing`: whether a path without a file is None in the `Found` instead of an error

    Raises `PathNotFoundError` or `PathIsDirectoryError` same as for a load; `DataLostError` if an
    object is lost for good, or cannot be read by the deadline.
    """
    path = paths[0] if paths else None

    def attempt() -> T:
        try:
            return use(transport.reads.look_up(transport, paths, existing=existing))
        except (NotPinnedError, DataLostError):
            transport.reads.forget(paths)  # what was kept may lead to an object that is gone
            return use(transport.ask("read", paths, transport.node, existing, path=path))

    def lost(error: NotPinnedError) -> DataLostError:
        return DataLostError(
            f"no node returned the saved bytes in time ({error}). Load the value again, since the "
            f"store may be recovering; `polystore lost` lists what is lost for good",
            path=path,
            backend="memory",
        )

    return transport.deadline.retry(attempt, NotPinnedError, lost)
