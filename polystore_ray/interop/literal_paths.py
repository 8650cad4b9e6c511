"""Literal paths for fsspec: a path that exists is not treated as a pattern."""

from __future__ import annotations

import os
from functools import partial
from glob import has_magic
from typing import Any

from polystore.exceptions import (
    BackendNotFoundError,
    StorageError,
    UnsupportedFormatError,
    missing_dependency,
)
from polystore_ray.interop.file_codec import NO_FILE

try:
    from fsspec.callbacks import DEFAULT_CALLBACK
    from fsspec.implementations.local import LocalFileSystem, make_path_posix
    from fsspec.spec import AbstractFileSystem
    from fsspec.utils import other_paths
except ImportError as error:
    raise missing_dependency("the filesystem", error, "fsspec") from error

__all__ = ["LiteralPaths"]


class LiteralPaths(AbstractFileSystem):  # type: ignore[misc]
    """The operations of fsspec that expand patterns, with paths that exist taken as they are."""

    def expand_path(
        self,
        path: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        assume_literal: bool = False,
        **options: Any,
    ) -> list[str]:
        """Return the paths that a call means; a path that exists is not a pattern."""
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        literal = [each for each in paths if assume_literal or self._is_literal(each)]
        patterns = [each for each in paths if each not in literal]
        expand = partial(super().expand_path, recursive=recursive, maxdepth=maxdepth, **options)
        found = set(expand(literal, assume_literal=True)) if literal else set()
        if patterns or not literal:
            try:
                found |= set(expand(patterns))
            except FileNotFoundError:
                if not found:
                    raise
        return sorted(found)

    def _is_literal(self, path: Any) -> bool:
        try:
            return isinstance(path, str) and has_magic(path) and self.exists(path)
        except BackendNotFoundError:
            return False

    def _pairs(
        self, fs: Any, source: str, target: str, is_inside: bool, **depth: Any
    ) -> tuple[list[str], list[str]]:
        """Return the paths of `source`, taken literally, and the paths of their copies."""
        found = fs.expand_path([source], assume_literal=True, **depth)
        if not depth["recursive"] or depth["maxdepth"] is not None:
            found = [path for path in found if not fs.isdir(path)]
        return found, other_paths(found, target, exists=is_inside and not source.endswith("/"))

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **options: Any,
    ) -> None:
        if self._is_literal(path1) and isinstance(path2, str):
            depth = {"recursive": recursive, "maxdepth": maxdepth}
            is_inside = path2.endswith("/") or self.isdir(path2)
            path1, path2 = self._pairs(self, path1, path2, is_inside, **depth)
        super().copy(path1, path2, recursive, maxdepth, on_error, **options)

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        """Copy to local files; of a tree all that can be a file, before what cannot is reported."""
        if self._is_literal(rpath) and isinstance(lpath, str):
            depth = {"recursive": recursive, "maxdepth": maxdepth}
            is_inside = lpath.endswith("/") or os.path.isdir(lpath)
            rpath, lpath = self._pairs(self, rpath, make_path_posix(lpath), is_inside, **depth)
        refused: dict[str, StorageError] = {}
        if recursive:
            options["refused"] = refused
        super().get(rpath, lpath, recursive, callback, maxdepth, **options)
        if refused:
            path, error = next(iter(refused.items()))
            raise UnsupportedFormatError(
                f"{len(refused)} of the values cannot be written as files, all others are copied; "
                f"the first is {path}: {error}",
            ) from error

    def get_file(
        self,
        rpath: Any,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        *,
        refused: dict[str, StorageError] | None = None,
        **options: Any,
    ) -> None:
        try:
            super().get_file(rpath, lpath, callback, outfile, **options)
        except NO_FILE as error:
            if refused is None:
                raise
            refused[str(rpath)] = error

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(lpath, str) and isinstance(rpath, str):
            local = make_path_posix(lpath)
            if has_magic(local) and os.path.exists(local):
                depth = {"recursive": recursive, "maxdepth": maxdepth}
                is_inside = rpath.endswith("/") or self.isdir(rpath)
                rpath = self._strip_protocol(rpath)
                lpath, rpath = self._pairs(LocalFileSystem(), local, rpath, is_inside, **depth)
        super().put(lpath, rpath, recursive, callback, maxdepth, **options)
