"""Batches of files, of which compressed ones are decoded in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from polystore.exceptions import StorageError
from polystore.formats import format_of
from polystore.paths import P, as_text
from polystore.progress import Progress
from polystore.transfer.parallel import load_together

__all__ = ["load_files"]

T = TypeVar("T")


def load_files(load: Callable[[P], T], paths: Sequence[P], progress: Progress) -> list[T]:
    """Return what ``load(path)`` returns for each path, in their order."""
    threads = (os.cpu_count() or 1) if any(map(_is_compressed, paths)) else 1
    return load_together(load, paths, progress, min(len(paths), threads))


def _is_compressed(path: P) -> bool:
    try:
        return format_of(as_text(path)).compressed
    except StorageError:
        return False  # the load of this path reports it
