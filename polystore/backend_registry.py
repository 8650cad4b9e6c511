"""The backends of this process: the class of a key, and its instance."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from polystore.arguments import did_you_mean
from polystore.base import DataSource
from polystore.exceptions import (
    BackendNotFoundError,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.late_imports import imported
from polystore.notebooks import table
from polystore.registration import _ABSTRACT, _REGISTRY, BUILTIN_BACKENDS, BackendBase, backend_key

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BackendRegistry",
    "backend_class",
    "backend_keys",
    "cleanup_all_backends",
    "cleanup_backend_connections",
    "create_storage_registry",
    "get_backend_instance",
    "register_cleanup_callback",
]

ENTRY_POINT_GROUP = "polystore.backends"

_callbacks: list[Callable[[], object]] = []


@cache
def _plugins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a sixth of the time that importing would take

    return {backend_key(point.name): point for point in entry_points(group=ENTRY_POINT_GROUP)}


def backend_keys() -> list[str]:
    """Return every known key: memory, disk, zarr, then the others as they were defined.

    Nothing is imported. The keys of installed plug-ins that were not used yet (entry points of the
    group ``polystore.backends``) come last.
    """
    return list(dict.fromkeys((*BUILTIN_BACKENDS, *_REGISTRY, *_plugins())))


def backend_class(key: object) -> type[BackendBase]:
    """Return the class of `key`; import it on first use.

    Raises
    ------
    BackendNotFoundError
        If no concrete class has this key. For an abstract class, the error names the missing
        methods.
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
    cls = _attempted(key, f"the import of {source}", load)
    if not (isinstance(cls, type) and issubclass(cls, BackendBase)) or cls._backend_type != key:
        raise BackendNotFoundError(
            f"the plug-in {source!r} is not a backend that declares _backend_type = {key!r}",
            backend=key,
        )
    return cls


def _attempted(key: str, source: str, load: Callable[[], Any]) -> Any:
    return imported(
        load,
        "the backend",
        source=source,
        extra="all",
        error=StorageResolutionError,
        backend=key,
    )


def _unknown(key: str) -> BackendNotFoundError:
    abstract = _ABSTRACT.get(key)
    if abstract is not None:
        lacks = ", ".join(sorted(getattr(abstract, "__abstractmethods__", ())))
        return BackendNotFoundError(
            f"{key!r} is declared by {abstract.__name__}, which is abstract: it lacks {lacks}"
        )
    known = backend_keys()
    return BackendNotFoundError(
        f"no backend is called {key!r}{did_you_mean(key, known)}; the known ones are "
        f"{', '.join(known)}"
    )


class _Instances:
    """Instances by key, each created once, on first use, by whichever thread asks first."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._options = options or {}
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._made: dict[str, BackendBase] = {}
        _all.add(self)

    def renew_locks(self) -> None:
        """Replace the locks in a forked child, where no thread would release them."""
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

    def made(self) -> list[str]:
        return list(self._made)

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
    arguments = ", ".join(f"{name}=..." for name in options)  # the values may be secrets
    created: BackendBase = _attempted(key, f"{cls.__name__}({arguments})", partial(cls, **options))
    return created


class BackendRegistry(Mapping[str, DataSource]):
    """A mapping from a backend's key to its one instance in this process.

    Membership, length, iteration and `keys` create no instance. ``[]``, `get`, `items` and
    `values` create each instance once, also when several threads ask at the same time. Keys
    compare without regard to case. Classes defined later appear by themselves.

    Every ``BackendRegistry()`` of a process shares the same instances;
    `BackendRegistry.isolated` has its own. A backend that is assigned, as in
    ``registry["zarr"] = ZarrBackend("/data")``, is used by this registry object alone, and is
    closed by the caller, not by `close`.

    Raises
    ------
    BackendNotFoundError
        By ``[]``, if no backend has the key.
    MissingDependencyError
        By ``[]``, if the backend needs a package that is not installed.
    StorageResolutionError
        By ``[]``, with its cause, if the backend's constructor fails. The key stays listed, the
        next access tries again, and other backends are not affected.

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
        self._assigned: dict[str, DataSource] = {}

    @classmethod
    def isolated(cls, options: Mapping[str, Mapping[str, Any]] | None = None) -> BackendRegistry:
        """Return a registry with instances of its own.

        Parameters
        ----------
        options : mapping, optional
            From key to the arguments of its constructor.
        """
        registry = cls()
        registry._instances = _Instances(options)
        return registry

    def __getitem__(self, key: object) -> Any:
        name = backend_key(key)
        return self._assigned[name] if name in self._assigned else self._instances.get(name)

    def __setitem__(self, key: object, backend: DataSource) -> None:
        name = backend_key(key)
        if not isinstance(backend, DataSource):
            raise VFSTypeError(
                f"a registry holds instances of backends, not {backend!r}",
                backend=name,
            )
        self._assigned[name] = backend

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*backend_keys(), *self._assigned)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        try:
            return backend_key(key) in list(self)
        except VFSTypeError:
            return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

    def in_use(self) -> list[str]:
        """Return the keys of the backends that have been created or assigned; create none."""
        made = {*self._instances.made(), *self._assigned}
        return [key for key in self if key in made]

    def _repr_html_(self) -> str:
        used = self.in_use()
        rows = [(key, "in use" if key in used else "") for key in self]
        return table(rows, caption=type(self).__name__)

    def __reduce__(self) -> NoReturn:
        raise UnsupportedOperationError(
            "a BackendRegistry belongs to its process, and is not pickled. Use "
            "polystore_ray.RayBackendRegistry to share backends between processes, or create a "
            "BackendRegistry() in each process"
        )

    def close(self) -> None:
        """Close and forget every instance that it created; the next access creates a new one."""
        self._instances.close()


def get_backend_instance(key: object) -> Any:
    """Return the shared instance of `key`: ``BackendRegistry()[key]``."""
    return BackendRegistry()[key]


def create_storage_registry() -> BackendRegistry:
    """Return the shared registry of this process: ``BackendRegistry()``."""
    return BackendRegistry()


def cleanup_all_backends() -> None:
    """Close every shared backend of this process; the next access creates it again."""
    with ExitStack() as stack:
        stack.callback(cleanup_backend_connections)
        BackendRegistry().close()


def register_cleanup_callback(callback: Callable[[], object]) -> None:
    """Have `cleanup_all_backends` and `cleanup_backend_connections` call a function."""
    _callbacks.append(callback)


def cleanup_backend_connections() -> None:
    """Call the functions of `register_cleanup_callback`; what backends hold stays.

    The backends of polystore keep no connections between calls.
    """
    with ExitStack() as stack:
        for callback in _callbacks:
            stack.callback(callback)
