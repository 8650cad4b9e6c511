"""The names of the PyPI package polystore 0.x, so that code that was written for it finds them.

``polystore`` imports this module, which puts the names into the modules that had them. The page
"Coming from polystore 0.x" of the documentation lists them.
"""

from __future__ import annotations

from typing import Any

from polystore import backend_registry, base, exceptions

__all__ = [
    "MetadataNotFoundError",
    "cleanup_backend_connections",
    "ensure_storage_registry",
    "reset_memory_backend",
    "storage_registry",
]

_CLASSES = {
    "DiskStorageBackend": "disk",
    "MemoryStorageBackend": "memory",
    "ZarrStorageBackend": "zarr",
}

MetadataNotFoundError = exceptions.PathNotFoundError
cleanup_backend_connections = backend_registry.cleanup_backend_connections

storage_registry = backend_registry.BackendRegistry()
"""A registry with the shared instances of this process."""


def ensure_storage_registry() -> None:
    """Do nothing: a `BackendRegistry` creates each backend on first use."""


def reset_memory_backend() -> None:
    """Delete the files of this process's shared memory backend, and keep its directories."""
    storage_registry["memory"].clear_files_only()


def _class_of_base(name: str) -> Any:
    """Return a class that ``polystore.base`` had, imported on first use."""
    if name in _CLASSES:
        return backend_registry.backend_class(_CLASSES[name])
    raise AttributeError(f"module 'polystore.base' has no attribute {name!r}")


vars(exceptions)["MetadataNotFoundError"] = MetadataNotFoundError
vars(base).update(
    __getattr__=_class_of_base,
    _create_storage_registry=backend_registry.create_storage_registry,
    ensure_storage_registry=ensure_storage_registry,
    reset_memory_backend=reset_memory_backend,
    storage_registry=storage_registry,
)
