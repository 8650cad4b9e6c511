"""The backends of this process: from a key to its class, and to its one instance."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from polystore.base import DataSource
from polystore.exceptions import (
    BackendNotFoundError,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
    missing_dependency,
)
from polystore.registration import _ABSTRACT, _REGISTRY, BUILTIN_BACKENDS, BackendBase, backend_key

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BackendRegistry",
    "backend_class",
    "backend_keys",
    "cleanup_all_backends",
    "create_storage_registry",
    "get_backend_instance",
]

ENTRY_POINT_GROUP = "polystore.backends"


@cache
def _plugins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a sixth of the time that importing would take

    return {backend_key(point.name): point for point in entry_points(group=ENTRY_POINT_GROUP)}


def backend_keys() -> list[str]:
    """Return every known key: memory, disk, zarr, then the others as they were defined.

    Nothing is imported for it. Keys of installed plug-ins (entry points of the group
    ``polystore.backends``) that no code has used yet come last.
    """
    return list(dict.fromkeys((*BUILTIN_BACKENDS, *_REGISTRY, *_plugins())))


def backend_class(key: object) -> type[BackendBase]:
    """Return the class registered under `key`, importing it where that has to be done first.

    Raises
    ------
    BackendNotFoundError
        If no concrete class has this key; for an abstract one, what it lacks.
    MissingDependencyError
        If its module needs a package that is not installed.
    """
    name = backend_key(key)
    registered: type[BackendBase] | None = _REGISTRY.get(name)
    if registered is not None:
        return registered
    if name in BUILTIN_BACKENDS:
        place = ":".join(BUILTIN_BACKENDS[name])
        return _imported(name, place, partial(resolve_name, place))
    if name in _plugins():
        point = _plugins()[name]
        return _imported(name, point.value, point.load)
    raise _unknown(name)


def _imported(key: str, source: str, load: Callable[[], Any]) -> type[BackendBase]:
    try:
        cls = load()
    except ImportError as error:
        raise missing_dependency("the backend", error, "all", backend=key) from error
    except Exception as error:
        raise _failed(f"the import of {source}", error, key) from error
    if not (isinstance(cls, type) and issubclass(cls, BackendBase)) or cls._backend_type != key:
        raise BackendNotFoundError(
            f"the plug-in {source!r} is not a backend that declares _backend_type = {key!r}",
            backend=key,
        )
    return cls


def _unknown(key: str) -> BackendNotFoundError:
    abstract = _ABSTRACT.get(key)
    if abstract is not None:
        lacks = ", ".join(sorted(getattr(abstract, "__abstractmethods__", ())))
        return BackendNotFoundError(
            f"{key!r} is declared by {abstract.__name__}, which is abstract: it lacks {lacks}"
        )
    return BackendNotFoundError(
        f"no backend is called {key!r}; the known ones are {', '.join(backend_keys())}"
    )


class _Instances:
    """Instances by key, each made once, on first use, whichever thread asks first."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._options = options or {}
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._made: dict[str, BackendBase] = {}
        _all.add(self)

    def renew_locks(self) -> None:
        """Make the locks anew in a forked child, where nobody would free them."""
        self._lock, self._locks = threading.Lock(), {}

    def get(self, key: str) -> BackendBase:
        cls = backend_class(key)
        made = self._made.get(key)
        # A class defined again under the same key (a notebook cell run twice) is a new one.
        if type(made) is cls:
            return made
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            made = self._made.get(key)
            if type(made) is not cls:
                made = self._made[key] = _create(key, cls, self._options.get(key, {}))
            return made

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, {}
        with ExitStack() as stack:
            for instance in made.values():
                stack.callback(instance.close)


_all: WeakSet[_Instances] = WeakSet()


def _renew_locks() -> None:
    for instances in list(_all):
        instances.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _create(key: str, cls: type[BackendBase], options: Mapping[str, Any]) -> BackendBase:
    try:
        return cls(**options)
    except ImportError as error:
        raise missing_dependency("the backend", error, "all", backend=key) from error
    except Exception as error:
        arguments = ", ".join(f"{name}=..." for name in options)  # which may be secrets
        raise _failed(f"{cls.__name__}({arguments})", error, key) from error


def _failed(what: str, error: Exception, key: str) -> StorageResolutionError:
    return StorageResolutionError(
        f"{what} failed with {type(error).__name__}: {error}", backend=key
    )


class BackendRegistry(Mapping[str, DataSource]):
    """A mapping from a backend's key to its one instance in this process.

    Membership, length, iteration and `keys` make no instance. ``[]``, `get`, `items` and
    `values` make those they return, once, also when several threads ask at the same time.
    Keys compare without regard to case. Classes defined later appear by themselves.

    Every ``BackendRegistry()`` of a process shares the same instances;
    `BackendRegistry.isolated` has its own.

    Raises
    ------
    BackendNotFoundError
        By ``[]``, if no backend has the key.
    MissingDependencyError
        By ``[]``, if the backend needs a package that is not installed.
    StorageResolutionError
        By ``[]``, with its cause, if the backend's constructor fails. The next access tries
        again; the key stays listed and other backends are not concerned.

    Examples
    --------
    >>> registry = BackendRegistry()
    >>> list(registry)[:3]
    ['memory', 'disk', 'zarr']
    >>> registry["Memory"] is registry["memory"]
    True
    """

    _shared = _Instances()

    def __init__(self) -> None:
        self._instances = self._shared

    @classmethod
    def isolated(cls, options: Mapping[str, Mapping[str, Any]] | None = None) -> BackendRegistry:
        """Return a registry whose instances are shared with no other.

        Parameters
        ----------
        options : mapping, optional
            For some keys, what the constructor gets.
        """
        registry = cls()
        registry._instances = _Instances(options)
        return registry

    def __getitem__(self, key: object) -> Any:
        return self._instances.get(backend_key(key))

    def __iter__(self) -> Iterator[str]:
        return iter(backend_keys())

    def __len__(self) -> int:
        return len(backend_keys())

    def __contains__(self, key: object) -> bool:
        try:
            return backend_key(key) in backend_keys()
        except VFSTypeError:
            return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

    def __reduce__(self) -> NoReturn:
        raise UnsupportedOperationError(
            "a BackendRegistry belongs to its process: another one would see another memory; "
            "use polystore_ray.RayBackendRegistry to share backends between processes, or make "
            "a BackendRegistry() where it is needed"
        )

    def close(self) -> None:
        """Close every instance that was made and forget it; the next access makes a new one."""
        self._instances.close()


def get_backend_instance(key: object) -> Any:
    """Return the instance of `key` that this process shares; as ``BackendRegistry()[key]``."""
    return BackendRegistry()[key]


def create_storage_registry() -> BackendRegistry:
    """Return the registry that this process shares; as ``BackendRegistry()``."""
    return BackendRegistry()


def cleanup_all_backends() -> None:
    """Close every backend that this process shares; the next access makes it anew."""
    BackendRegistry().close()
