"""The disk backend: one file a value, in the format of its suffix."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any

from polystore.exceptions import StorageError, UnsupportedOperationError
from polystore.filesystem.backend import LocalBackend
from polystore.filesystem.dir_fd import Held, Place
from polystore.filesystem.locks import turn
from polystore.filesystem.renames import ReplacedError
from polystore.formats import Format, format_of
from polystore.paths import P, as_text
from polystore.region import Region, as_index
from polystore.writable import private

__all__ = ["DiskBackend"]


class DiskBackend(LocalBackend):
    """Store each value in a file, in the format that the suffix of its path names.

    ``.npy``, ``.npz``, ``.json``, ``.csv``, ``.txt`` and ``.bin`` always; ``.tif``, ``.png`` and
    ``.jpg`` with the extra ``images``; ``.pt`` with torch. Nothing is ever unpickled.

    A save is atomic: a reader sees the old file or the new one, whole, and a save that fails or
    is killed leaves the old one. It survives the death of the process, and with ``durable=True``
    the loss of power.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/`` that lies in this directory, and nothing outside it can be reached.

    Examples
    --------
    >>> import tempfile
    >>> disk = DiskBackend(tempfile.mkdtemp())
    >>> disk.save({"cells": 3}, "/plate1/counts.json", parents=True)
    >>> disk.load("/plate1/counts.json")
    {'cells': 3}
    """

    _backend_type = "disk"
    _saves_regions_together = True

    def _describe(self, held: Held, path: P) -> dict[str, Any]:
        facts = super()._describe(held, path)
        # A question is no place to complain about what a file holds, or may not be read of it.
        with suppress(StorageError, PermissionError, MemoryError):
            facts |= self._format(path, held=held).header(held.path)
        return facts

    def _format(self, path: P, suffix: str | None = None, held: Held | None = None) -> Format:
        """Return the format of the file that a path leads to, whatever a link to it is called.

        Of one that is held open already, the way is not gone again.
        """
        known = held.name if held is not None and suffix is None else suffix
        return format_of(self._places.resolved(path) if known is None else known)

    def content_identity(self, path: P) -> Hashable | None:
        return self._file_identity(path)

    @classmethod
    def file_format(cls, path: str) -> str | None:
        if cls.load is not DiskBackend.load or cls.save is not DiskBackend.save:
            return None  # a subclass keeps other things
        with suppress(StorageError):
            return format_of(path).name
        return None

    def check_convertible(self, paths: Sequence[P]) -> None:
        for path in paths:
            more = self.apart(path)
            if more:
                raise self._error(
                    UnsupportedOperationError,
                    f"the other backend would not keep what the file has beside its values: "
                    f"{', '.join(more)}. lossy=True leaves it behind",
                    path,
                )

    def apart(self, path: P) -> list[str]:
        """Return the names of what a file has in addition to what `load` returns."""
        with suppress(StorageError), self._existing_value(path) as held:  # its load says it
            return self._format(path, None, held).apart(held.path)
        return []

    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        suffix: str | None = None,
        series: int | None = None,
        missing: str | None = None,
        max_decoded: int | None = None,
        writable: bool = False,
    ) -> Any:
        """Return the value in the file at `path`, or the part of an array.

        Parameters
        ----------
        path : str or os.PathLike
            A file.
        region : int, slice, ... or tuple of them, optional
            The part of the array to return, as in basic indexing. Of ``.npy`` and uncompressed
            ``.tif`` files no more is read.
        suffix : str, optional
            The format, if it is not that of the path's own suffix: ``".bin"`` gives the bytes of
            any file.
        series : int, optional
            Which image of a ``.tif`` file that holds several; `stat` returns their number.
        missing : {"zeros"}, optional
            Load zeros for planes that the metadata of a ``.tif`` file names and the file lacks;
            by default these are an error.
        max_decoded : int, optional
            Bytes that the pixels of an image may take. By default, an image is refused that takes
            far more than a file of its size holds as a rule.
        writable : bool, default False
            Whether arrays have to be writable. Those of the formats that come with polystore are.

        Returns
        -------
        object
            A value of the caller's own.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        UnsupportedFormatError
            If no format has the suffix.
        CorruptDataError
            If the file is damaged.
        MissingDependencyError
            If the format needs a package that is not installed.
        """
        with self._existing_value(path) as held:
            index = None if region is None else as_index(region)
            asked = {"series": series, "missing": missing, "max_decoded": max_decoded}
            options = {name: value for name, value in asked.items() if value is not None}
            value = self._format(path, suffix, held).load(held.path, index, **options)
        return private(value) if writable else value

    def _load_all(self, paths: Sequence[P], **options: Any) -> Iterator[Any]:
        load = partial(self.load, **options)
        if len(paths) > 1 and any(_is_compressed(path) for path in paths):
            with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as threads:
                yield from threads.map(load, paths)  # compressed files decode in parallel
        else:
            yield from map(load, paths)

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
    ) -> None:
        """Store `data` in a file at `path`.

        Parameters
        ----------
        data : object
            A value that the format can hold.
        path : str or os.PathLike
            Where; its suffix names the format.
        overwrite : bool, default False
            Whether an existing file may be replaced.
        parents : bool, default False
            Whether to make missing directories.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array, in a file that takes its place. Of several
            that write into one array at once, none loses what another wrote.
        suffix : str, optional
            The format, if it is not that of the path's own suffix: ``".bin"`` writes bytes into
            any file.
        durable : bool, default False
            Whether to wait until the file would survive the loss of power.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite` or `region` is given.
        PathNotFoundError
            If the parent is missing, unless `parents` is given.
        UnsupportedFormatError
            If no format has the suffix, or the format cannot hold the value.
        FileLockTimeoutError
            If others who hold the file's lock did not end within a minute, of a region.
        StorageWriteError
            If the file system refuses.
        """
        if region is not None:
            self._save_part(data, path, region, suffix, durable=durable)
            return
        with self._located(path):
            chosen = self._format(path, suffix)
        write = partial(_write, chosen, data, durable=durable)
        self._replace(path, write, overwrite=overwrite, parents=parents, durable=durable)

    def _save_part(
        self, data: Any, path: P, region: Region, suffix: str | None, *, durable: bool
    ) -> None:
        # Two that read, change and write at once would lose what one of them wrote.
        while True:
            with (
                suppress(ReplacedError),
                self._existing_value(path) as held,
                turn(held) as known,
            ):
                if not self._is_at(path, known):
                    continue  # replaced by who had the turn before
                with (
                    self._located(path),
                    self._replacing(
                        path, overwrite=True, parents=False, durable=durable, known=known
                    ) as temporary,
                    _written(temporary, durable=durable) as file,
                ):
                    chosen = self._format(path, suffix, held)
                    chosen.save_region(held.path, file, as_index(region), data)
                return

    def _is_at(self, path: P, known: os.stat_result) -> bool:
        return os.path.samestat(self._places.status(path), known)


def _write(chosen: Format, data: Any, target: Place, *, durable: bool) -> None:
    with _written(target, durable=durable) as file:
        chosen.save(file, data)


@contextmanager
def _written(target: Place, *, durable: bool) -> Iterator[IO[bytes]]:
    with target.create() as file:
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _is_compressed(path: P) -> bool:
    try:
        return format_of(as_text(path)).compressed
    except StorageError:
        return False  # the load of this path says it
