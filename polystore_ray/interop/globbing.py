"""Patterns: the paths of the memory that a caller gives, one by one or by a glob."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import has_magic
from typing import Any

from polystore.exceptions import InvalidPathError, PathNotFoundError
from polystore.paths import P, as_text, natural_key, normalize

__all__ = ["matching"]


def matching(memory: Any, paths: P | Iterable[P]) -> list[str]:
    """Return the paths that are meant.

    - `paths`: paths, in their order; or one whose last name is a glob such as ``/plate1/*.npy``,
      for its matches in natural order. A path that exists is taken literally

    Raises `PathNotFoundError` if nothing matches; `InvalidPathError` if a directory is a glob, and
    none of that name exists.
    """
    if not isinstance(paths, str | os.PathLike):
        found = [normalize(path, backend="memory") for path in paths]
    else:
        path = normalize(as_text(paths, backend="memory"), backend="memory")
        directory, _, name = path.rpartition("/")
        if not has_magic(path) or memory.exists(path):
            return [path]
        if has_magic(directory) and not memory.is_dir(directory):
            raise InvalidPathError(
                "only the last name of a path can be a pattern", path=str(paths), backend="memory"
            )
        if not has_magic(name):
            return [path]
        found = sorted(memory.list_files(directory or "/", name), key=natural_key)
    if not found:
        raise PathNotFoundError("no file matches", path=str(paths), backend="memory")
    return found
