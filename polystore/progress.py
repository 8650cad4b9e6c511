"""Progress of batches: calls to a function of the user, or a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polystore.exceptions import missing_dependency

__all__ = ["Lines", "Progress", "reporting"]

Progress = Callable[[int, int], object] | bool | None
"""A function ``progress(done, total)``, or True for a bar (which needs the extra ``progress``)."""


@contextmanager
def reporting(progress: Progress, total: int, what: str) -> Iterator[Callable[..., None]]:
    """Yield a function ``step(count=1)`` that reports `count` more items as done.

    - `progress`: called as ``progress(done, total)``; True shows a bar on standard error, or writes
      a line every ten seconds where that is not a terminal; False or None reports nothing

    Raises `MissingDependencyError` if a bar is to be shown and tqdm is not installed.

    Examples
    --------
    >>> with reporting(lambda done, total: print(f"{done}/{total}"), 3, "loading") as step:
    ...     step()
    ...     step(2)
    1/3
    3/3
    """
    if not progress:
        yield _ignore
    elif callable(progress):
        yield _counter(progress, total)
    elif not sys.stderr.isatty():
        yield _counter(Lines(what), total)
    else:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise missing_dependency("a progress bar", error, "progress") from error
        with tqdm(total=total, desc=what) as bar:
            yield lambda count=1: bar.update(count) and None


def _ignore(count: int = 1) -> None:
    """Count nothing."""


def _counter(progress: Callable[[int, int], object], total: int) -> Callable[..., None]:
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return step


class Lines:
    """Report progress in lines on standard error, for logs: one every ten seconds, and the last.

    Parameters
    ----------
    what : str
        The label of each line.
    """

    every = 10.0  # seconds

    def __init__(self, what: str) -> None:
        self._what = what
        self._written = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Write a line if it is due."""
        now = time.monotonic()
        if done == total or now - self._written >= self.every:
            self._written = now
            sys.stderr.write(f"{self._what}: {done}/{total}\n")
