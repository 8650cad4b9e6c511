"""Fallbacks of values in the cluster memory: other backends that hold them too."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from polystore.exceptions import (
    PathNotFoundError,
    StorageError,
    VersionConflictError,
    VFSTypeError,
)
from polystore.paths import as_text
from polystore.registration import backend_key
from polystore.transfer.proxies import portable
from polystore_ray.client.lookup import Memory
from polystore_ray.errors import DataLostError

__all__ = ["portable_fallback", "restore"]

logger = logging.getLogger(__name__)


def portable_fallback(memory: Memory, fallback: Any) -> tuple[str, str] | None:
    """Return a fallback, a backend and a path in it, as every process means it."""
    if fallback is None:
        return None
    if not isinstance(fallback, tuple | list) or len(fallback) != 2:
        raise VFSTypeError(
            f"fallback must be a tuple (backend, path), not {fallback!r}", backend="memory"
        )
    key, source = backend_key(fallback[0]), as_text(fallback[1])
    return key, portable(memory._registry[key], source)  # noqa: SLF001 - as a method of it


def restore(memory: Any, error: DataLostError) -> None:
    """Save a lost value anew from its fallback, unless another process has done so."""
    if error.fallback is None or error.path is None:
        raise error
    key, source = error.fallback
    try:
        value = memory._registry[key].load(source)  # noqa: SLF001 - as a method of it
    except StorageError as second:
        second.add_note(f"the fallback was to replace a value that was lost: {error}")
        raise error from second
    logger.warning("the lost value %r is restored from %r in %s", error.path, source, key)
    with suppress(VersionConflictError, PathNotFoundError):
        memory.save(
            value,
            error.path,
            if_version=error.version,
            replicas=error.replicas,
            fallback=error.fallback,
        )
