"""Copies and moves of the file manager, within a backend and from one to another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from polystore.arguments import check_batch, path_exists
from polystore.base import DataSource, StorageBackend
from polystore.capabilities import HasDirectories
from polystore.error_translation import naming_written
from polystore.exceptions import PathNotFoundError, UnsupportedOperationError
from polystore.filemanager.dispatch import Registry, parents_option, reading, writing
from polystore.paths import P, as_text, display, natural_key
from polystore.progress import Progress, reporting
from polystore.registration import BackendKey, backend_key
from polystore.transfer.copying import check_losses, copy_directories, copy_values
from polystore.transfer.proxies import Pairs, class_of

__all__ = [
    "as_pairs",
    "check_free",
    "copy_across",
    "is_other",
    "listed_order",
    "make_parent",
    "rebasing",
    "transfer_within",
    "walked",
]

Transfer = Literal["copy", "move"]


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


def is_other(to_backend: BackendKey | None, backend: BackendKey) -> bool:
    """Return whether a copy goes into another backend."""
    return to_backend is not None and backend_key(to_backend) != backend_key(backend)


def transfer_within(
    registry: Registry, operation: Transfer, pairs: Pairs, backend: BackendKey, progress: Progress
) -> None:
    """Copy or move within one backend, path by path; create the parents of the new paths."""
    written: list[str] = []
    with (
        naming_written(written, len(pairs)) if len(pairs) > 1 else nullcontext(),
        reporting(progress, len(pairs), operation) as step,
    ):
        for source, destination in pairs:
            with writing(registry, backend, operation, source) as target:
                if not target.is_symlink(source):
                    _check_exists(target, source, backend)
                make_parent(target, destination)
                (target.copy if operation == "copy" else target.move)(source, destination)
            written.append(destination)
            step()


def copy_across(
    registry: Registry,
    source: P | Sequence[P],
    destination: P | Sequence[P],
    backend: BackendKey,
    to_backend: BackendKey,
    progress: Progress,
    *,
    lossy: bool,
) -> None:
    """Copy a file, a tree or a list of files from one backend into another."""
    pairs = as_pairs(source, destination, backend)
    with writing(registry, to_backend, "save") as target:
        directories: Pairs = []
        if isinstance(source, str | os.PathLike):
            [(top, new)] = pairs
            with reading(registry, backend, top) as origin:
                _check_exists(origin, top, backend)
                is_tree = origin.is_dir(top)
            check_free(target, new, to_backend)
            if is_tree:
                directories, pairs = _planned(registry, top, new, backend)
        with reading(registry, backend) as origin:
            if not lossy:
                check_losses(origin, target, [*directories, *pairs])
            copy_directories(origin, target, directories)
            options = parents_option(target, parents=True)
            copy_values(origin, target, pairs, progress, **options)


def _planned(
    registry: Registry, top: str, new: str, backend: BackendKey
) -> tuple[Pairs, list[tuple[str, str]]]:
    """Return the directories and the files of a tree, each with the path of its copy."""
    directories, files, others = walked(registry, top, backend)
    with reading(registry, backend) as origin:
        linked = [path for path in directories[1:] if origin.is_symlink(path)]
    for path in (*linked, *others):
        raise UnsupportedOperationError(
            "only files, links to files, and directories can go into another backend",
            path=path,
            backend=backend_key(backend),
        )
    rebased = rebasing(directories[0], new)
    return [(path, rebased(path)) for path in directories], [
        (path, rebased(path)) for path in files
    ]


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


def _check_exists(backend: DataSource, path: str, key: BackendKey) -> None:
    if not backend.exists(path):
        raise PathNotFoundError("no such file or directory", path=path, backend=backend_key(key))


def make_parent(target: StorageBackend, path: P) -> None:
    """Create the parent of a path, in a backend that has directories."""
    parent = as_text(path).rstrip("/").rpartition("/")[0]
    if parent and issubclass(class_of(target), HasDirectories) and not target.exists(parent):
        target.ensure_directory(parent)


def rebasing(top: str, new: str) -> Callable[[str], str]:
    """Return a function that turns paths at and below `top` into the same below `new`."""
    kept = len(top.rstrip("/"))
    return lambda path: new.rstrip("/") + path[kept:].rstrip("/")


def listed_order(path: str) -> tuple[int, Any]:
    """Return the key that sorts paths shallow first, then in natural order."""
    return path.count("/"), natural_key(path)
