"""Listings of a local tree: the directories, the files and what is neither, below a directory."""

from __future__ import annotations

import os
from contextlib import suppress

from polystore.exceptions import StorageResolutionError
from polystore.filesystem.descent import Descent
from polystore.filesystem.dir_fd import Handle
from polystore.filesystem.lookup import Lookup
from polystore.paths import NameFilter

__all__ = ["Listing"]


class Listing:
    """The paths that a walk has found so far; `top`, where it starts, is the first directory.

    Of files and links, it finds those whose names are `selected`.
    """

    def __init__(self, top: str, lookup: Lookup, selected: NameFilter | None = None) -> None:
        self._top, self._lookup, self._wants = top, lookup, selected or (lambda _: True)
        self.directories, self.files, self.others = [top], list[str](), list[str]()

    def walk(self, start: Handle, *, recursive: bool) -> None:
        """Find what is in a directory that is held open, and below.

        It goes down and up again by one directory at a time, however deep they are. What is
        deleted concurrently is left out.
        """
        with Descent(start) as walk:
            above = [self._top.rstrip("/")]
            waiting = [self._scan(walk, above[0])]
            while waiting:
                if not waiting[-1]:
                    waiting.pop()
                    above.pop()
                    if waiting and not _left(walk):
                        found_again = walk.go_to([each.rpartition("/")[2] for each in above[1:]])
                        del above[found_again + 1 :], waiting[found_again + 1 :]
                    continue
                child = f"{above[-1]}/{waiting[-1][-1]}"
                try:
                    walk.enter(waiting[-1].pop())
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError:
                    with self._lookup.read_errors(child):
                        raise
                above.append(child)
                if self._lookup.values.is_array(walk):
                    self.add_array(child)
                    waiting.append([])
                    continue
                self.add_directory(child, walk)
                waiting.append(self._scan(walk, child) if recursive else [])

    def _scan(self, directory: Handle, path: str) -> list[str]:
        """Add what is in a directory; return the names of its directories."""
        names = []
        with (
            self._lookup.read_errors(path or "/"),
            suppress(FileNotFoundError),  # it was deleted after it was entered
            directory.entries() as entries,
        ):
            for entry in entries:
                if self._lookup.values.is_hidden(entry.name):
                    continue
                child = f"{path}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    self.add_file(child, entry)
                elif not entry.is_symlink():
                    self.others.append(child)
                elif self._wants(entry.name):
                    self.add_link(child, entry)
        return names

    def add_directory(self, path: str, directory: Handle) -> None:
        self.directories.append(path)

    def add_array(self, path: str) -> None:
        if self._wants(path.rpartition("/")[2]):
            self.files.append(path)

    def add_file(self, path: str, entry: os.DirEntry[str]) -> None:
        if self._wants(entry.name):
            self.files.append(path)

    def add_link(self, path: str, entry: os.DirEntry[str]) -> None:
        # It is resolved as any path is: it could lead out of a root.
        try:
            kind = self._lookup.kind(path)
        except StorageResolutionError:
            kind = None  # it leads out of the root, or in a circle
        found = {"file": self.files, "directory": self.directories}
        found.get(kind or "", self.others).append(path)


def _left(walk: Descent) -> bool:
    try:
        walk.leave()
    except FileNotFoundError:
        return False  # what it has left was moved
    return True
