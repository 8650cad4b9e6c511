"""Batches in an object store: several requests at a time, since each takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from polystore.error_translation import naming_written
from polystore.paths import P

__all__ = ["each", "load_together", "save_together"]

A = TypeVar("A")
T = TypeVar("T")

_THREADS = 8  # threads that wait for the store


def each(function: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
    """Return the results of a function, in the order of its arguments."""
    return list(load_together(function, arguments))


def load_together(load: Callable[[A], T], paths: Sequence[A]) -> Iterator[T]:
    """Yield the values at `paths`, in their order; after an error no more loads are started."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(load, paths)
    finally:
        pool.shutdown(cancel_futures=True)


def save_together(
    save: Callable[[T, P], None],
    values: Sequence[T],
    paths: Sequence[P],
    step: Callable[[], None],
) -> None:
    """Save `values` at `paths`; after an error no more saves are started.

    The error names the paths that were written: in its notes and, if it is a `StorageError`, in
    its attribute ``written``.
    """
    pool = ThreadPoolExecutor(_THREADS)
    saves = [pool.submit(save, value, path) for value, path in zip(values, paths, strict=True)]
    written: list[str] = []
    with naming_written(written, len(paths), "paths were written"):
        try:
            for done in as_completed(saves):
                done.result()
                step()
        finally:
            pool.shutdown(cancel_futures=True)  # the saves that were started end first
            written += [
                str(path)
                for path, done in zip(paths, saves, strict=True)
                if not done.cancelled() and done.exception() is None
            ]
