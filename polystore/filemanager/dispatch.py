"""Find the backend of a key, and let only the errors of polystore out of its calls."""

from __future__ import annotations

from collections.abc import Mapping

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import MakesParents
from polystore.exceptions import (
    BackendNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
)
from polystore.paths import P, display
from polystore.registration import BackendKey, backend_key

__all__ = ["Registry", "parents_option", "reading", "writing"]

Registry = Mapping[str, DataSource]
"""From key to backend."""


class reading:  # noqa: N801 - used as a function; a generator takes thrice the time
    """Yield the backend of `key` to a block; let only a `StorageError` out of it.

    Raises
    ------
    BackendNotFoundError
        If the registry has no such backend.
    StorageResolutionError
        If the block raises any other exception, which is its cause.
    """

    __slots__ = ("_key", "_path", "_registry")

    def __init__(self, registry: Registry, key: BackendKey, path: P | None = None) -> None:
        self._registry, self._key, self._path = registry, key, path

    def __enter__(self) -> DataSource:
        try:
            return _resolve(self._registry, self._key)
        except Exception as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, StorageError | MemoryError):
            raise StorageResolutionError(
                f"the backend raised {type(error).__name__}: {error}", **self._place()
            ) from error

    def _place(self) -> dict[str, str | None]:
        path = None if self._path is None else display(self._path)
        return {"path": path, "backend": backend_key(self._key)}


class writing(reading):  # noqa: N801 - as `reading`
    """Yield the backend of `key` as `reading` does, if it can be written.

    Raises
    ------
    UnsupportedOperationError
        If the backend can only be read.
    """

    __slots__ = ("_operation",)

    def __init__(
        self, registry: Registry, key: BackendKey, operation: str, path: P | None = None
    ) -> None:
        super().__init__(registry, key, path)
        self._operation = operation

    def __enter__(self) -> StorageBackend:
        backend = super().__enter__()
        if not isinstance(backend, StorageBackend):
            raise UnsupportedOperationError(
                f"{type(backend).__name__} can only be read; it does not support {self._operation}",
                **self._place(),
            )
        return backend


def _resolve(registry: Registry, key: BackendKey) -> DataSource:
    name = backend_key(key)
    try:
        return registry[name]
    except BackendNotFoundError:
        raise
    except KeyError:
        for known in registry:  # a plain dict, which distinguishes upper and lower case
            if backend_key(known) == name:
                return registry[known]
        raise BackendNotFoundError(
            f"no backend is called {name!r}; the known ones are {', '.join(map(str, registry))}"
        ) from None


def parents_option(backend: StorageBackend, *, parents: bool) -> dict[str, bool]:
    """Return the option `parents` for a backend whose ``save`` takes it."""
    return {"parents": parents} if isinstance(backend, MakesParents) else {}
