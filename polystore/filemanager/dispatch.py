"""From a backend's key to the backend, with nothing but errors of polystore let out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from polystore.base import accepts
from polystore.exceptions import (
    BackendNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
)
from polystore.paths import P, display
from polystore.registration import backend_key

__all__ = ["Routing", "offered", "parents_option"]


class Routing:
    """What has a registry, and calls the backends in it.

    Parameters
    ----------
    registry : Mapping
        From key to backend.
    """

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self.registry = registry

    @contextmanager
    def _backend(self, key: object, path: P | None = None) -> Iterator[Any]:
        """Give the backend of `key`, and let nothing but a `StorageError` out."""
        try:
            yield self._resolve(key)
        except (StorageError, MemoryError):
            raise
        except Exception as error:
            raise StorageResolutionError(
                f"the backend raised {type(error).__name__}: {error}",
                path=None if path is None else display(path),
                backend=backend_key(key),
            ) from error

    def _resolve(self, key: object) -> Any:
        name = backend_key(key)
        try:
            return self.registry[name]
        except BackendNotFoundError:
            raise
        except KeyError:
            # A plain dict compares its keys to the letter; the contract does not.
            for known in self.registry:
                if backend_key(known) == name:
                    return self.registry[known]
            raise BackendNotFoundError(
                f"no backend is called {name!r}; the known ones are "
                f"{', '.join(map(str, self.registry))}"
            ) from None


def offered(target: Any, operation: str, key: object, path: P | None = None) -> Callable[..., Any]:
    """Return a method of a backend, which one that can only be read has not.

    Raises
    ------
    UnsupportedOperationError
        If it has not.
    """
    method: Callable[..., Any] | None = getattr(target, operation, None)
    if method is None:
        raise UnsupportedOperationError(
            f"{type(target).__name__} can only be read: it has no {operation}",
            path=None if path is None else display(path),
            backend=backend_key(key),
        )
    return method


def parents_option(backend: Any, parents: bool) -> dict[str, bool]:
    """Return the option `parents` for backends whose ``save`` knows it."""
    cls: Any = type(backend)
    return {"parents": parents} if accepts(cls, "save", "parents") else {}
