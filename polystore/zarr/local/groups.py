"""The groups above a path of a local zarr hierarchy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from polystore.exceptions import InvalidPathError, UnsupportedFormatError
from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.path_resolver import PathResolver, RootedResolver, SystemResolver
from polystore.filesystem.temporaries import (
    ReplacedError,
    keep_mode,
    remove,
    replace_only,
    temporary,
)
from polystore.paths import P
from polystore.zarr.array.groups import (
    CONSOLIDATED,
    MOST_METADATA,
    GroupMark,
    without_consolidated,
)

__all__ = ["LocalGroups"]

_SYSTEM = SystemResolver()


class LocalGroups:
    """The groups above a path of a tree on a local file system.

    - `resolver`: where paths lead. Of a tree with a root, nothing above that is looked at
    """

    def __init__(self, resolver: PathResolver) -> None:
        self._resolver = resolver
        self._is_rooted = resolver.root is not None

    def marks(self, path: P) -> Iterator[GroupMark]:
        """Yield the marks of the directories that a path lies in, the nearest first."""
        with self._resolver.nearest(path) as directory:
            yield from self.marks_from(directory)

    def marks_from(self, directory: Handle) -> Iterator[GroupMark]:
        """Yield the marks of a directory and of those above it, the nearest first."""
        with self._resolver.resolve("/") as handle:
            top = handle.identity()
        for each in directory.upwards():
            new, old = (self._read(each, name) for name in ("zarr.json", ".zgroup"))
            is_top = each.identity() == top
            yield GroupMark.of(new, old, is_root=is_top and self._is_rooted)
            if is_top:
                return

    def forget(self, path: P) -> None:
        """Take consolidated metadata away from every group on the way to a path."""
        for location in self._resolver.steps(path):
            self._forget_in(location.directory)

    def _forget_in(self, directory: Handle) -> None:
        consolidated = directory.location(CONSOLIDATED)
        if consolidated.exists():  # asked first: what lies above may be a read-only file system
            remove(consolidated)
        if without_consolidated(self._read(directory, "zarr.json")) is None:
            return
        resolver, top = self._resolver_in(directory)
        with resolver.resolve_for_write(f"{top}/zarr.json") as metadata:  # what a link leads to
            while True:
                known = metadata.status()
                changed = without_consolidated(self._read(directory, "zarr.json"))
                if changed is None:
                    return
                with suppress(ReplacedError):
                    self._replace(metadata, known, changed)

    def _read(self, directory: Handle, name: str) -> bytes | None:
        """Return what is in a file of metadata, None if there is none to be believed."""
        resolver, top = self._resolver_in(directory)
        not_there = (OSError, UnsupportedFormatError, InvalidPathError)
        with suppress(*not_there), resolver.open(f"{top}/{name}") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(min(size, MOST_METADATA) + 1)  # room is made for all that is asked for
        return None

    def _resolver_in(self, directory: Handle) -> tuple[PathResolver, str]:
        """Return where the links of a directory lead, and the path there that it has."""
        return (RootedResolver(directory), "") if self._is_rooted else (_SYSTEM, directory.path)

    def _replace(self, metadata: Location, known: os.stat_result, changed: bytes) -> None:
        with temporary(metadata) as new:
            new.write(changed)
            keep_mode(metadata, new)
            replace_only(known, new, metadata)
