"""What the paths of a local tree lead to, held open, with errors that name path and backend."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TypeVar

from polystore.error_translation import located, missing_below_files, nothing_there, os_errors
from polystore.exceptions import (
    InvalidPathError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    StorageResolutionError,
)
from polystore.filesystem.dir_fd import Held, Place, check_no_device
from polystore.filesystem.path_resolver import Places, open_root
from polystore.filesystem.retry import read_until_stable
from polystore.filesystem.values import FileValues, Kind, kind_of
from polystore.paths import P

__all__ = ["Lookup"]

T = TypeVar("T")


class Lookup:
    """Look at what paths lead to; the parameters are those of `LocalTree`."""

    def __init__(
        self, root: P | None, values: Callable[[Places], FileValues], *, backend: str | None
    ) -> None:
        self.backend = backend
        with self.os_errors("/" if root is None else root):
            self.places = open_root(root)
        self.values = values(self.places)

    def text(self, path: P) -> str:
        with self.located(path):
            return self.places.text(path)

    def located(self, path: P) -> AbstractContextManager[None]:
        return located(path, self.backend)

    def os_errors(self, path: P) -> AbstractContextManager[None]:
        return os_errors(path, self.backend)

    def read_errors(self, path: P) -> AbstractContextManager[None]:
        return os_errors(path, self.backend, refused=StorageResolutionError)

    def kind(self, path: P) -> Kind | None:
        """Return what a path leads to, None where it leads to nothing."""
        status = self.status(path)
        if status is None or not (self.values.has_directories and stat.S_ISDIR(status.st_mode)):
            return None if status is None else kind_of(status)
        return self.ask(path, self.values.kind, otherwise=None)

    def status(self, path: P) -> os.stat_result | None:
        """Return the status of what a path leads to, None where it leads to nothing."""
        with self.read_errors(path), nothing_there():
            return self.places.status(path)
        return None

    def ask(self, path: P, question: Callable[[Held], T], *, otherwise: T) -> T:
        """Ask of what a path leads to; where it leads to nothing, the answer is `otherwise`."""
        with self.read_errors(path), nothing_there():
            return self.read(path, question)
        return otherwise

    def read(self, path: P, read: Callable[[Held], T]) -> T:
        """Read what a path leads to, held open.

        A directory that is a value may be replaced or deleted by then, and its missing parts read
        as if they had never been there: it is read again.
        """
        if self.values.has_directories:
            look, is_still = partial(self.places.existing, path), partial(self.leads_to, path)
            return read_until_stable(look, read, is_still)
        with self.places.existing(path) as held:
            return read(held)

    def leads_to(self, path: P, held: Held) -> bool:
        with suppress(OSError):
            return os.path.samestat(self.places.status(path), held.status())
        return False

    @contextmanager
    def directory(self, path: P) -> Iterator[Held]:
        with self.read_errors(path), missing_below_files(), self.places.existing(path) as held:
            if not self.values.is_directory(held):
                raise PathNotDirectoryError("the path is a file")
            yield held

    @contextmanager
    def existing_value(self, path: P) -> Iterator[Held]:
        """Yield the value at `path`, held open."""
        with self.read_errors(path), missing_below_files(), self.places.existing(path) as held:
            self.check_value(held)
            yield held

    def check_value(self, held: Held) -> None:
        if not self.values.is_value(held):
            check_no_device(held.status())
            raise PathIsDirectoryError("the path is a directory")

    @contextmanager
    def present(self, path: P) -> Iterator[Place]:
        """Yield the place of an existing path itself, a link not followed; never the root."""
        with self.os_errors(path):
            if self.places.root is not None and self.places.text(path) == "/":
                raise InvalidPathError("the root always exists and stays")
            with missing_below_files(), self.places.itself(path) as place:
                place.status()
                yield place
