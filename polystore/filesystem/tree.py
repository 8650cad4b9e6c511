"""A tree of values on a local file system: how paths are resolved, listed and changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from polystore.arguments import check_apart
from polystore.error_translation import located, missing_below_files, nothing_there, os_errors
from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
    missing_dependency,
)
from polystore.filesystem import changes
from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.listing import Listing
from polystore.filesystem.locks import Deadline, locked
from polystore.filesystem.lookup import Lookup
from polystore.filesystem.path_resolver import PathResolver
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.filesystem.temporaries import ReplacedError, rename_new
from polystore.filesystem.values import FileValues
from polystore.paths import NameFilter, P, display, file_order
from polystore.region import Region
from polystore.stat import Stat

if TYPE_CHECKING:
    from polystore.filesystem.watching import Watch

__all__ = ["LocalTree"]

T = TypeVar("T")


class LocalTree:
    """The tree of a backend. What its methods promise is said by `polystore.base.StorageBackend`.

    - `root`: without it, paths are those of the operating system. With it, paths form one tree
      rooted at ``/``, as in the memory backend, that lies in this directory, and nothing outside it
      can be reached, not by ``..``, an absolute path or a symbolic link
    - `values`: ``values(resolver)`` returns what a value of the tree is
    - `backend`: the key that errors name
    """

    def __init__(
        self, root: P | None, values: Callable[[PathResolver], FileValues], *, backend: str | None
    ) -> None:
        self._backend = backend
        self._lookup = Lookup(root, values, backend=backend)
        self._resolver, self._values = self._lookup.resolver, self._lookup.values

    # Questions

    def exists(self, path: P) -> bool:
        return self._lookup.status(path) is not None

    def is_file(self, path: P) -> bool:
        return self._lookup.kind(path) == "file"

    def is_dir(self, path: P) -> bool:
        return self._lookup.kind(path) == "directory"

    def is_symlink(self, path: P) -> bool:
        return self._target(path) is not None

    def stat(self, path: P) -> Stat:
        missing = {"type": "missing", "path": self._lookup.text(path), "exists": False}
        target = self._target(path)
        link = {} if target is None else {"type": "symlink", "target": target}
        nothing: dict[str, Any] = {}
        facts = self._lookup.ask(path, partial(self._facts, path), otherwise=nothing)
        return cast("Stat", missing | facts | link)

    def _facts(self, path: P, handle: Handle) -> dict[str, Any]:
        """Return what `stat` says of what exists."""
        kind, status = self._values.kind(handle), handle.status()
        facts: Mapping[str, Any] = {}
        if kind == "file":
            facts = self._values.describe(handle, path)
        elif kind == "directory":
            facts = self._values.describe_directory(handle)
        return {
            "type": "directory" if kind == "directory" else "file",
            "exists": True,
            "modified": status.st_mtime,
            **facts,
        }

    def _target(self, path: P) -> str | None:
        """Return where a link leads, None for anything else."""
        with (
            self._lookup.read_errors(path),
            nothing_there(),
            self._resolver.resolve_nofollow(path) as location,
        ):
            if not location.is_link():
                return None
            target = location.target()
            if not os.path.isabs(target):
                target = os.path.join(os.path.dirname(self._resolver.real(path)), target)
            return self._resolver.shown(target)
        return None

    def content_identity(self, path: P) -> tuple[int, ...] | None:
        with suppress(OSError, StorageError), self._resolver.resolve(path) as handle:
            return self._values.content_identity(handle)
        return None  # a directory, or what cannot be read: load reports it

    def apart(self, path: P) -> list[str]:
        """Return the names of what a path has in addition to what `load` returns."""
        with suppress(OSError, StorageError), self._resolver.resolve(path) as handle:
            return self._values.apart(handle, path)
        return []  # load reports the error

    # Reading

    def load(
        self, path: P, *, region: Region | None = None, suffix: str | None = None, **options: Any
    ) -> Any:
        def read(handle: Handle) -> Any:
            self._lookup.check_value(handle)
            return self._values.load(handle, path, region, suffix, **options)

        with self._lookup.read_errors(path), missing_below_files():
            return self._lookup.read(path, read)

    def list_dir(self, path: P) -> list[str]:
        with self._lookup.directory(path) as handle:
            return sorted(name for name in handle.names() if not self._values.is_hidden(name))

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        with located(path, self._backend):
            selected = NameFilter(pattern, extensions)
        return sorted(self._listing(path, recursive, selected).files, key=file_order)

    def walk(self, path: P, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        found = self._listing(path, recursive)
        return found.directories, found.files, found.others

    def watching(self, path: P, *, recursive: bool, timeout: float | None) -> Watch:
        try:
            from polystore.filesystem.watching import Watch
        except ImportError as error:
            raise missing_dependency("watch", error, "watch", backend=self._backend) from error
        return Watch(path, self._lookup, recursive=recursive, timeout=timeout)

    def _listing(self, path: P, recursive: bool, selected: NameFilter | None = None) -> Listing:
        listing = Listing(self._lookup.text(path), self._lookup, selected)
        with self._lookup.directory(path) as handle:
            listing.walk(handle, recursive=recursive)
        return listing

    # Writing

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
        suffix: str | None = None,
        durable: bool = False,
        **options: Any,
    ) -> None:
        if region is not None:
            self._save_region(data, path, region, suffix, durable=durable)
            return
        values = self._values.with_options(**options)
        with located(path, self._backend):
            write = values.writer(data, path, suffix, durable=durable)
        self._publish(values, path, write, overwrite=overwrite, parents=parents, durable=durable)

    def _save_region(
        self, data: Any, path: P, region: Region, suffix: str | None, *, durable: bool
    ) -> None:
        deadline = Deadline()
        while True:
            with suppress(ReplacedError), self._lookup.existing_value(path) as handle:
                if handle.is_directory():
                    with os_errors(path, self._backend):
                        self._values.save_region(data, handle, path, region, durable=durable)
                    return
                # Two that read, change and write at once would lose what one of them wrote.
                with locked(handle, deadline) as known:
                    if self._lookup.leads_to(path, handle):
                        write = self._values.region_writer(
                            data, handle, path, region, suffix, durable=durable
                        )
                        self._publish(
                            self._values, path, write, overwrite=True, durable=durable, known=known
                        )
                        return
            with located(path, self._backend):
                deadline.wait(0)  # another writer has replaced the file

    def _publish(
        self,
        values: FileValues,
        path: P,
        write: Callable[[Location], None],
        *,
        overwrite: bool = False,
        parents: bool = False,
        **how: Any,
    ) -> None:
        """Put what `write` writes to a temporary location at `path`, in one step."""
        attempt = partial(
            changes.publish, values, path, write, overwrite=overwrite, parents=parents, **how
        )
        with os_errors(path, self._backend):
            self._check_path(path)
            if values.has_directories:  # or parents would be made inside a value
                self._check_save(path, overwrite=overwrite, parents=parents)
            try:
                if parents:
                    changes.again_while_missing(attempt)
                else:
                    attempt()
            except (FileNotFoundError, NotADirectoryError):
                # Asked only now, since most saves do not fail: what exactly is missing?
                self._check_save(path, overwrite=overwrite, parents=parents)
                raise

    # Checks before a change

    def check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        for path in paths:
            self._check_save(path, **options)
        identities = self._resolver.identities(paths)
        check_apart(identities, os.path.dirname, paths, backend=self._backend)

    def _check_save(
        self, path: P, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        with os_errors(path, self._backend):
            self._check_path(path)
            try:
                with self._resolver.resolve_for_write(path) as location:
                    if self._checked(location).exists():
                        changes.check_replaced(self._values, location, overwrite=overwrite)
                        return
                    if self._values.is_directory(location.directory):
                        return
            except (FileNotFoundError, NotADirectoryError) as error:
                if isinstance(error, StorageError):
                    raise
            if self._is_blocked(os.path.dirname(self._resolver.text(path))):
                raise PathNotDirectoryError("a part of the path is a file")
            if not parents:
                raise PathNotFoundError("the parent directory is missing; parents=True makes it")

    def _check_path(self, path: P) -> None:
        """Refuse names that would be hidden, and swept one day, before any location is resolved."""
        self._values.check_path(self._resolver.text(path))

    def _checked(self, location: Location) -> Location:
        """Return a location at which something is to be made, replaced or removed.

        However its path was spelt, and whatever links led there: it has one name.
        """
        self._values.check_name(location.name)
        return location

    def _is_blocked(self, path: str) -> bool:
        """Return whether the path, or the nearest above it that exists, is not a directory."""
        ancestor = path.rstrip("/")
        while ancestor and not self.exists(ancestor):
            ancestor = os.path.dirname(ancestor).rstrip("/")
        return bool(ancestor) and not self._lookup.ask(
            ancestor, self._values.is_directory, otherwise=True
        )

    # Directories, deletions, copies and links

    def ensure_directory(self, path: P) -> str:
        text = self._lookup.text(path)
        with located(path, self._backend):
            self._check_path(path)
            if self._is_blocked(text):
                raise PathExistsError("the path, or a part of it, is a file")
        with os_errors(path, self._backend):
            changes.again_while_missing(partial(changes.publish_directory, self._values, path))
        return text

    def delete(self, path: P) -> None:
        with self._lookup.present(path) as location:
            changes.delete(self._values, self._checked(location), path)

    def delete_all(self, path: P) -> None:
        with self._lookup.present(path) as location:
            changes.delete_all(self._values, self._checked(location), path)

    def copy(self, source: P, destination: P) -> None:
        for _ in range(MOST_ATTEMPTS):
            with self._transfer(source, destination) as (origin, location):
                if changes.publish_copy(self._values, origin, location):
                    return
        with located(source, self._backend):
            raise StorageWriteError("it is changed faster than it can be copied")

    def move(self, source: P, destination: P) -> None:
        try:
            with self._transfer(source, destination) as (origin, location):
                self._values.before_change(source, self._checked(origin))
                rename_new(origin, location)
        except StorageWriteError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EXDEV:
                raise
            self.copy(source, destination)
            self.delete_all(source)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        with located(source, self._backend):
            if not self.exists(source):
                raise PathNotFoundError("a link needs an existing source")
        target = self._resolver.real(source)
        with self._free_place(link, over_value=overwrite) as location:
            if self._passes(source, location):
                raise StorageResolutionError("a link cannot lead to itself")
            changes.publish_link(self._values, target, link, location, overwrite=overwrite)

    def _passes(self, path: P, location: Location) -> bool:
        """Return whether the way to a path goes through a location."""
        directory = location.directory.identity()
        return any(
            step.name == location.name and step.directory.identity() == directory
            for step in self._resolver.steps(path)
        )

    @contextmanager
    def _free_place(self, path: P, *, over_value: bool = False) -> Iterator[Location]:
        with located(path, self._backend):
            self._check_path(path)
            # Not every value is a file through which the system finds no way.
            if self._is_blocked(os.path.dirname(self._resolver.text(path))):
                raise PathNotDirectoryError("a part of the path is a file")
        with os_errors(path, self._backend), self._resolver.resolve_nofollow(path) as location:
            changes.check_free(self._values, self._checked(location), over_value=over_value)
            if not self._values.is_directory(location.directory):
                raise PathNotDirectoryError("the parent is a file")
            yield location

    @contextmanager
    def _transfer(self, source: P, destination: P) -> Iterator[tuple[Location, Location]]:
        with self._lookup.present(source) as origin, self._free_place(destination) as location:
            status = origin.status()
            identity = status.st_dev, status.st_ino
            if stat.S_ISDIR(status.st_mode) and location.directory.lies_in(identity):
                raise InvalidPathError(f"a directory cannot go into itself ({display(source)})")
            self._values.before_change(destination, origin)
            yield origin, location
