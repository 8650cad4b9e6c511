"""The disk backend: one file a value, in the format of its suffix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from polystore.arguments import refuse_loss
from polystore.base import StorageBackend
from polystore.exceptions import StorageError
from polystore.filesystem import watch_methods
from polystore.filesystem.lookup import portable_path
from polystore.filesystem.tree import LocalTree
from polystore.filesystem.values import FileValues, load_files
from polystore.formats import format_of
from polystore.forwarding import forwarded
from polystore.hostable import Hostable
from polystore.paths import P, PathT, as_given
from polystore.region import Region
from polystore.writable import private

__all__ = ["DiskBackend"]


class DiskBackend(StorageBackend):
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

    def __init__(self, root: P | None = None) -> None:
        self._tree = LocalTree(root, FileValues, backend=self._backend_type)

    @classmethod
    def portable_path(cls, path: P, /, root: P | None = None, **options: Any) -> str:
        return portable_path(path, root, backend=cls._backend_type)

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        root = options.get("root")
        return options if root is None else options | {"root": cls.portable_path(root)}

    @classmethod
    def file_format(cls, path: str) -> str | None:
        if cls.load is not DiskBackend.load or cls.save is not DiskBackend.save:
            return None  # a subclass keeps other things
        with suppress(StorageError):
            return format_of(path).name
        return None

    def check_convertible(self, paths: Sequence[P]) -> None:
        for path in paths:
            refuse_loss(self._tree.apart(path), path, backend=self._backend_type)

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
        value = self._tree.load(
            path,
            region=region,
            suffix=suffix,
            series=series,
            missing=missing,
            max_decoded=max_decoded,
        )
        return private(value) if writable else value

    def _load_all(self, paths: Sequence[P], **options: Any) -> Iterator[Any]:
        return load_files(partial(self.load, **options), paths)

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
            If another writer of a region did not free the file's lock within a minute.
        StorageWriteError
            If the file system refuses.
        """
        self._tree.save(
            data,
            path,
            overwrite=overwrite,
            parents=parents,
            region=region,
            suffix=suffix,
            durable=durable,
        )

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        self._tree.check_batch(paths, **options)

    def _forward(self, operation: str, *args: Any, **options: Any) -> Any:
        return getattr(self._tree, operation)(*args, **options)

    exists = forwarded(StorageBackend.exists)
    is_file = forwarded(StorageBackend.is_file)
    is_dir = forwarded(StorageBackend.is_dir)
    is_symlink = forwarded(StorageBackend.is_symlink)
    stat = forwarded(StorageBackend.stat)
    list_dir = forwarded(StorageBackend.list_dir)
    list_files = forwarded(StorageBackend.list_files)
    walk = forwarded(StorageBackend.walk)
    content_identity = forwarded(Hostable.content_identity)
    watch, awatch = watch_methods.watch, watch_methods.awatch
    delete = forwarded(StorageBackend.delete)
    delete_all = forwarded(StorageBackend.delete_all)
    copy = forwarded(StorageBackend.copy)
    move = forwarded(StorageBackend.move)
    create_symlink = forwarded(StorageBackend.create_symlink)

    def ensure_directory(self, path: PathT) -> PathT:
        return as_given(path, self._forward("ensure_directory", path))


DiskStorageBackend = DiskBackend  # its name in polystore 0.x, as others in polystore.compat
