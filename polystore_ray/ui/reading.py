"""The backends of a registry as the page reads them: nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from polystore import FileManager, MemoryBackend, StorageError
from polystore.exceptions import InvalidPathError
from polystore_ray.client.hosted import HostedBackend
from polystore_ray.interop.plain_memory import plain_loads, plain_memory
from polystore_ray.registry import RayBackendRegistry

__all__ = ["Place", "PlainRegistry", "start_of"]


class Place(NamedTuple):
    """The key of a backend, and a path in that backend."""

    backend: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place in a JSON array of two strings, which can hold any file name."""
        try:
            backend, path = json.loads(text)
        except (TypeError, ValueError):
            backend = path = None
        if not isinstance(backend, str) or not isinstance(path, str):
            raise InvalidPathError('a place is ["backend", "path"]', path=text)
        return cls(backend, path)

    def below(self, name: str) -> Place:
        """Return the place of a name in this directory."""
        return self._replace(path=f"{self.path.rstrip('/')}/{name}")


class PlainRegistry(Mapping[str, Any]):
    """The backends of a registry, of which those in memory open only plain data."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self._registry = registry

    def __getitem__(self, key: str) -> Any:
        backend = self._registry[key]
        if isinstance(backend, MemoryBackend):
            return backend.opened_by(plain_loads)
        if isinstance(self._registry, RayBackendRegistry) and key == "memory":
            return plain_memory(self._registry)
        return backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)


def start_of(fm: FileManager, backend: str) -> str:
    """Return the directory to begin with: the root, or where there is none the current one."""
    found = fm.registry[backend]
    if isinstance(found, HostedBackend):
        return found.portable(".")
    with suppress(StorageError):
        return os.path.abspath(fm.stat(".", backend)["path"])
    return "/"
