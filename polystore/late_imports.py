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

    Parameters
    ----------
    load : callable
        Called without arguments.
    what : str
        What needs the import, as the start of a sentence.
    source : str
        What is done, for the error.
    extra : str
        The extra of polystore-ray that brings a missing package.
    error : type
        The class of the error for any failure but a missing package.
    backend : str, optional
        The backend, as the error shows it.

    Raises
    ------
    MissingDependencyError
        If a package is missing.
    StorageError
        An `error`, with its cause, if `load` fails otherwise.
    """
    try:
        return load()
    except ImportError as missing:
        raise missing_dependency(what, missing, extra, backend=backend) from missing
    except Exception as failure:
        raise error(
            f"{source} failed with {type(failure).__name__}: {failure}", backend=backend
        ) from failure
