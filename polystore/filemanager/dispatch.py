"""A call to a backend: the backend of its key, the options that it takes, and the errors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from polystore.arguments import did_you_mean
from polystore.base import DataSource, StorageBackend
from polystore.capabilities import MakesParents, options_of
from polystore.exceptions import (
    BackendNotFoundError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.keywords import listed, not_taken
from polystore.paths import P, display
from polystore.registration import BackendKey, backend_key
from polystore.transfer.proxies import class_of

__all__ = [
    "OptionRules",
    "Registry",
    "check_registry",
    "parents_option",
    "reading",
    "suggest_near",
    "writing",
]

_MOST_NAMES = 1000  # that a missing path is compared with

Registry = Mapping[str, DataSource]
"""From key to backend."""


def check_registry(registry: Any) -> Registry:
    """Return a registry; say what one is if it is something else.

    Raises
    ------
    StorageResolutionError
        If it is None.
    VFSTypeError
        If it is not a mapping.
    """
    if isinstance(registry, Mapping):
        return registry
    error = StorageResolutionError if registry is None else VFSTypeError
    given = "" if registry is ... else f", not {type(registry).__name__}"
    raise error(
        "FileManager needs a registry, a mapping from keys to backends: BackendRegistry(), "
        f"polystore_ray.RayBackendRegistry() or a dict{given}"
    )


class reading:  # noqa: N801 - used as a function; a generator takes thrice the time
    """Yield the backend of `key` to a block; let only a `StorageError` with path and key out of it.

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
        if isinstance(error, StorageError):
            error.located(**self._place())
            error.__traceback__ = without_internals(error.__traceback__)
        elif isinstance(error, Exception) and not isinstance(error, MemoryError):
            foreign = StorageResolutionError(
                f"the backend raised {type(error).__name__}: {error}", **self._place()
            )
            foreign.written = getattr(error, "written", ())
            raise foreign from error

    def _place(self) -> dict[str, str | None]:
        path = None if self._path is None else display(self._path)
        return {"path": path, "backend": backend_key(self._key)}


def suggest_near(error: PathNotFoundError, backend: DataSource, path: P) -> None:
    """Add the nearest name in the directory of a missing path to the message, if one is near."""
    directory, _, name = display(path).rpartition("/")
    with suppress(Exception):  # a suggestion never replaces the error
        names = backend.list_dir(directory or ("/" if display(path)[:1] == "/" else "."))
        error.message += did_you_mean(name, names[:_MOST_NAMES])


def without_internals(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of polystore below its first frame.

    The environment variable ``POLYSTORE_FULL_TRACEBACK`` keeps them, for work on polystore itself.
    """
    if trace is None or os.environ.get("POLYSTORE_FULL_TRACEBACK"):
        return trace
    frames = [trace]
    while (below := frames[-1].tb_next) is not None:
        frames.append(below)
    shown: TracebackType | None = None
    for each in reversed(frames[1:]):
        package = each.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("polystore", "polystore_ray"):
            shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return TracebackType(shown, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


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
        known_keys = [str(known) for known in registry]
        raise BackendNotFoundError(
            f"no backend is called {name!r}{did_you_mean(name, known_keys)}; the known ones are "
            f"{', '.join(known_keys)}"
        ) from None


class OptionRules:
    """What a file manager does with options that a backend does not take, and with `overwrite`.

    Parameters
    ----------
    strict : bool
        Whether an option that the backend does not take raises. Otherwise it is dropped, with one
        warning for each backend.
    overwrite : bool
        The default of the option `overwrite` of saves.
    """

    def __init__(self, *, strict: bool, overwrite: bool) -> None:
        self.strict = strict
        self.overwrite = overwrite
        self._warned: set[tuple[str, str, frozenset[str]]] = set()

    def applied(self, backend: DataSource, method: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options that a call passes on.

        Raises
        ------
        VFSTypeError
            If the backend does not take one of them; the message lists those that it takes.
        """
        if not (options or self.overwrite):
            return options
        cls: type = class_of(backend)
        taken = options_of(cls, method)
        if taken is None:
            return options
        if self.overwrite and "overwrite" in taken:
            options = {"overwrite": True, **options}
        others = options.keys() - taken
        if others and self.strict:
            raise not_taken(cls, method, sorted(others), sorted(taken))
        if others:
            self._warn(backend, method, frozenset(others))
        return {name: value for name, value in options.items() if name in taken}

    def _warn(self, backend: DataSource, method: str, others: frozenset[str]) -> None:
        name = class_of(backend).__name__
        if (name, method, others) not in self._warned:
            self._warned.add((name, method, others))
            message = f"{name}.{method} takes no {listed(sorted(others))}; dropped"
            warnings.warn(message, UserWarning, stacklevel=4)


def parents_option(backend: StorageBackend, *, parents: bool) -> dict[str, bool]:
    """Return the option `parents` for a backend whose ``save`` takes it."""
    return {"parents": parents} if isinstance(backend, MakesParents) else {}
