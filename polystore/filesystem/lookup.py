"""What the paths of a local tree lead to, held open, with errors that name path and backend."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from polystore.error_translation import located, missing_below_files, nothing_there, os_errors
from polystore.exceptions import (
    InvalidPathError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    StorageResolutionError,
)
from polystore.filesystem.dir_fd import Handle, Location, check_no_device
from polystore.filesystem.path_resolver import PathResolver, RootedResolver, SystemResolver
from polystore.filesystem.retry import MOST_ATTEMPTS, read_until_stable
from polystore.filesystem.values import FileValues, Kind, kind_of
from polystore.paths import P, as_file_path, as_text

__all__ = ["Lookup", "portable_path"]

T = TypeVar("T")


class Lookup:
    """Look at what paths lead to; the parameters are those of `LocalTree`."""

    def __init__(
        self, root: P | None, values: Callable[[PathResolver], FileValues], *, backend: str | None
    ) -> None:
        self.backend = backend
        with os_errors("/" if root is None else root, backend):
            self.resolver = _open_root(root)
        self.values = values(self.resolver)

    def text(self, path: P) -> str:
        with located(path, self.backend):
            return self.resolver.text(path)

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
            return self.resolver.status(path)
        return None

    def ask(self, path: P, question: Callable[[Handle], T], *, otherwise: T) -> T:
        """Ask of what a path leads to; where it leads to nothing, the answer is `otherwise`."""
        with self.read_errors(path), nothing_there():
            return self.read(path, question)
        return otherwise

    def read(self, path: P, read: Callable[[Handle], T]) -> T:
        """Read what a path leads to, held open.

        A directory that is a value may be replaced or deleted by then, and its missing parts read
        as if they had never been there: it is read again.
        """
        if self.values.has_directories:
            look, is_still = partial(self.resolver.resolve, path), partial(self.leads_to, path)
            return read_until_stable(look, read, is_still)
        with self.resolver.resolve(path) as handle:
            return read(handle)

    def leads_to(self, path: P, handle: Handle) -> bool:
        with suppress(OSError):
            return os.path.samestat(self.resolver.status(path), handle.status())
        return False

    @contextmanager
    def _found(self, path: P) -> Iterator[tuple[Handle, Kind]]:
        """Yield what `path` leads to, held open, and its kind.

        An array that is being deleted looks like a directory once its metadata are gone. So what
        looks like one counts as one only while the path leads to it.
        """
        for _ in range(MOST_ATTEMPTS):
            with self.resolver.resolve(path) as handle:
                kind = self.values.kind(handle)
                is_doubtful = kind == "directory" and self.values.has_directories
                if not is_doubtful or self.leads_to(path, handle):
                    yield handle, kind
                    return
        raise StorageResolutionError("the path changes faster than it can be looked at")

    @contextmanager
    def directory(self, path: P) -> Iterator[Handle]:
        with self.read_errors(path), missing_below_files(), self._found(path) as (handle, kind):
            if kind != "directory":
                raise PathNotDirectoryError("the path is a file")
            yield handle

    @contextmanager
    def existing_value(self, path: P) -> Iterator[Handle]:
        """Yield the value at `path`, held open."""
        with self.read_errors(path), missing_below_files(), self._found(path) as (handle, kind):
            if kind != "file":
                self.check_value(handle)
            yield handle

    def check_value(self, handle: Handle) -> None:
        if not self.values.is_value(handle):
            check_no_device(handle.status())
            raise PathIsDirectoryError("the path is a directory")

    @contextmanager
    def present(self, path: P) -> Iterator[Location]:
        """Yield the location of an existing path itself, a link not followed; never the root."""
        with os_errors(path, self.backend):
            if self.resolver.root is not None and self.resolver.text(path) == "/":
                raise InvalidPathError("the root always exists and stays")
            with missing_below_files(), self.resolver.resolve_nofollow(path) as location:
                location.status()
                yield location


def _open_root(root: P | None) -> PathResolver:
    """Return the resolver of the paths below a root, which is made if it is missing, or of all."""
    if root is None:
        return SystemResolver()
    top = os.path.realpath(SystemResolver().text(root))
    Path(top).mkdir(parents=True, exist_ok=True)
    return RootedResolver(top)


def portable_path(path: P, root: P | None, *, backend: str | None = None) -> str:
    """Return `path` as it means the same in every process, whatever directory it works in."""
    if root is not None:
        return as_text(path, backend=backend)
    with located(None, backend):
        text = as_file_path(path)
    # Not normalised: a ".." after a link does not mean what it seems to.
    return text if os.path.isabs(text) else str(Path.cwd() / text)
