"""Copies from one backend into another: planned, then made together, or each by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from polystore.arguments import check_batch, path_exists
from polystore.base import DataSource, StorageBackend
from polystore.capabilities import HasDirectories
from polystore.exceptions import PathNotFoundError, UnsupportedOperationError
from polystore.filemanager.dispatch import Registry, parents_option, reading, writing
from polystore.paths import P, as_text, display, natural_key
from polystore.progress import Progress
from polystore.registration import BackendKey, backend_key
from polystore.transfer.copying import check_losses, copy_directories, copy_values
from polystore.transfer.many import Errors, Failure, Results, collected, copied_apart
from polystore.transfer.proxies import Pairs, class_of

__all__ = [
    "CopyAcross",
    "as_pairs",
    "check_exists",
    "check_free",
    "listed_order",
    "rebasing",
    "walked",
]

_TOGETHER = 256  # files that are copied in one call, where one that fails does not stop the others


@dataclass(frozen=True, slots=True)
class CopyAcross:
    """A copy from one backend into another.

    - `directories`, `files`: what is copied; each path with that of its copy
    - `others`: paths that cannot go into another backend
    - `lossy`: whether the copy may leave behind metadata that the other backend cannot keep
    """

    registry: Registry
    backend: BackendKey
    to_backend: BackendKey
    directories: Pairs
    files: Pairs
    others: Sequence[str]
    lossy: bool

    @classmethod
    def of(
        cls,
        registry: Registry,
        source: P | Sequence[P],
        destination: P | Sequence[P],
        backend: BackendKey,
        to_backend: BackendKey,
        *,
        lossy: bool,
    ) -> CopyAcross:
        """Plan the copy of a file, a tree or a list of files.

        Raises `PathNotFoundError` if a file or a tree is missing, `PathExistsError` if its
        destination exists.
        """
        pairs = as_pairs(source, destination, backend)
        make = partial(cls, registry, backend, to_backend, lossy=lossy)
        if not isinstance(source, str | os.PathLike):
            return make([], pairs, [])
        [(top, new)] = pairs
        with reading(registry, backend, top) as origin:
            check_exists(origin, top, backend)
            is_tree = origin.is_dir(top)
        with writing(registry, to_backend, "save", new) as target:
            check_free(target, new, to_backend)
            has_directories = issubclass(class_of(target), HasDirectories)
        if not is_tree:
            return make([], pairs, [])
        directories, files, others = walked(registry, top, backend)
        with reading(registry, backend) as origin:
            linked = [path for path in directories[1:] if origin.is_symlink(path)]
        # Without directories of its own, a backend has those above its files.
        there = set() if has_directories else {above for path in files for above in parents(path)}
        rebased = rebasing(directories[0], new)
        return make(
            [(path, rebased(path)) for path in directories if path not in {*linked, *there}],
            [(path, rebased(path)) for path in files],
            [*linked, *others],
        )

    def all(self, progress: Progress) -> None:
        """Copy everything; the first error ends the copy."""
        for path in self.others:
            raise self._refused(path)

        def copy(origin: DataSource, target: StorageBackend, _: Pairs) -> None:
            copy_directories(origin, target, self.directories)
            _copy_files(origin, target, self.files, progress)

        self._checked(copy, [*self.directories, *self.files])

    def each(self, errors: Errors, progress: Progress) -> Results:
        """Copy what can be copied; return the paths of the copies, and a table of the failures."""
        failed = {path: Failure(self._refused(path)) for path in self.others}
        made = copied_apart(partial(self._checked, copy_directories), self.directories)
        for (old, _), outcome in zip(self.directories, made, strict=True):
            if isinstance(outcome, Failure):
                failed[old] = outcome
        firsts = range(0, len(self.files), _TOGETHER)
        parts = (self.files[first : first + _TOGETHER] for first in firsts)
        copy = partial(self._checked, _copy_files)
        copied = (outcome for part in parts for outcome in copied_apart(copy, part))
        paths = [*failed, *(old for old, _ in self.files)]
        return collected(chain(failed.values(), copied), paths, errors, progress, "copying")

    def _checked(
        self, copy: Callable[[DataSource, StorageBackend, Pairs], None], pairs: Pairs
    ) -> None:
        """Copy, unless that would lose metadata."""
        with (
            writing(self.registry, self.to_backend, "save") as target,
            reading(self.registry, self.backend) as origin,
        ):
            if not self.lossy:
                check_losses(origin, target, pairs)
            copy(origin, target, pairs)

    def _refused(self, path: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            "only files, links to files, and directories can go into another backend",
            path=path,
            backend=backend_key(self.backend),
        )


def _copy_files(
    origin: DataSource, target: StorageBackend, pairs: Pairs, progress: Progress = None
) -> None:
    copy_values(origin, target, pairs, progress, **parents_option(target, parents=True))


def as_pairs(
    source: P | Sequence[P], destination: P | Sequence[P], backend: BackendKey
) -> list[tuple[str, str]]:
    """Return the paths of a copy: one pair, or one for each element of two lists."""
    if isinstance(source, str | os.PathLike) and isinstance(destination, str | os.PathLike):
        return [(as_text(source), as_text(destination))]
    sources: Any = source
    destinations: Any = destination
    targets = check_batch(sources, destinations, backend=backend_key(backend))
    return list(zip(map(as_text, sources), targets, strict=True))


def parents(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first."""
    while path.strip("/"):
        path = path.rpartition("/")[0] or "/"
        yield path


def walked(
    registry: Registry, path: P, backend: BackendKey, recursive: bool = True
) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted directories, files and other paths at and below a directory."""
    with reading(registry, backend, path) as target:
        # Without the trailing slash, which would stand twice in the paths below.
        directories, files, others = target.walk(as_text(path).rstrip("/") or "/", recursive)
    for found in (directories, files, others):
        found.sort(key=listed_order)
    return directories, files, others


def check_free(target: DataSource, path: P, key: BackendKey) -> None:
    """Raise `PathExistsError` if anything is at `path`."""
    if target.exists(path) or target.is_symlink(path):
        raise path_exists(display(path), backend_key(key))


def check_exists(backend: DataSource, path: str, key: BackendKey) -> None:
    """Raise `PathNotFoundError` if nothing is at `path`."""
    if not backend.exists(path):
        raise PathNotFoundError("no such file or directory", path=path, backend=backend_key(key))


def rebasing(top: str, new: str) -> Callable[[str], str]:
    """Return a function that turns paths at and below `top` into the same below `new`."""
    kept = len(top.rstrip("/"))
    return lambda path: new.rstrip("/") + path[kept:].rstrip("/")


def listed_order(path: str) -> tuple[int, Any]:
    """Return the key that sorts paths shallow first, then in natural order."""
    return path.count("/"), natural_key(path)
