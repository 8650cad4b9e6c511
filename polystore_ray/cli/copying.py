"""Copy a file or a tree; a file that cannot be copied need not stop the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polystore import FileManager, StorageError
from polystore.arguments import path_exists
from polystore.exceptions import (
    BackendNotFoundError,
    PathExistsError,
    PathNotFoundError,
    StorageFullError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.filemanager.dispatch import parents_option, reading, writing
from polystore.formats import format_of
from polystore.transfer.copying import (
    RAW,
    KeepsFiles,
    check_losses,
    copy_directories,
    copy_values,
)
from polystore.transfer.proxies import Pairs, class_of
from polystore_ray.cli.patterns import below, fits
from polystore_ray.cli.places import Place
from polystore_ray.errors import CallTimeoutError, StoreUnavailableError
from polystore_ray.interop.file_codec import as_file

__all__ = ["Copier"]

_TOGETHER = 64  # files
_FATAL = (BackendNotFoundError, CallTimeoutError, StorageFullError, StoreUnavailableError)
_PLAIN = (bytes, bytearray, str, np.ndarray)  # what a file without a suffix can hold, besides JSON


@dataclass
class Copier:
    """Copies files from one backend into another or the same, and remembers what failed.

    - `excluded`: globs to leave out: on a name, or with a slash on a path below the source
    - `force`: whether to replace existing files
    - `resume`: whether to skip files that are there, if they are not older than the source
    - `keep_going`: whether to remember errors and go on, instead of raising the first one
    - `lossy`: whether a copy may leave behind metadata that the other backend cannot keep
    - `progress`: called with the number of files that are done, and the number of all
    - `copied`, `skipped`: the number of files that were copied, and that were there already
    - `failed`: what was not copied, and why
    - `total`: the number of files that are to be copied
    """

    fm: FileManager
    excluded: Sequence[str] = ()
    force: bool = False
    resume: bool = False
    keep_going: bool = False
    lossy: bool = False
    progress: Callable[[int, int], object] = lambda _done, _total: None
    copied: int = 0
    skipped: int = 0
    failed: list[tuple[Place, StorageError]] = field(default_factory=list)
    total: int = 0
    _done: int = 0

    def copy(self, source: Place, target: Place) -> None:
        """Copy a file, or a directory with what is below it.

        Raises `PathNotFoundError` if the source is missing, `PathExistsError` if the destination
        exists and neither `force` nor `resume` is given, and the error of the first file that
        cannot be copied; with `keep_going`, only if the store does not answer or is full.
        """
        fm = self.fm
        is_new = not (fm.exists(target.path, target.backend) or self._is_link(target))
        if not (is_new or self.force or self.resume):
            raise path_exists(target.path, target.backend)
        if source.backend == target.backend and is_new and not self.excluded:
            fm.copy(source.path, target.path, source.backend)  # in one step, links as links
            self.total += 1
            self._count(1)
            return
        if not fm.exists(source.path, source.backend):
            raise PathNotFoundError(
                "no such file or directory", path=source.path, backend=source.backend
            )
        if fm.is_dir(source.path, source.backend):
            self._copy_tree(source, target, is_new=is_new)
        else:
            self.total += 1
            self._copy_files(source, target, [("", "")], is_new=is_new)

    def _copy_tree(self, source: Place, target: Place, *, is_new: bool) -> None:
        entries = dict(self._without_excluded(below(self.fm, source)))
        is_within = source.backend == target.backend
        kinds: dict[str, list[str]] = {"directory": [""], "file": [], "other": [], "link": []}
        for path, kind in entries.items():
            # A link to a file arrives in another backend as a file.
            may_be_link = is_within or kind == "directory"
            is_link = may_be_link and self._is_link(_joined(source, path))
            kinds["link" if is_link else kind].append(path)
        self.total += len(entries) - len(kinds["directory"]) + 1
        for path in [*kinds["other"], *([] if is_within else kinds["link"])]:
            message = "only files, links to files, and directories can be copied"
            self._fail(_joined(source, path), UnsupportedOperationError(message))
        self._make_directories(source, target, kinds["directory"])
        files = [(path, path) for path in kinds["file"]]
        self._copy_files(source, target, files, is_new=is_new)
        for path in kinds["link"] if is_within else ():
            with self._remembering(_joined(source, path)):
                self._copy_link(_joined(source, path), _joined(target, path))

    def _without_excluded(self, entries: dict[str, str]) -> Iterator[tuple[str, str]]:
        left_out: set[str] = set()
        for path, kind in entries.items():
            parent, _, name = path.rpartition("/")
            if parent in left_out or any(
                fits(glob, path if "/" in glob else name) for glob in self.excluded
            ):
                left_out.add(path)
            else:
                yield path, kind

    def _is_link(self, place: Place) -> bool:
        return self.fm.is_symlink(place.path, place.backend)

    def _copy_link(self, here: Place, there: Place) -> None:
        """Copy a link within a backend, as a link to the same path."""
        if self.resume and not self.force and self._is_link(there):
            self.skipped += 1
            self._step(1)
            return
        to = self.fm.stat(here.path, here.backend)["target"]
        self.fm.create_symlink(to, there.path, there.backend, overwrite=self.force)
        self._count(1)

    def _make_directories(self, source: Place, target: Place, paths: Sequence[str]) -> None:
        missing = [
            (_joined(source, path).path, new.path)
            for path in paths
            if not self.fm.is_dir((new := _joined(target, path)).path, new.backend)
        ]
        with (
            reading(self.fm.registry, source.backend, source.path) as origin,
            writing(self.fm.registry, target.backend, "save", target.path) as there,
        ):
            copy_directories(origin, there, missing)

    def _copy_files(self, source: Place, target: Place, pairs: Pairs, *, is_new: bool) -> None:
        """Copy files, given by their paths below the source and below the target."""
        if not (self.keep_going or self.lossy):
            self._check_losses(source, target, pairs)
        together: list[tuple[str, str]] = []
        for old, new in pairs:
            here, there = _joined(source, old), _joined(target, new)
            with self._remembering(here):
                if not is_new and self._is_there(here, there):
                    self.skipped += 1
                    self._step(1)
                elif self._needs_bytes(here, there):
                    self._copy_bytes(here, there)
                else:
                    together.append((here.path, there.path))
            if len(together) >= _TOGETHER:
                self._copy_together(source.backend, target.backend, together)
                together = []
        self._copy_together(source.backend, target.backend, together)

    def _check_losses(self, source: Place, target: Place, pairs: Pairs) -> None:
        """Raise before anything is written if a copy would lose metadata of files."""
        paths = [(_joined(source, old).path, _joined(target, new).path) for old, new in pairs]
        with (
            reading(self.fm.registry, source.backend) as origin,
            writing(self.fm.registry, target.backend, "save") as there,
        ):
            check_losses(origin, there, paths)

    def _is_there(self, here: Place, there: Place) -> bool:
        """Return whether a file has been copied already; raise if it must not be replaced."""
        found = self.fm.stat(there.path, there.backend)
        if found["type"] == "missing":
            return False
        if self.resume:
            changed = self.fm.stat(here.path, here.backend).get("modified")
            copied = found.get("modified")
            if changed is None or copied is None or copied >= changed:
                return True
        if not self.force:
            reason = " and is older than the source" if self.resume else ""
            raise PathExistsError(
                f"the destination exists{reason}; --force replaces it",
                path=there.path,
                backend=there.backend,
            )
        return False

    def _copy_together(self, backend: str, to_backend: str, pairs: Pairs) -> None:
        """Copy files at once; if that fails, those that are missing one by one."""
        if not pairs:
            return
        try:
            self._copy_pairs(backend, to_backend, pairs)
            return
        except StorageError as error:
            written = set(error.written)
            if len(pairs) == 1 or isinstance(error, _FATAL):
                if error.backend == to_backend:
                    error.located(path=pairs[0][1])
                self._fail(Place(backend, pairs[0][0]), error)
                return
        for pair in pairs:
            # A backend of another package may not say what was written.
            if pair[1] in written or (not self.force and self.fm.exists(pair[1], to_backend)):
                self._count(1)
            else:
                self._copy_together(backend, to_backend, [pair])

    def _copy_pairs(self, backend: str, to_backend: str, pairs: Pairs) -> None:
        with (
            reading(self.fm.registry, backend) as origin,
            writing(self.fm.registry, to_backend, "save") as there,
        ):
            if not self.lossy:
                check_losses(origin, there, pairs)
            options = parents_option(there, parents=True)
            copy_values(origin, there, pairs, overwrite=self.force, **options)
        self._count(len(pairs))

    # Files without a format

    def _needs_bytes(self, here: Place, there: Place) -> bool:
        """Return whether one of two paths is that of a file whose suffix names no format."""
        return self._lacks_format(here) or self._lacks_format(there)

    def _lacks_format(self, place: Place) -> bool:
        with reading(self.fm.registry, place.backend, place.path) as backend:
            cls = class_of(backend)
        if not issubclass(cls, KeepsFiles) or cls.file_format(place.path) is not None:
            return False
        try:
            format_of(place.path)
        except UnsupportedFormatError:
            return True
        except StorageError:  # a package is missing
            return False
        return False

    def _copy_bytes(self, here: Place, there: Place) -> None:
        """Copy a file whose suffix names no format, as its bytes."""
        with reading(self.fm.registry, here.backend, here.path) as origin:
            raw = {"suffix": RAW} if self._lacks_format(here) else {}
            value = origin.load(here.path, **raw)
        with writing(self.fm.registry, there.backend, "save", there.path) as target:
            options: dict[str, Any] = parents_option(target, parents=True)
            if self._lacks_format(there):
                value, options = _plain_file(value, there), options | {"suffix": RAW}
            target.save(value, there.path, overwrite=self.force, **options)
        self._count(1)

    # What was done

    def _count(self, copied: int) -> None:
        self.copied += copied
        self._step(copied)

    def _step(self, count: int) -> None:
        self._done += count
        self.progress(self._done, self.total)

    def _fail(self, place: Place, error: StorageError) -> None:
        error.located(path=place.path, backend=place.backend)
        if not self.keep_going or isinstance(error, _FATAL):
            raise error
        self.failed.append((place, error))
        self._step(1)

    @contextmanager
    def _remembering(self, place: Place) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            self._fail(place, error)


def _joined(place: Place, path: str) -> Place:
    return place.below(path) if path else place


def _plain_file(value: Any, place: Place) -> bytes:
    """Return the bytes of a file without a suffix that holds a value; nothing is pickled."""
    if not isinstance(value, _PLAIN):
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsupportedFormatError(
                f"a {type(value).__name__} needs a suffix that names its format",
                path=place.path,
                backend=place.backend,
            ) from error
    return bytes(as_file(value, place.path))
