"""Registration: a backend's class has a key, under which it is found once it is defined."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Hashable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Self

from metaclass_registry import (
    AutoRegisterMeta,
    DuplicateRegistryKeyError,
    RegistryConfig,
    register_once,
)

from polystore.exceptions import VFSTypeError
from polystore.paths import P, as_text

__all__ = ["BUILTIN_BACKENDS", "BackendBase", "BackendMeta", "backend_key", "register_backend"]

# Key to (module, class): imported when the key is first accessed, never before.
BUILTIN_BACKENDS: Mapping[str, tuple[str, str]] = {
    "memory": ("polystore.memory", "MemoryBackend"),
    "disk": ("polystore.disk", "DiskBackend"),
    "zarr": ("polystore.zarr.backend", "ZarrBackend"),
}

_FAMILY = "storage backend"
_REGISTRY: dict[Any, Any] = {}
_ABSTRACT: dict[str, type[BackendBase]] = {}
_CONFIG = RegistryConfig(
    registry_dict=_REGISTRY,
    key_attribute="_backend_type",
    skip_if_no_key=True,
    registry_name=_FAMILY,
)


def backend_key(key: object) -> str:
    """Return the one spelling of a backend's key.

    Parameters
    ----------
    key : str or enum.Enum
        A key in any case, or an enum member whose value is one.

    Raises
    ------
    VFSTypeError
        If it is neither.
    """
    value = key.value if isinstance(key, Enum) else key
    if not isinstance(value, str):
        raise VFSTypeError(
            f"a backend's key is a str or an enum member whose value is one, "
            f"not {type(key).__name__}"
        )
    return value.lower()


class BackendMeta(AutoRegisterMeta):
    """Register each concrete class whose body declares a ``_backend_type``.

    A class that inherits its key registers nothing. A class that is still abstract is
    remembered, so that looking its key up can say what it lacks.

    Raises
    ------
    metaclass_registry.DuplicateRegistryKeyError
        At definition, if another class has the key.
    """

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> type:
        """Create the class and register it where it declares a key and is concrete."""
        declared = namespace.get("_backend_type")
        if declared is None:
            return ABCMeta.__new__(mcs, name, bases, namespace, **keywords)
        key = backend_key(declared)
        _refuse_builtin_key(key, namespace.get("__module__"), namespace.get("__qualname__"))
        namespace = {**namespace, "_backend_type": key}
        cls: Any = super().__new__(mcs, name, bases, namespace, registry_config=_CONFIG, **keywords)
        if cls.__abstractmethods__:
            _ABSTRACT[key] = cls
        created: type = cls
        return created


def _refuse_builtin_key(key: str, module: object, name: object) -> None:
    builtin = BUILTIN_BACKENDS.get(key)
    if builtin is not None and builtin != (module, name):
        raise DuplicateRegistryKeyError(
            f"{_FAMILY} key {key!r} belongs to {'.'.join(builtin)}; "
            f"give {module}.{name} a key of its own"
        )


def register_backend(cls: type[BackendBase]) -> None:
    """Register a class that was not defined here but arrived in a pickle.

    A class that cloudpickle rebuilds is created bare and filled in afterwards, so its
    metaclass saw no key. Whoever receives such a class calls this. Registering the same
    class again is harmless; a newer version of it takes its place.

    Raises
    ------
    metaclass_registry.DuplicateRegistryKeyError
        If a different class has its key.
    """
    key = backend_key(cls._backend_type)
    _refuse_builtin_key(key, cls.__module__, cls.__qualname__)
    register_once(_REGISTRY, key, cls, registry_name=_FAMILY)


class BackendBase(metaclass=BackendMeta):
    """What every backend has: a key, and an end."""

    _backend_type: ClassVar[str | None] = None
    # What a host of the backend needs on a cluster, as options of a Ray actor: {"num_gpus": 1}.
    _host_options: ClassVar[Mapping[str, Any]] = {}
    # Whether regions of one array may be saved at once, since the backend lets none undo another.
    _saves_regions_together: ClassVar[bool] = False
    __registry__: ClassVar[dict[Any, Any]] = _REGISTRY

    @classmethod
    def portable_path(cls, path: P, /, **options: Any) -> str:
        """Return `path` as it means the same in every process of this machine.

        A backend whose paths depend on the working directory overrides it.

        Parameters
        ----------
        path : str or os.PathLike
            A path as this process means it.
        **options
            What the instance in the other process was made with.
        """
        return as_text(path, backend=cls._backend_type)

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        """Return the constructor's arguments as they mean the same in every process.

        A backend that takes a path which depends on the working directory overrides it.
        """
        return options

    def portable(self, path: P, /) -> str:
        """Return a path as others are to say it who use this same instance."""
        return as_text(path, backend=self._backend_type)

    def content_identity(self, path: P, /) -> Hashable | None:
        """Return what differs as soon as what `load` returns does; None if nothing is known to.

        A host on a cluster keeps what was loaded from a path, for others to load too, as long as
        this is the same. A class that defines `load` anew is not asked, unless it defines this
        too.
        """
        return None

    def close(self) -> None:
        """Release what the backend holds; a closed backend must not be used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
