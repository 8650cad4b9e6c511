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
from polystore.filesystem.dir_fd import Held, Place
from polystore.filesystem.path_resolver import Places
from polystore.filesystem.retry import read_until_stable
from polystore.filesystem.temporaries import PREFIX, is_temporary, sweep_now
from polystore.formats import Format, format_of
from polystore.paths import P, as_text
from polystore.region import Region, as_index

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

    def __init__(self, places: Places) -> None:
        self.places = places

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

    def is_array(self, directory: Held) -> bool:
        """Return whether a directory is a value."""
        return False

    def kind(self, held: Held) -> Kind:
        status = held.status()
        is_array = stat.S_ISDIR(status.st_mode) and self.is_array(held)
        return "file" if is_array else kind_of(status)

    def is_value(self, held: Held) -> bool:
        return self.kind(held) == "file"

    def is_directory(self, held: Held) -> bool:
        return self.kind(held) == "directory"

    def has_value(self, place: Place) -> bool:
        """Return whether a value is at a place, which may be missing; no link is followed."""
        return self._has(place, self.is_value)

    def has_directory(self, place: Place) -> bool:
        """Return whether a directory that is not a value is at a place; no link is followed."""
        return self._has(place, self.is_directory)

    def _has(self, place: Place, question: Callable[[Held], bool]) -> bool:
        def is_still(held: Held) -> bool:
            return not self.has_directories or place.identity() == held.identity()

        try:
            return read_until_stable(place.hold, question, is_still)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return False

    def describe(self, held: Held, path: P) -> dict[str, Any]:
        """Return what `stat` says of a value besides its type and its time."""
        facts: dict[str, Any] = {"size": held.status().st_size}
        # stat never fails on what a file holds, or because it must not be read.
        with suppress(StorageError, PermissionError, MemoryError):
            facts |= self.format_of(path, held=held).header(held.path)
        return facts

    def content_identity(self, held: Held) -> tuple[int, ...] | None:
        """Return what differs as soon as the content of a file does, None if nothing is known to.

        Nothing is known of a file that was changed a moment ago: the next change could bear the
        same time. Without the time of the last change of its status, a change could go unseen,
        since the other time can be set.
        """
        # Opened, since a network file system answers other questions from what it knows.
        with held.open() as file:
            status = os.fstat(file.fileno())
        if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_AFTER:
            return None
        facts = (status.st_dev, status.st_ino, status.st_size)
        return *facts, status.st_mtime_ns, status.st_ctime_ns

    # Reading and writing

    def format_of(self, path: P, suffix: str | None = None, held: Held | None = None) -> Format:
        """Return the format of the file that a path leads to, whatever a link to it is called."""
        if suffix is None and held is not None:
            suffix = held.name  # so that the path need not be resolved again
        return format_of(self.places.resolved(path) if suffix is None else suffix)

    def load(
        self, held: Held, path: P, region: Region | None, suffix: str | None, **options: Any
    ) -> Any:
        """Return the value that is held open, or a part of it."""
        index = None if region is None else as_index(region)
        given = {name: value for name, value in options.items() if value is not None}
        return self.format_of(path, suffix, held).load(held.path, index, **given)

    def kept_apart(self, held: Held, path: P) -> list[str]:
        """Return the names of what a value holds that `load` does not return."""
        return self.format_of(path, None, held).apart(held.path)

    def writer(
        self, data: Any, path: P, suffix: str | None, *, durable: bool
    ) -> Callable[[Place], None]:
        """Return what writes a value to a temporary place."""
        chosen = self.format_of(path, suffix)
        return _file_writer(lambda file: chosen.save(file, data), durable=durable)

    def region_writer(
        self, data: Any, held: Held, path: P, region: Region, suffix: str | None, *, durable: bool
    ) -> Callable[[Place], None]:
        """Return what writes a file, of which a region is replaced, to a temporary place."""

        def write(file: IO[bytes]) -> None:
            chosen = self.format_of(path, suffix, held)
            chosen.save_region(held.path, file, as_index(region), data)

        return _file_writer(write, durable=durable)

    def save_region(
        self, data: Any, directory: Held, path: P, region: Region, *, durable: bool
    ) -> None:
        """Write into a part of a value that is a directory."""
        raise NotImplementedError

    # Changes of the tree

    def before_change(self, path: P, *places: Place) -> None:
        """Prepare for what is at `places` to take the place of `path`, or to go from it."""

    def make_directory(self, place: Place, path: P) -> None:
        """Make a directory at a place; `path` leads to or below it."""
        self.check_name(place.name)
        place.make_directory()

    def remove_directory(self, place: Place, path: P) -> None:
        """Remove a directory of which listings show it is empty."""
        try:
            place.remove_directory()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            with place.hold() as held:
                sweep_now(held)  # what dead processes left may be all there is
            place.remove_directory()


def _file_writer(write: Callable[[IO[bytes]], object], *, durable: bool) -> Callable[[Place], None]:
    def write_to(place: Place) -> None:
        with place.create() as file:
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
