"""The zarr backend: arrays as zarr arrays, directories as groups, other values as files."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from polystore.atomic import PREFIX, hidden_directory, remove, sweep_now, sync_tree
from polystore.descent import held
from polystore.disk import DiskBackend
from polystore.exceptions import (
    CorruptDataError,
    InvalidPathError,
    PathIsDirectoryError,
    StorageError,
    UnsupportedFormatError,
)
from polystore.formats import MOST_DECODED, check_claim
from polystore.os_errors import nothing_there
from polystore.paths import P
from polystore.region import Region, check_region, forward
from polystore.renames import put, rename_new
from polystore.zarr_store import RootedStore, held_store

__all__ = ["ZarrBackend"]

T = TypeVar("T")

_CHUNK = 2**20  # bytes, about
_KINDS = "biufc"  # numbers, which every reader of zarr knows
# What cannot be said of a path that leads nowhere.
_OF_SOMETHING = (CorruptDataError, PathIsDirectoryError, UnsupportedFormatError)
_METADATA = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
_GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})


class ZarrBackend(DiskBackend):
    """Store each array of numbers as a zarr array (format 3), and any other value as a file.

    Arrays count as files, and groups are the directories, so that a tree is a zarr hierarchy that
    every other reader of zarr opens. Other values lie beside the arrays, in the formats of
    `DiskBackend`. Arrays of formats 2 and 3 are read. Asking never creates anything.

    A save is atomic: the array is written beside its place and takes it in one step.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/`` that lies in this directory, and nothing outside it can be reached.

    Examples
    --------
    >>> import tempfile
    >>> store = ZarrBackend(tempfile.mkdtemp())
    >>> store.save(np.arange(12).reshape(3, 4), "/plate/labels", parents=True)
    >>> store.load("/plate/labels", region=(slice(1, 2), slice(0, 2)))
    array([[4, 5]])
    >>> store.save({"cells": 3}, "/plate/counts.json")
    >>> store.list_dir("/plate")
    ['counts.json', 'labels']
    """

    _backend_type = "zarr"

    def __init__(self, root: P | None = None) -> None:
        super().__init__(root)
        with self._os_errors("/"):
            if self._top and not os.listdir(self._top):
                Path(self._top, "zarr.json").write_text(_GROUP, encoding="utf-8")

    # What a value is

    def _is_value(self, place: str) -> bool:
        asked = _identity(place)
        while not (super()._is_value(place) or _is_array(place)):
            found = _identity(place)
            if found == asked:
                return False
            asked = found  # replaced meanwhile
        return True

    def _is_directory(self, place: str) -> bool:
        while True:
            asked = _identity(place)
            if not super()._is_directory(place):
                return False
            if _identity(place) == asked:
                return True

    def is_file(self, path: P) -> bool:
        return self._of_one(path, super().is_file)

    def is_dir(self, path: P) -> bool:
        return self._of_one(path, super().is_dir)

    def stat(self, path: P) -> dict[str, Any]:
        return self._of_one(path, super().stat)

    def _of_one(self, path: P, question: Callable[[P], T]) -> T:
        """Ask until the path leads to the same before and after: an array half deleted is none."""
        asked = self._led_to(path)
        while True:
            answer = question(path)
            found = self._led_to(path)
            if found == asked:
                return answer
            asked = found

    def _led_to(self, path: P) -> tuple[int, int] | None:
        with self._read_errors(path), nothing_there(), self._places.existing(path) as place:
            return _identity(place)
        return None

    def _is_hidden(self, name: str) -> bool:
        return name in _METADATA or super()._is_hidden(name)

    def _check_name(self, path: P) -> None:
        if os.path.basename(str(path).rstrip("/")) in _METADATA:
            raise InvalidPathError("zarr keeps its own metadata under this name")

    def _describe(self, place: str, path: P) -> dict[str, Any]:
        if not _is_array(place):
            return super()._describe(place, path)
        facts: dict[str, Any] = {"size": _size(place)}
        with suppress(CorruptDataError):  # a question is no place to complain
            array = self._open_array(place)
            facts |= {"shape": array.shape, "dtype": str(array.dtype)}
        return facts

    # Arrays

    def open(self, path: P, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any] | zarr.Group:
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
            If it is a file, or a directory that is no zarr group.

        Examples
        --------
        >>> import tempfile
        >>> store = ZarrBackend(tempfile.mkdtemp())
        >>> store.save(np.zeros((100, 100)), "/image", attributes={"unit": "um"})
        >>> array = store.open("/image")
        >>> array.chunks, dict(array.attrs)
        ((100, 100), {'unit': 'um'})
        """
        with self._os_errors(path), self._places.existing(path) as place:
            os.stat(place)
            if os.path.isfile(place):
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            store: Store | str = place
            if self._top:
                text = self._places.text(path)
                store = RootedStore(self._top, text, read_only=mode == "r")
            try:
                opened: Any = zarr.open(store=store, mode=mode)
            except FileNotFoundError as error:
                raise UnsupportedFormatError("the directory is not a zarr group") from error
            except Exception as error:
                raise CorruptDataError(f"it cannot be opened ({error})") from error
            return opened  # type: ignore[no-any-return]

    def _store(self, place: str, *, read_only: bool) -> Store:
        """Return what zarr opens a place with; below a root no link of a chunk leads out of it."""
        kind = RootedStore if self._top else LocalStore
        return held_store(kind, place, read_only=read_only)

    def _open_array(self, place: str, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
        store = self._store(place, read_only=mode == "r")
        try:
            return zarr.open_array(store=store, mode=mode)
        except Exception as error:
            raise CorruptDataError(f"the zarr array cannot be opened ({error})") from error

    def load(self, path: P, *, region: Region | None = None) -> Any:
        """Return the value at `path`, or the part of an array that `region` selects.

        Parameters
        ----------
        path : str or os.PathLike
            An array, or a file in the format of its suffix.
        region : int, slice, ... or tuple of them, optional
            The part to return, as in basic indexing; no more chunks than it touches are read.

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
        while True:
            generation = self._generation(path)
            try:
                value = self._load(path, region)
            except StorageError as error:
                passing = generation is None and isinstance(error, _OF_SOMETHING)
                if self._generation(path) == generation and not passing:
                    raise
                continue
            # Replaced or deleted while it was read, missing chunks would have come as fill values.
            if generation is not None and self._generation(path) == generation:
                return value

    def _load(self, path: P, region: Region | None) -> Any:
        with self._existing_value(path) as place:
            if not _is_array(place):
                return super().load(path, region=region)
            return self._load_array(place, ... if region is None else region)

    def _load_array(self, place: str, region: Region) -> Any:
        array = self._open_array(place)
        check_region(array.shape, region)
        index, turn = forward(array.shape, region)
        if region is ... and array.nbytes > MOST_DECODED:
            check_claim(array.nbytes, _size(place))
        try:
            return np.asarray(array[index])[turn]
        except Exception as error:
            raise CorruptDataError(f"a chunk cannot be decoded ({error})") from error

    def _generation(self, path: P) -> tuple[int, int] | None:
        """Return what tells one value at a path from the next, None where there is none."""
        with self._read_errors(path), nothing_there(), self._places.existing(path) as place:
            status = os.stat(place)
            return status.st_ino, status.st_ctime_ns
        return None

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
        durable: bool = False,
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
        compressors: Any = "auto",
        filters: Any = "auto",
        fill_value: Any = None,
        attributes: Mapping[str, Any] | None = None,
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
            Write into this part of the stored array, in place: readers may see a part of it, and
            of two that write into one chunk at once, one may undo what the other wrote.
        durable : bool, default False
            Whether to wait until the value would survive the loss of power.
        chunks, shards : tuple of int, optional
            Shapes; by default chunks of about 1 MiB, and no shards.
        compressors, filters : optional
            Codecs, as `zarr.create_array` takes them; by default Zstandard.
        fill_value : scalar, optional
            The value of chunks that were never written.
        attributes : mapping, optional
            The array's attributes; by default those of the array that is replaced.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite` or `region` is given.
        PathNotFoundError
            If the parent is missing, unless `parents` is given.
        UnsupportedFormatError
            If the value is no array of numbers, and the suffix names no format that holds it; or
            if the options do not fit the array.
        """
        if region is not None:
            self._save_region(data, path, region, durable=durable)
            return
        array = np.asarray(data) if isinstance(data, np.ndarray | np.generic) else None
        if array is None or array.dtype.kind not in _KINDS or np.ma.isMaskedArray(data):
            super().save(data, path, overwrite=overwrite, parents=parents, durable=durable)
            return

        def write(temporary: str) -> None:
            os.mkdir(temporary)
            try:
                created = zarr.create_array(
                    store=self._store(temporary, read_only=False),
                    shape=array.shape,
                    dtype=array.dtype,
                    chunks=chunks or _chunks(array.shape, array.dtype.itemsize, shards),
                    shards=shards,
                    compressors=compressors,
                    filters=filters,
                    fill_value=fill_value,
                    attributes=dict(self._attributes(path) if attributes is None else attributes),
                )
            except (TypeError, ValueError) as error:
                raise UnsupportedFormatError(f"zarr refused the array: {error}") from error
            if array.size:
                created[...] = array
            if durable:
                sync_tree(temporary)

        self._replace(path, write, overwrite=overwrite, parents=parents, durable=durable)

    def _attributes(self, path: P) -> dict[str, Any]:
        """Return the attributes of the array that is replaced."""
        with suppress(OSError, CorruptDataError), self._places.existing(path) as place:
            if _is_array(place):
                return dict(self._open_array(place).attrs)
        return {}

    def _save_region(self, data: Any, path: P, region: Region, *, durable: bool) -> None:
        with self._existing_value(path) as place:
            if not _is_array(place):
                super().save(data, path, region=region, durable=durable)
                return
            stored = self._open_array(place, "r+")
            # As NumPy takes them: zarr would leave out what does not fit.
            values = np.empty(check_region(stored.shape, region), stored.dtype)
            try:
                values[...] = data
            except (TypeError, ValueError, OverflowError) as error:
                raise UnsupportedFormatError(
                    f"the value does not fit the region {region!r} of an array of shape "
                    f"{stored.shape} and dtype {stored.dtype} ({error})"
                ) from error
            index, turn = forward(stored.shape, region)
            stored[index] = values[turn]
            if durable:
                sync_tree(place)

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, **options: Any
    ) -> Iterator[str]:
        with self._located(path):
            self._check_name(path)
            # Asked first, or parents would be made inside an array.
            self._check_save(str(path), overwrite=overwrite, parents=parents)
        replacing = super()._replacing(path, overwrite=overwrite, parents=parents, **options)
        with replacing as temporary:
            yield temporary

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        if not overwrite:
            rename_new(temporary, target)
            return
        replaced = put(temporary, target, self._check_no_group)
        if replaced:
            remove(replaced)

    def _check_no_group(self, place: str) -> None:
        os.lstat(place)
        if self._is_directory(place):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), place)

    @contextmanager
    def _temporary(self, place: str) -> Iterator[str]:
        # Hidden in a directory that is no group, since zarr lists arrays of any name.
        with hidden_directory(place) as hidden:
            yield f"{hidden}/new"

    # Groups

    def _make_directory(self, place: str) -> None:
        with self._temporary(place) as temporary:
            os.mkdir(temporary)
            Path(temporary, "zarr.json").write_text(_GROUP, encoding="utf-8")
            rename_new(temporary, place)

    def _remove_directory(self, place: str) -> None:
        sweep_now(place)
        with held(place) as directory, hidden_directory(place) as aside:
            self._check_empty(directory)
            # It is in the way of rmdir, which alone knows whether somebody saves there meanwhile.
            for name in _METADATA:
                with suppress(FileNotFoundError):
                    os.rename(f"{directory}/{name}", f"{aside}/{PREFIX}{name}")
            try:
                os.rmdir(place)
            except OSError:
                for name in os.listdir(aside):
                    with suppress(OSError):  # deleted by another, or made again
                        rename_new(f"{aside}/{name}", f"{directory}/{name.removeprefix(PREFIX)}")
                raise

    def _check_empty(self, place: str) -> None:
        if any(not self._is_hidden(name) for name in os.listdir(place)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), place)


def _is_array(place: str) -> bool:
    if os.path.isfile(f"{place}/.zarray"):
        return True
    try:
        metadata = json.loads(Path(place, "zarr.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError):
        return False  # a question never fails: what cannot be looked at is not there
    # A group has a zarr.json too.
    return isinstance(metadata, dict) and metadata.get("node_type") == "array"


def _identity(place: str) -> tuple[int, int] | None:
    """Return what tells apart two things that have one name after another; None for nothing."""
    try:
        status = os.stat(place)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _size(place: str) -> int:
    return sum(file.lstat().st_size for file in Path(place).rglob("*") if file.is_file())


def _chunks(
    shape: tuple[int, ...], itemsize: int, shards: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: the whole array, its longest sides halved until it fits.

    The sides of a shard are divided by whole numbers, as zarr requires.
    """
    chunks = [max(1, side) for side in shards or shape]
    while math.prod(chunks) * itemsize > _CHUNK and max(chunks) > 1:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    if shards is not None:
        chunks = [
            next(side for side in range(wanted, 0, -1) if whole % side == 0)
            for wanted, whole in zip(chunks, shards, strict=True)
        ]
    return tuple(chunks)
