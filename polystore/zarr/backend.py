"""The zarr backend: arrays as zarr arrays, in directories and in stores that URLs name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from polystore.arguments import refuse_loss
from polystore.base import StorageBackend
from polystore.capabilities import accepting
from polystore.filesystem import watch_methods
from polystore.filesystem.lookup import portable_path
from polystore.forwarding import forwarded
from polystore.hostable import Hostable
from polystore.paths import P, PathT, as_given, as_text
from polystore.region import Region
from polystore.transfer.copying import RAW
from polystore.writable import private
from polystore.zarr import array_methods
from polystore.zarr.array.creation import ArrayOptions, ZarrFormat
from polystore.zarr.array.pipelines import Pipeline
from polystore.zarr.array.stored import Packed
from polystore.zarr.copy_between import copy, create_link, move, pack, put_packed
from polystore.zarr.local.tree import LocalZarr
from polystore.zarr.object_store.parallel import save_together
from polystore.zarr.object_store.urls import as_url
from polystore.zarr.trees import Trees, check_format

__all__ = ["ZarrBackend"]


class ZarrBackend(StorageBackend):
    """Store each array of numbers as a zarr array, and any other value as a file.

    Arrays count as files, and groups are the directories, so that a tree is a zarr hierarchy that
    every other reader of zarr opens. Other values lie next to the arrays, in the formats of
    `DiskBackend`. Arrays and groups of formats 2 and 3 are read, and made: a new member has the
    format of its group, which is 3 where nothing else is said. Asking never creates anything.

    A save is atomic. In a directory the array is written next to its path and renamed in one
    step. In a store that a URL names, its chunks are written first, under names that the array it
    replaces does not use, and its metadata last, in one put.

    Parameters
    ----------
    root : str or os.PathLike, optional
        A directory, or the URL of a place in a store, such as ``"s3://bucket/plates"``. With it,
        paths form one tree rooted at ``/`` that lies there, and nothing outside it can be
        reached. Without it, paths are those of the operating system, and URLs.
    storage_options : mapping, optional
        For stores that URLs name: what fsspec's file system takes, such as ``key``, ``secret``
        and ``client_kwargs`` for S3.
    zarr_format : {2, 3}, optional
        The format of new arrays and groups where no group has one yet; by default 3. In a group
        they have the format of that group.
    pipeline : {"auto", "zarr", "fused", "zarrs"}, default "auto"
        What reads, decodes, encodes and writes the chunks of arrays in directories: by default
        the ``FusedCodecPipeline`` of zarr 3.3 or later, and with an older zarr the pipeline that
        `zarr.config` names, which is ``"zarr"``. ``"zarrs"`` is that of the package ``zarrs``, for
        data of authors that you trust; see the notes.

    Raises
    ------
    VFSTypeError
        If there is no such format or pipeline.
    PathMismatchError
        If nothing is known that serves the URL's scheme. By every operation, if a path is a URL
        and there is a root.
    MissingDependencyError
        If the package that serves it is missing: the extra ``remote`` brings fsspec, which serves
        ``memory://``, and the extra ``s3`` what serves ``s3://`` too. If the pipeline needs a
        package that is missing.

    Notes
    -----
    `zarr.config` stays as it is. With ``"zarrs"``, whole saves, loads and arrays from `open` go
    through that package; it does not check what a chunk declares before it decodes the chunk, so
    that a small file can take all memory, it follows a chunk that is a link also out of the root,
    and it waits for a chunk that is a pipe. A shard that another process writes during a load may
    be mixed of the old and the new one. Saves into regions, appends and resizes use ``"auto"``.

    In a directory, writers of one array, and those that change its shape, exclude each other by
    locks of the operating system on files next to its metadata, of which there are at most 65, all
    empty. The system frees them when a process dies. On a network file system they hold among
    machines where it has locks, as NFS has from version 4 on, unless it is mounted with
    ``local_lock`` or ``nolock``.

    What differs in a store is in the documentation, under *Zarr hierarchies in object stores*.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> store = ZarrBackend(tempfile.mkdtemp())
    >>> store.save(np.arange(12).reshape(3, 4), "/plate/labels", parents=True)
    >>> store.load("/plate/labels", region=(slice(1, 2), slice(0, 2)))
    array([[4, 5]])
    >>> store.save({"cells": 3}, "/plate/counts.json")
    >>> store.list_dir("/plate")
    ['counts.json', 'labels']

    In a store, here that of this process:

    >>> anywhere = ZarrBackend()
    >>> anywhere.save(np.arange(3), "memory://plates/1/labels", parents=True)
    >>> anywhere.list_files("memory://plates/1")
    ['memory://plates/1/labels']
    >>> ZarrBackend("memory://plates").load("/1/labels")
    array([0, 1, 2])
    """

    _backend_type = "zarr"
    _saves_regions_together = True

    directory_format = "zarr"

    def __init__(
        self,
        root: P | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        zarr_format: ZarrFormat | None = None,
        pipeline: Pipeline = "auto",
    ) -> None:
        self._trees = Trees(root, storage_options, zarr_format, pipeline)

    @classmethod
    def portable_path(cls, path: P, /, root: P | None = None, **options: Any) -> str:
        if as_url(path, backend=cls._backend_type) is not None:
            return as_text(path)
        return portable_path(path, root, backend=cls._backend_type)

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        root = options.get("root")
        return options if root is None else options | {"root": cls.portable_path(root)}

    # Reading

    @classmethod
    def file_format(cls, path: str) -> str | None:
        if cls.load is not ZarrBackend.load or cls.save is not ZarrBackend.save:
            return None  # a subclass keeps other things
        return "zarr"

    def check_convertible(self, paths: Sequence[P]) -> None:
        for path in paths:
            tree, text = self._trees.of(path)
            refuse_loss(tree.apart(text), path, backend=self._backend_type)

    @accepting("series", "missing", "max_decoded")
    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        suffix: str | None = None,
        writable: bool = False,
        **options: Any,
    ) -> Any:
        """Return the value at `path`, or the part of an array that `region` selects.

        Parameters
        ----------
        path : str or os.PathLike
            An array, or a file in the format of its suffix.
        region : int, slice, ... or tuple of them, optional
            The part to return, as in basic indexing; no more chunks than it touches are read.
        suffix : str, optional
            The format of a file, if it is not that of the path's own suffix: ``".bin"`` gives its
            bytes; of an array, what `save` takes with that suffix.
        writable : bool, default False
            Whether arrays have to be writable, as those of zarr are.
        **options
            Of a file, as `DiskBackend.load` takes them, such as ``series=``.

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
        CorruptDataError
            If the array's metadata or a chunk is damaged.
        """
        tree, text = self._trees.of(path)
        if suffix == RAW and region is None:
            return pack(tree, text)
        value = tree.load(text, region=region, suffix=suffix, **options)
        return private(value) if writable else value

    def _load_all(
        self, paths: Sequence[P], *, writable: bool = False, **options: Any
    ) -> Iterable[Any]:
        groups = self._trees.grouped(paths)
        if len(groups) != 1:
            return super()._load_all(paths, writable=writable, **options)
        [(tree, texts)] = groups
        values = tree.load_all(texts, **options)
        return map(private, values) if writable else values

    def _forward(self, operation: str, path: P, *args: Any, **options: Any) -> Any:
        tree, text = self._trees.of(path)
        return getattr(tree, operation)(text, *args, **options)

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

    def ensure_directory(self, path: PathT) -> PathT:
        return as_given(path, self._forward("ensure_directory", path))

    open = array_methods.open_lazily
    append, resize = array_methods.append, array_methods.resize

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
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
        compressors: Any = "auto",
        filters: Any = "auto",
        fill_value: Any = None,
        attributes: Mapping[str, Any] | None = None,
        dimension_names: Sequence[str | None] | None = None,
        zarr_format: ZarrFormat | None = None,
    ) -> None:
        """Store a value at `path`: an array of numbers as a zarr array, any other as a file.

        Parameters
        ----------
        data : object
            An array of booleans, integers, floats or complex numbers, of any shape; or a value
            that the format of the path's suffix can hold.
        path : str or os.PathLike
            Where. An array's name may have any suffix.
        overwrite : bool, default False
            Whether an existing value may be replaced.
        parents : bool, default False
            Whether to make missing directories, as groups.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array, in place. Any number of writers may do so at
            once: of two that touch one shard, or chunk where there are no shards, one waits.
            Readers may see a part of it.
        suffix : str, optional
            The format of a file, also of one that holds an array, if it is not that of the path's
            own suffix: ``".bin"`` writes bytes into any file.
        durable : bool, default False
            Whether to wait until the value would survive the loss of power; a store always does.
        chunks, shards : tuple of int, optional
            Shapes; by default chunks of about 1 MiB, and no shards.
        compressors, filters : optional
            Codecs, as `zarr.create_array` takes them; by default Zstandard.
        fill_value : scalar, optional
            The value of chunks that were never written; by default 0, and none in format 2.
        attributes : mapping, optional
            The array's attributes.
        dimension_names : sequence of str or None, optional
            The names of its axes. In format 2 they are an attribute, as xarray has it there.
        zarr_format : {2, 3}, optional
            The format of the array, and of groups that `parents` makes, where there is no group
            yet. By default a new member has the format of its group.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite` or `region` is given.
        PathNotFoundError
            If the parent is missing, unless `parents` is given; or the bucket.
        UnsupportedFormatError
            If the value is not an array of numbers, and no format of its suffix holds it; or
            if the options do not fit the array.
        FileLockTimeoutError
            If other writers did not end within a minute: of the path in a store, or of a region.

        Notes
        -----
        An array that takes the place of another keeps what is not given here: chunks, shards,
        codecs, fill value, names of axes, attributes and format. Of another number of axes it
        keeps attributes, fill value and codecs, a transposition apart. Of another dtype it keeps
        all but the filters that work on elements, and the fill value only if the dtype has it.

        Consolidated metadata of every group above is removed before an array or a group is made,
        replaced, resized or deleted, so that no reader takes it for what is there. Once all is
        written, `zarr.consolidate_metadata` makes it again. A change through zarr itself, as of an
        array from `open`, leaves it as it is.

        Examples
        --------
        An array takes the format of its group:

        >>> import tempfile
        >>> import numpy as np
        >>> import zarr
        >>> store = ZarrBackend(tempfile.mkdtemp())
        >>> store.save(np.arange(4), "/plate.zarr/0", parents=True, zarr_format=2)
        >>> store.save(np.arange(3), "/plate.zarr/labels")
        >>> store.open("/plate.zarr/labels").metadata.zarr_format
        2
        """
        check_format(zarr_format, path)
        tree, text = self._trees.of(path)
        if isinstance(data, Packed):
            put_packed(tree, text, data, parents=parents)
            return
        options = ArrayOptions(
            chunks,
            shards,
            compressors,
            filters,
            fill_value,
            attributes,
            dimension_names,
            zarr_format,
        )
        if region is not None:
            options.check_none_given(path)
        tree.save(
            data,
            text,
            overwrite=overwrite,
            parents=parents,
            region=region,
            suffix=suffix,
            durable=durable,
            options=options,
        )

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *args: Any,
        **options: Any,
    ) -> None:
        if all(isinstance(tree, LocalZarr) for tree, _ in self._trees.grouped(paths)):
            super()._save_all(values, paths, step, *args, **options)
            return
        self._check_batch([as_text(path) for path in paths], **options)
        save_together(partial(self.save, **options), values, paths, step)

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        for tree, texts in self._trees.grouped(paths):
            tree.check_batch(texts, **options)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        create_link(*self._trees.of(source), *self._trees.of(link), overwrite=overwrite)

    def copy(self, source: P, destination: P) -> None:
        """Copy a file, a tree or a link as a link; never overwrite, never make parents.

        Arrays and groups are copied as they are stored, also from one store into another, and
        between a store and a directory, where a link to a file arrives as the file. But an array
        that goes into a group of another format is loaded and saved, since the group would not show
        it; it keeps its metadata as one that is overwritten does (see `save`). A group keeps its
        format, and that of all that is in it, wherever it goes.

        Raises
        ------
        PathNotFoundError
            If the source or the destination's parent is missing.
        PathExistsError
            If the destination exists.
        InvalidPathError
            If the destination is the source or lies in it.
        UnsupportedOperationError
            If a link to a directory would go into another store.
        UnsupportedFormatError
            If an array that is not of numbers would go into a group of another format.
        """
        copy(*self._trees.of(source), *self._trees.of(destination))

    def move(self, source: P, destination: P) -> None:
        """Move as `copy` copies; a tree within one directory in one step."""
        move(*self._trees.of(source), *self._trees.of(destination))
