"""A walk through directories, one name at a time and through no link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from polystore.filesystem.dir_fd import LISTABLE, Handle

__all__ = ["Descent", "files_below", "visit"]


class Descent(Handle):
    """Where a walk through directories stands: the directory that is held open just now.

    It holds one descriptor, however deep it is. On the way back it looks whether the directory
    above is still the one that it came from.

    - `start`: the directory where it starts, which the caller may close; or its path
    - `flags`: how directories are opened; by default so that they can be listed
    """

    __slots__ = ("_above", "_flags", "_start")

    def __init__(self, start: Handle | str, flags: int = LISTABLE) -> None:
        self._start, self._flags = start, flags
        self._above: list[tuple[int, int]] = []
        super().__init__(*self._started())

    def _started(self) -> tuple[int, str]:
        flags = self._flags | os.O_DIRECTORY
        if isinstance(self._start, str):
            return os.open(self._start, flags), self._start
        return os.open(".", flags, dir_fd=self._start.descriptor), self._start.shown

    def enter(self, name: str, flags: int = os.O_DIRECTORY) -> None:
        """Go to what has this name, which is a directory unless `flags` let it be a file."""
        found = self.location(name).hold(self._flags | flags)
        self._above.append(self.identity())
        self._go_to(found.descriptor, found.shown)

    def leave(self) -> None:
        """Go back to the directory above."""
        above = os.open("..", self._flags | os.O_DIRECTORY, dir_fd=self.descriptor)
        status = os.fstat(above)
        if (status.st_dev, status.st_ino) != self._above[-1]:
            os.close(above)
            raise OSError(errno.ENOENT, "a directory was moved concurrently", "..")
        self._above.pop()
        self._go_to(above, os.path.dirname(self.shown))

    def restart(self) -> None:
        """Go to where it started."""
        self._above.clear()
        self._go_to(*self._started())

    def go_to(self, names: Sequence[str]) -> int:
        """Go by these names from where it started, as far as they lead; return how many do."""
        self.restart()
        for entered, name in enumerate(names):
            try:
                self.enter(name)
            except OSError:
                return entered
        return len(names)

    @contextmanager
    def listable(self) -> Iterator[int]:
        if self._flags == LISTABLE:
            yield self.descriptor
        else:
            with super().listable() as descriptor:
                yield descriptor

    def _go_to(self, descriptor: int, shown: str) -> None:
        os.close(self.descriptor)
        self.descriptor, self.shown = descriptor, shown


def visit(walk: Descent) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path of everything below a directory, from there, and its status; follow no link.

    `walk` then stands in the directory that a file is in. A directory comes after all that is in
    it, and `walk` still stands in it. What is deleted concurrently is left out.
    """
    above: list[str] = []
    waiting = [walk.names()]
    while waiting:
        if not waiting[-1]:
            yield "/".join(above), walk.status()
            waiting.pop()
            if waiting:
                above.pop()
                walk.leave()
            continue
        name = waiting[-1].pop()
        try:
            status = walk.location(name).status()
            if stat.S_ISDIR(status.st_mode):
                walk.enter(name)
                above.append(name)
                waiting.append(walk.names())
                continue
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield "/".join((*above, name)), status


def files_below(directory: Handle) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path of each file below a directory, from there, and its status; no link is one."""
    with Descent(directory) as walk:
        for path, status in visit(walk):
            if stat.S_ISREG(status.st_mode):
                yield path, status
