"""One storage interface over many backends: memory, disk, zarr, and your own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polystore import compat, exceptions
from polystore.backend_registry import BackendRegistry, backend_class
from polystore.base import DataSink, DataSource, ReadOnlyBackend, StorageBackend
from polystore.events import Event
from polystore.exceptions import *  # noqa: F403 - the error tree is public as a whole
from polystore.filemanager import FileManager
from polystore.hostable import Hostable
from polystore.registration import BackendBase, BackendKey
from polystore.stat import Stat

if TYPE_CHECKING:
    from polystore.atomic import atomic_update_json, atomic_write, atomic_write_json, file_lock
    from polystore.disk import DiskBackend
    from polystore.memory import MemoryBackend
    from polystore.zarr import ZarrBackend

__version__ = "0.1.0"

__all__ = [
    "BackendBase",
    "BackendKey",
    "BackendRegistry",
    "DataSink",
    "DataSource",
    "DiskBackend",
    "Event",
    "FileManager",
    "Hostable",
    "MemoryBackend",
    "ReadOnlyBackend",
    "Stat",
    "StorageBackend",
    "ZarrBackend",
    "atomic_update_json",
    "atomic_write",
    "atomic_write_json",
    "file_lock",
]
__all__ += exceptions.__all__

# Imported on first use, since their modules may be slow to load.
_BACKENDS = {"DiskBackend": "disk", "MemoryBackend": "memory", "ZarrBackend": "zarr"}
_ATOMIC = ("atomic_update_json", "atomic_write", "atomic_write_json", "file_lock")


def __getattr__(name: str) -> Any:
    if name in _BACKENDS:
        return backend_class(_BACKENDS[name])
    if name in _ATOMIC:
        return getattr(import_module("polystore.atomic"), name)
    if name in compat.__all__:
        return getattr(compat, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_BACKENDS, *_ATOMIC])
