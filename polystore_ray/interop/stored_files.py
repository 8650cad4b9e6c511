"""Values of a backend as files: read, replaced, and appended to without losing another's change."""

from __future__ import annotations

from typing import Any

from polystore.capabilities import Capability
from polystore.exceptions import (
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
    VersionConflictError,
)
from polystore.transfer.proxies import class_of
from polystore_ray.client.turns import save_in_turn
from polystore_ray.deadline import Deadline
from polystore_ray.interop.file_codec import as_file, from_file

__all__ = [
    "BelowAFileError",
    "append",
    "content",
    "is_raw",
    "make_directory",
    "read",
    "replace",
]

_RAW = ".bin"

_APPENDED_WITHIN = 60.0  # seconds, while other writers are in the way


class BelowAFileError(PathNotDirectoryError, PathExistsError):
    """Signal that a part of a path is a file: fsspec's callers expect the one or the other."""


class LoadsBytes(Capability, methods=("load",), keyword="suffix"):
    """A backend that keeps files, whose bytes can be loaded and saved."""


class KeepsVersions(Capability, methods=("save",), keyword="if_version"):
    """A backend whose ``save`` can require that a value still has a version."""


def is_raw(backend: Any) -> bool:
    """Return whether a backend keeps files, whose bytes can be loaded and saved."""
    return issubclass(class_of(backend), LoadsBytes)


def content(backend: Any, location: str) -> memoryview:
    """Return the bytes of a file."""
    if is_raw(backend):
        return memoryview(backend.load(location, suffix=_RAW))
    return as_file(backend.load(location), location)


def read(backend: Any, location: str) -> tuple[bytes | None, int | None]:
    """Return what a file holds, None if there is none, and a version that is not newer."""
    version = backend.stat(location).get("version") if _keeps_versions(backend) else None
    try:
        return bytes(content(backend, location)), version
    except PathNotFoundError:
        return None, None


def replace(
    backend: Any, location: str, data: bytes, *, overwrite: bool, if_version: int | None = None
) -> None:
    """Save a file whole, and make its parents."""
    options: dict[str, Any] = {"overwrite": overwrite, "parents": True}
    if if_version is not None:
        options["if_version"] = if_version
    try:
        if is_raw(backend):
            backend.save(data, location, suffix=_RAW, **options)
        else:
            backend.save(from_file(data, location), location, **options)
    except PathNotDirectoryError as error:
        raise BelowAFileError("a part of the path is a file", path=location) from error


def append(backend: Any, location: str, tail: bytes) -> None:
    """Put bytes at the end of what a file holds by now, or make it.

    No other append is lost where the backend keeps versions; elsewhere none of this process.
    """

    def save() -> None:
        before, version = read(backend, location)
        if before is not None and not tail:
            return
        whole = tail if before is None else before + tail
        try:
            replace(backend, location, whole, overwrite=before is not None, if_version=version)
        except (PathExistsError, PathNotFoundError) as error:
            if backend.exists(location) is (before is not None):
                raise
            raise VersionConflictError("it was created or deleted at this moment") from error

    save_in_turn(save, location, Deadline(_APPENDED_WITHIN))


def make_directory(backend: Any, location: str) -> None:
    """Make a directory and its parents."""
    try:
        backend.ensure_directory(location)
    except (PathExistsError, PathNotDirectoryError) as error:
        if backend.is_file(location):
            raise
        raise BelowAFileError("a part of the path is a file", path=location) from error


def _keeps_versions(backend: Any) -> bool:
    return issubclass(class_of(backend), KeepsVersions)
