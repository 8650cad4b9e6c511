"""What a value of a local tree is, and how it is read and written: a file of some format."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any, Literal

from polystore.exceptions import InvalidPathError, StorageError
from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.path_resolver import PathResolver
from polystore.filesystem.retry import read_until_stable
from polystore.filesystem.temporaries import PREFIX, is_temporary, sweep_now
from polystore.formats import Format, format_of
from polystore.paths import P, as_text
from polystore.region import Region, as_index
from polystore.stat import Details

__all__ = ["FileValues", "Kind", "kind_of", "load_files"]

_SETTLED_AFTER = 2.0  # seconds: what the coarsest file systems count in


Kind = Literal["file", "directory", "other"]
"""A value, a directory that is none, or anything else, such as a pipe."""


def kind_of(status: os.stat_result) -> Kind:
    """Return what something is by its status, if no directory is a value."""
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "directory" if stat.S_ISDIR(status.st_mode) else "other"


class FileValues:
    """Values that are files, each in the format that the suffix of its name says."""

    has_directories = False
    """Whether a directory can be a value."""

    def __init__(self, resolver: PathResolver) -> None:
        self.resolver = resolver

    def with_options(self) -> FileValues:
        """Return the same with options of a save."""
        return self

    # Names

    def is_hidden(self, name: str) -> bool:
        """Return whether listings leave a name out."""
        return is_temporary(name)

    def check_name(self, name: str) -> None:
        """Raise `InvalidPathError` for a name that the backend needs for itself."""
        if is_temporary(name):
            raise InvalidPathError(f"names that begin with {PREFIX} are those of temporaries")

    def check_path(self, text: str) -> None:
        """Raise as `check_name` for the last name of a path, and for any of a temporary."""
        self.check_name(os.path.basename(text))
        if PREFIX in text:
            for name in text.split("/"):
                FileValues.check_name(self, name)

    # What there is

    def is_array(self, directory: Handle) -> bool:
        """Return whether a directory is a value."""
        return False

    def kind(self, handle: Handle) -> Kind:
        status = handle.status()
        is_array = stat.S_ISDIR(status.st_mode) and self.is_array(handle)
        return "file" if is_array else kind_of(status)

    def is_value(self, handle: Handle) -> bool:
        return self.kind(handle) == "file"

    def is_directory(self, handle: Handle) -> bool:
        return self.kind(handle) == "directory"

    def has_value(self, location: Location) -> bool:
        """Return whether a value is at a location, which may be missing; no link is followed."""
        return self._has(location, self.is_value)

    def has_directory(self, location: Location) -> bool:
        """Return whether a directory that is not a value is at a location; no link is followed."""
        return self._has(location, self.is_directory)

    def _has(self, location: Location, question: Callable[[Handle], bool]) -> bool:
        def is_still(handle: Handle) -> bool:
            return not self.has_directories or location.identity() == handle.identity()

        try:
            return read_until_stable(location.hold, question, is_still)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return False

    def describe(self, handle: Handle, path: P) -> dict[str, Any]:
        """Return what `stat` says of a value besides its type and its time."""
        facts: dict[str, Any] = {"size": handle.status().st_size}
        # stat never fails on what a file holds, or because it must not be read.
        with suppress(StorageError, PermissionError, MemoryError):
            facts |= self.format_of(path, handle=handle).header(handle.path)
        return facts

    def describe_directory(self, handle: Handle) -> Details:
        """Return what `stat` says of a directory besides its type and its time."""
        return {}

    def content_identity(self, handle: Handle) -> tuple[int, ...] | None:
        """Return what differs as soon as the content of a file does, None if nothing is known to.

        Nothing is known of a file that was changed a moment ago: the next change could bear the
        same time. Without the time of the last change of its status, a change could go unseen,
        since the other time can be set.
        """
        # Opened, since a network file system answers other questions from what it knows.
        with handle.open() as file:
            status = os.fstat(file.fileno())
        if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_AFTER:
            return None
        facts = (status.st_dev, status.st_ino, status.st_size)
        return *facts, status.st_mtime_ns, status.st_ctime_ns

    # Reading and writing

    def format_of(self, path: P, suffix: str | None = None, handle: Handle | None = None) -> Format:
        """Return the format of the file that a path leads to, whatever a link to it is called."""
        if suffix is None and handle is not None:
            suffix = handle.name  # so that the path need not be resolved again
        return format_of(self.resolver.resolved(path) if suffix is None else suffix)

    def load(
        self, handle: Handle, path: P, region: Region | None, suffix: str | None, **options: Any
    ) -> Any:
        """Return the value that is held open, or a part of it."""
        index = None if region is None else as_index(region)
        return self.format_of(path, suffix, handle).load(handle.path, index, **options)

    def apart(self, handle: Handle, path: P) -> list[str]:
        """Return the names of what a value holds that `load` does not return."""
        return self.format_of(path, None, handle).apart(handle.path)

    def writer(
        self, data: Any, path: P, suffix: str | None, *, durable: bool
    ) -> Callable[[Location], None]:
        """Return what writes a value to a temporary location."""
        chosen = self.format_of(path, suffix)
        return _file_writer(lambda file: chosen.save(file, data), durable=durable)

    def region_writer(
        self,
        data: Any,
        handle: Handle,
        path: P,
        region: Region,
        suffix: str | None,
        *,
        durable: bool,
    ) -> Callable[[Location], None]:
        """Return what writes a file, of which a region is replaced, to a temporary location."""

        def write(file: IO[bytes]) -> None:
            chosen = self.format_of(path, suffix, handle)
            chosen.save_region(handle.path, file, as_index(region), data)

        return _file_writer(write, durable=durable)

    def save_region(
        self, data: Any, directory: Handle, path: P, region: Region, *, durable: bool
    ) -> None:
        """Write into a part of a value that is a directory."""
        raise NotImplementedError

    # Changes of the tree

    def before_change(self, path: P, *locations: Location) -> None:
        """Prepare for what is at `locations` to replace `path`, or to go from it."""

    def forget(self, path: P) -> None:
        """Remove what directories above a path say of it, before a directory on the way is made."""

    def make_directory(self, location: Location) -> None:
        """Make a directory at a location."""
        self.check_name(location.name)
        location.make_directory()

    def remove_directory(self, location: Location, path: P) -> None:
        """Remove a directory of which listings show it is empty."""
        try:
            location.remove_directory()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            with location.hold() as handle:
                sweep_now(handle)  # what dead processes left may be all there is
            location.remove_directory()


def _file_writer(
    write: Callable[[IO[bytes]], object], *, durable: bool
) -> Callable[[Location], None]:
    def write_to(location: Location) -> None:
        with location.create() as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())

    return write_to


def load_files(load: Callable[[P], Any], paths: Sequence[P]) -> Iterator[Any]:
    """Yield what ``load(path)`` returns for each path, in their order."""
    if len(paths) > 1 and any(map(_is_compressed, paths)):
        with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as threads:
            yield from threads.map(load, paths)
    else:
        yield from map(load, paths)


def _is_compressed(path: P) -> bool:
    try:
        return format_of(as_text(path)).compressed
    except StorageError:
        return False  # the load of this path reports it
