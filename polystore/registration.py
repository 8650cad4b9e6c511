"""Registration of backends: a class that declares a key is found by it once it is defined."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping
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

__all__ = [
    "BUILTIN_BACKENDS",
    "BackendBase",
    "BackendKey",
    "BackendMeta",
    "backend_key",
    "register_backend",
]

BackendKey = str | Enum
"""A backend's key: text in any case, or an enum member whose value is such a text."""

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
    """Return a backend's key in lower case.

    - `key`: a key in any case, or an enum member whose value is a key

    Raises `VFSTypeError` if it is neither.
    """
    value = key.value if isinstance(key, Enum) else key
    if not isinstance(value, str):
        raise VFSTypeError(
            f"a backend's key must be a str or an enum member whose value is a str, "
            f"not {type(key).__name__}"
        )
    return value.lower()


class BackendMeta(AutoRegisterMeta):
    """Register each concrete class whose body declares a ``_backend_type``.

    A class that inherits its key registers nothing. An abstract class is remembered, so that a
    lookup of its key can name the methods it lacks.

    Raises `DuplicateRegistryKeyError` at definition, if another class has the key.
    """

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> type:
        """Create the class; register it if it declares a key and is concrete."""
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
            f"give {module}.{name} another key"
        )


def register_backend(cls: type[BackendBase]) -> None:
    """Register a class that was unpickled, not defined in this process.

    Cloudpickle creates such a class empty and adds its attributes afterwards, so the metaclass
    finds no key. The receiver of the class calls this function. Registering the same class again
    has no effect; a newer version of the class replaces it.

    Raises
    ------
    metaclass_registry.DuplicateRegistryKeyError
        If a different class has its key.
    """
    key = backend_key(cls._backend_type)
    _refuse_builtin_key(key, cls.__module__, cls.__qualname__)
    register_once(_REGISTRY, key, cls, registry_name=_FAMILY)


class BackendBase(metaclass=BackendMeta):
    """The base of every backend: a key, and an end."""

    _backend_type: ClassVar[str | None] = None
    __registry__: ClassVar[dict[Any, Any]] = _REGISTRY

    def close(self) -> None:
        """Release the resources of the backend; a closed backend must not be used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
