"""Import plug-ins and optional modules when they are needed, with errors that say what failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from polystore.exceptions import StorageError, missing_dependency

__all__ = ["imported"]

T = TypeVar("T")


def imported(
    load: Callable[[], T],
    what: str,
    *,
    source: str,
    extra: str,
    error: type[StorageError],
    backend: str | None = None,
) -> T:
    """Return the result of `load`, which imports or creates an object.

    A missing package raises `MissingDependencyError`, which names the `extra` that brings it. Any
    other failure of what `source` names raises `error` with its cause.
    """
    try:
        return load()
    except ImportError as missing:
        raise missing_dependency(what, missing, extra, backend=backend) from missing
    except Exception as failure:
        raise error(
            f"{source} failed with {type(failure).__name__}: {failure}", backend=backend
        ) from failure
