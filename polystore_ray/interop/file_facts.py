"""What fsspec is told of a path: whether it is a file, how large it is, what it holds."""

from __future__ import annotations

from typing import Any

from polystore_ray.client.hosted import HostedBackend
from polystore_ray.interop.file_codec import NO_FILE, as_file, file_size
from polystore_ray.interop.plain_memory import plain_memory
from polystore_ray.interop.stored_files import is_raw
from polystore_ray.registry import RayBackendRegistry

__all__ = ["described", "directory_facts", "size_of"]


def directory_facts(name: str) -> dict[str, Any]:
    """Return what fsspec is told of a directory."""
    return {"name": name, "size": 0, "type": "directory"}


def described(backend: Any, location: str, name: str) -> dict[str, Any] | None:
    """Return what fsspec is told of a path, with its size only where that costs little.

    None if nothing is there.
    """
    facts = backend.stat(location)
    if not facts["exists"]:
        return None
    kind = facts["type"]
    if kind == "symlink":  # fsspec follows links
        kind = "directory" if backend.is_dir(location) else "file"
    told = directory_facts(name)
    if kind == "file":
        told["type"] = kind
        told["size"] = facts["size"] if is_raw(backend) else file_size(facts, location)
    for fact in ("modified", "version", "shape", "dtype"):
        if fact in facts:
            told[fact] = facts[fact]
    return told


def size_of(registry: RayBackendRegistry, backend: Any, location: str) -> int | None:
    """Return the size of the file as which a value appears, without running any code of it."""
    plain = backend if isinstance(backend, HostedBackend) else plain_memory(registry)
    try:
        return len(as_file(plain.load(location), location))
    except NO_FILE:
        size: int | None = backend.stat(location).get("size")
        return size
