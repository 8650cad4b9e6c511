"""Batches of a store, whose answers take long: several values at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from polystore.paths import P
from polystore.progress import Progress, reporting
from polystore.transfer.copying import naming_written

__all__ = ["each", "load_together", "save_together"]

A = TypeVar("A")
T = TypeVar("T")

_AT_ONCE = 8  # threads that wait for the store


def each(function: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
    """Return what a function gives for each argument; the first error ends it."""
    return load_together(function, arguments, None)


def load_together(load: Callable[[A], T], paths: Sequence[A], progress: Progress) -> list[T]:
    """Return the values at `paths`, in their order; the first error ends it."""
    values: list[T] = []
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        with reporting(progress, len(paths), "loading") as step:
            for value in pool.map(load, paths):
                values.append(value)
                step()
    finally:
        pool.shutdown(cancel_futures=True)
    return values


def save_together(
    save: Callable[[T, P], None],
    values: Sequence[T],
    paths: Sequence[P],
    progress: Progress,
) -> None:
    """Save `values` at `paths`; after an error no more are begun.

    The error carries the paths that were written in its notes and, where it is a `StorageError`,
    in its attribute ``written``.
    """
    pool = ThreadPoolExecutor(_AT_ONCE)
    saves = [pool.submit(save, value, path) for value, path in zip(values, paths, strict=True)]
    written: list[str] = []
    with naming_written(written, len(paths), "paths were written"):
        try:
            with reporting(progress, len(paths), "saving") as step:
                for done in as_completed(saves):
                    done.result()
                    step()
        finally:
            pool.shutdown(cancel_futures=True)  # those that were begun end first
            written += [
                str(path)
                for path, done in zip(paths, saves, strict=True)
                if not done.cancelled() and done.exception() is None
            ]
