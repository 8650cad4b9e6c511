"""Find the backend of a key, and let only the errors of polystore out of its calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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


@contextmanager
def reading(registry: Registry, key: BackendKey, path: P | None = None) -> Iterator[DataSource]:
    """Yield the backend of `key`; let only a `StorageError` out of the block.

    Raises
    ------
    BackendNotFoundError
        If the registry has no such backend.
    StorageResolutionError
        If the block raises any other exception, which is its cause.
    """
    try:
        yield _resolve(registry, key)
    except (StorageError, MemoryError):
        raise
    except Exception as error:
        raise StorageResolutionError(
            f"the backend raised {type(error).__name__}: {error}",
            path=None if path is None else display(path),
            backend=backend_key(key),
        ) from error


@contextmanager
def writing(
    registry: Registry, key: BackendKey, operation: str, path: P | None = None
) -> Iterator[StorageBackend]:
    """Yield the backend of `key` as `reading` does, if it can be written.

    Raises
    ------
    UnsupportedOperationError
        If the backend can only be read.
    """
    with reading(registry, key, path) as backend:
        if not isinstance(backend, StorageBackend):
            raise UnsupportedOperationError(
                f"{type(backend).__name__} can only be read; it does not support {operation}",
                path=None if path is None else display(path),
                backend=backend_key(key),
            )
        yield backend


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
