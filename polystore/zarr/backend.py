"""The zarr backend: arrays as zarr arrays, in directories and in stores that URLs name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import zarr

from polystore.base import StorageBackend
from polystore.error_translation import located
from polystore.exceptions import (
    MissingDependencyError,
    PathMismatchError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.filesystem.lookup import portable_path
from polystore.paths import P, as_text
from polystore.region import Region
from polystore.stat import Stat
from polystore.transfer.copying import RAW
from polystore.traversal import walk_tree
from polystore.writable import private
from polystore.zarr.array.creation import ArrayOptions, ZarrFormat
from polystore.zarr.array.pipelines import Pipeline, check_pipeline
from polystore.zarr.array.reading import Mode
from polystore.zarr.array.stored import Packed
from polystore.zarr.copy_between import changes_format, copy_across, pack, put_packed
from polystore.zarr.local.tree import LocalZarr
from polystore.zarr.object_store.parallel import save_together
from polystore.zarr.object_store.urls import Url, as_url

if TYPE_CHECKING:
    from polystore.zarr.object_store.tree import RemoteZarr

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
        the ``FusedCodecPipeline`` of zarr 3.4 or later, and with an older zarr the pipeline that
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

    In a store:

    - URLs are given as `str`: a `pathlib.Path` takes a slash away from ``://``. Results show them
      as URLs. A ``file://`` URL means the path that it names, and a chained URL of fsspec, such as
      ``zip://::s3://bucket/plates.zip``, can be a root only.
    - A bucket is never made. A directory is a group, or implied by what lies below it.
    - Several processes may save one path. Each writer of a path first locks it, by an object
      next to it that no listing shows; others wait for it, up to a minute
      (`FileLockTimeoutError`). The lock of a process that has died is taken over, on its own
      machine at once and on another one after a day. This rests on conditional puts, which
      ``memory://``, s3fs, gcsfs and adlfs have. Through another file system, as through that of
      obstore, two that begin in the same moment may both go on, and mix what they write.
    - A save into a region works in place, and locks only the shards, or chunks, that it touches,
      with two requests for each. None may run while another overwrites the array.
    - A copy is made within the store. A copy, a move or a deletion of a tree is not atomic: a
      failure midway leaves a part of it.
    - An array that was opened before it was overwritten loses its chunks, which then read as fill
      values. `load` notices, and reads again.
    - In stores with true directories (``memory://``, ``sftp://``) an array cannot take the place
      of a file, nor a file that of an array (`UnsupportedOperationError`).
    - There are no links.

    A store that cannot be reached, or refuses, raises `StorageError` on reading and
    `StorageWriteError` on writing, with the URL and the cause, never that nothing is there.

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
        with located(root, self._backend_type):
            check_pipeline(pipeline)
        if zarr_format not in (None, 2, 3):
            raise VFSTypeError(
                f"zarr_format is 2 or 3, not {zarr_format!r}",
                path=None if root is None else str(root),
                backend=self._backend_type,
            )
        self._options = dict(storage_options or {})
        self._format = zarr_format
        local = partial(LocalZarr, zarr_format=zarr_format, pipeline=pipeline)
        self._local = local()
        self._sites: dict[str, RemoteZarr] = {}
        self._root: LocalZarr | RemoteZarr | None = None
        if root is None:
            return
        url = as_url(root, backend=self._backend_type)
        if url is not None and url.local is None:
            self._root = self._remote(url, rooted=True)
            return
        if storage_options:
            raise VFSTypeError(
                "storage_options are for a store that a URL names, and the root is a directory",
                path=str(root),
                backend=self._backend_type,
            )
        self._root = local(root if url is None else url.local)

    @classmethod
    def portable_path(cls, path: P, /, root: P | None = None, **options: Any) -> str:
        if as_url(path, backend=cls._backend_type) is not None:
            return as_text(path)
        return portable_path(path, root, backend=cls._backend_type)

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        root = options.get("root")
        return options if root is None else options | {"root": cls.portable_path(root)}

    # The tree of a path

    def _tree(self, path: P) -> tuple[LocalZarr | RemoteZarr, str]:
        """Return the tree that a path lies in, and the path as that takes it."""
        text = as_text(path, backend=self._backend_type)
        url = as_url(text, backend=self._backend_type) if ":" in text else None
        if self._root is not None:
            if url is not None:
                raise PathMismatchError(
                    "the paths of a backend with a root lie below it; ZarrBackend() takes URLs",
                    path=text,
                    backend=self._backend_type,
                )
            return self._root, text
        if url is None:
            return self._local, text
        if url.local is not None:
            return self._local, url.local
        if url.chained:
            raise PathMismatchError(
                f"a chained URL names a store, and no path in it; ZarrBackend({text!r}) takes it",
                path=text,
                backend=self._backend_type,
            )
        if url.site not in self._sites:
            self._sites[url.site] = self._remote(Url(url.site, ""), rooted=False)
        return self._sites[url.site], text

    def _remote(self, url: Url, *, rooted: bool) -> RemoteZarr:
        try:
            from polystore.zarr.object_store.tree import RemoteZarr
        except ImportError as error:
            raise MissingDependencyError(
                f"URLs need the package {error.name!r}: pip install 'polystore-ray[remote]'",
                path=url.site + url.path,
                backend=self._backend_type,
            ) from error
        return RemoteZarr(url, self._options, rooted=rooted, zarr_format=self._format)

    # Reading

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        """Return the zarr array at `path`, for lazy work; of a directory, the zarr group.

        Parameters
        ----------
        path : str or os.PathLike
            An array or a directory.
        mode : {"r", "r+"}, default "r"
            Whether it can be read only, or changed too.

        Raises
        ------
        PathNotFoundError
            If nothing is there. Nothing is made.
        UnsupportedFormatError
            If it is a file, or a directory that is not a zarr group.

        Notes
        -----
        As for `load`, a damaged chunk of an array raises an error. Of arrays that are reached
        through a group, a damaged Blosc chunk can end the process, as anywhere in zarr. An array
        that claims to be huge is only refused by `load`.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> store = ZarrBackend(tempfile.mkdtemp())
        >>> store.save(np.zeros((100, 100)), "/image", attributes={"unit": "um"})
        >>> array = store.open("/image")
        >>> array.chunks, dict(array.attrs)
        ((100, 100), {'unit': 'um'})
        """
        tree, text = self._tree(path)
        return tree.open(text, mode)

    def content_identity(self, path: P) -> Hashable | None:
        tree, text = self._tree(path)
        return tree.content_identity(text) if isinstance(tree, LocalZarr) else None

    @classmethod
    def file_format(cls, path: str) -> str | None:
        if cls.load is not ZarrBackend.load or cls.save is not ZarrBackend.save:
            return None  # a subclass keeps other things
        return "zarr"

    def check_convertible(self, paths: Sequence[P]) -> None:
        for path in paths:
            tree, text = self._tree(path)
            more = tree.apart(text)
            if more:
                raise UnsupportedOperationError(
                    f"the other backend would not keep what is there beside the values: "
                    f"{', '.join(more)}. lossy=True leaves it behind",
                    path=str(path),
                    backend=self._backend_type,
                )

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
        tree, text = self._tree(path)
        if suffix == RAW and region is None:
            return pack(tree, text)
        value = tree.load(text, region=region, suffix=suffix, **options)
        return private(value) if writable else value

    def _load_all(
        self, paths: Sequence[P], *, writable: bool = False, **options: Any
    ) -> Iterable[Any]:
        trees = [self._tree(path) for path in paths]
        if len({id(tree) for tree, _ in trees}) != 1:
            return super()._load_all(paths, writable=writable, **options)
        values = trees[0][0].load_all([text for _, text in trees], **options)
        return map(private, values) if writable else values

    def exists(self, path: P) -> bool:
        tree, text = self._tree(path)
        return tree.exists(text)

    def is_file(self, path: P) -> bool:
        tree, text = self._tree(path)
        return tree.is_file(text)

    def is_dir(self, path: P) -> bool:
        tree, text = self._tree(path)
        return tree.is_dir(text)

    def is_symlink(self, path: P) -> bool:
        tree, text = self._tree(path)
        return tree.is_symlink(text)

    def stat(self, path: P) -> Stat:
        tree, text = self._tree(path)
        return tree.stat(text)

    def list_dir(self, path: P) -> list[str]:
        tree, text = self._tree(path)
        return tree.list_dir(text)

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        tree, text = self._tree(path)
        return tree.list_files(text, pattern, extensions, recursive)

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        tree, text = self._tree(path)
        if isinstance(tree, LocalZarr):
            return tree.walk(text, recursive)
        files = tree.list_files(text, recursive=recursive)  # in fewer requests than one for each
        return walk_tree(tree, text, recursive, set(files))

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
        if zarr_format not in (None, 2, 3):
            raise VFSTypeError(
                f"zarr_format is 2 or 3, not {zarr_format!r}",
                path=str(path),
                backend=self._backend_type,
            )
        tree, text = self._tree(path)
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
        if region is not None and options.given():
            raise UnsupportedFormatError(
                f"{', '.join(f'{name}=' for name in options.given())} are for new arrays, and "
                f"region= writes into one that is there",
                path=str(path),
                backend=self._backend_type,
            )
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

    def append(self, values: Any, path: P, *, axis: int = 0, durable: bool = False) -> int:
        """Put values at the end of a stored array's axis; return where along it they begin.

        They are written first, and then the new shape is published in one step: a reader, and the
        next to append, sees all of them or none, also if the writer is killed. Of several that
        append to one array at once each gets a range of its own, one after another. Writers that
        know their ranges beforehand `resize` once, and save regions at the same time.

        Parameters
        ----------
        values : array_like
            Of the array's shape, but for the axis.
        path : str or os.PathLike
            An array.
        axis : int, default 0
            The axis that grows.
        durable : bool, default False
            As for `save`.

        Returns
        -------
        int
            How long the axis was.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        UnsupportedOperationError
            If it is a file.
        UnsupportedFormatError
            If the values do not fit.
        FileLockTimeoutError
            If other writers did not end within a minute.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> store = ZarrBackend(tempfile.mkdtemp())
        >>> store.save(np.zeros((2, 3)), "/rows", chunks=(64, 3))
        >>> store.append(np.ones((1, 3)), "/rows")
        2
        >>> store.load("/rows").shape
        (3, 3)
        """
        tree, text = self._tree(path)
        return tree.append(values, text, axis=axis, durable=durable)

    def resize(self, path: P, shape: Sequence[int], *, durable: bool = False) -> None:
        """Change the shape of a stored array.

        What it grows by reads as its fill value, also where it was cut off before. It waits for
        all writers of the array, and they for it. A reader that opened the array before it was cut
        off may still read what is gone, as fill values; `load` notices, and reads again.

        Parameters
        ----------
        path : str or os.PathLike
            An array.
        shape : sequence of int
            Its new shape, of as many axes.
        durable : bool, default False
            As for `save`.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        UnsupportedOperationError
            If it is a file.
        VFSTypeError
            If the shape is none, or has another number of axes.
        FileLockTimeoutError
            If other writers did not end within a minute.
        """
        tree, text = self._tree(path)
        tree.resize(text, shape, durable=durable)

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *args: Any,
        **options: Any,
    ) -> None:
        if all(isinstance(self._tree(path)[0], LocalZarr) for path in paths):
            super()._save_all(values, paths, step, *args, **options)
            return
        self._check_batch([as_text(path) for path in paths], **options)
        save_together(partial(self.save, **options), values, paths, step)

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        batches: dict[int, tuple[LocalZarr | RemoteZarr, list[str]]] = {}
        for path in paths:
            tree, text = self._tree(path)
            batches.setdefault(id(tree), (tree, []))[1].append(text)
        for tree, texts in batches.values():
            tree.check_batch(texts, **options)

    def ensure_directory(self, path: P) -> str:
        tree, text = self._tree(path)
        return tree.ensure_directory(text)

    def delete(self, path: P) -> None:
        tree, text = self._tree(path)
        tree.delete(text)

    def delete_all(self, path: P) -> None:
        tree, text = self._tree(path)
        tree.delete_all(text)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        tree, text = self._tree(link)
        origin, target = self._tree(source)
        if origin is not tree:
            raise UnsupportedOperationError(
                "a link cannot lead into another store",
                path=str(link),
                backend=self._backend_type,
            )
        tree.create_symlink(target, text, overwrite=overwrite)

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
        tree, text = self._tree(source)
        other, target = self._tree(destination)
        if other is tree and not changes_format(tree, text, target):
            tree.copy(text, target)
        else:
            copy_across(tree, text, other, target)

    def move(self, source: P, destination: P) -> None:
        """Move as `copy` copies; a tree within one directory in one step."""
        tree, text = self._tree(source)
        other, target = self._tree(destination)
        if other is tree and not changes_format(tree, text, target):
            tree.move(text, target)
        else:
            copy_across(tree, text, other, target)
            tree.delete_all(text)
