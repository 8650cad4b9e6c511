"""The zarr backend: one zarr array a value, in directories of the file system."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from polystore.atomic import exchange, remove, rename_new, temporary_name
from polystore.exceptions import CorruptDataError, StorageError, UnsupportedFormatError
from polystore.local_backend import LocalBackend
from polystore.paths import P
from polystore.region import Region, as_index, check_region

__all__ = ["ZarrBackend"]

_CHUNK = 2**20  # bytes, about
_KINDS = "biufc"  # numbers, which every reader of zarr knows


class ZarrBackend(LocalBackend):
    """Store each array as a zarr array (format 3), compressed, in chunks of about 1 MiB.

    An array counts as a file, every other directory as a directory. Arrays of formats 2 and 3 are
    read. A save is atomic: the array is written beside its place and takes it in one step.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/`` that lies in this directory, and nothing outside it can be reached.

    Examples
    --------
    >>> import tempfile
    >>> store = ZarrBackend(tempfile.mkdtemp())
    >>> store.save(np.arange(12).reshape(3, 4), "/labels")
    >>> store.load("/labels", region=(slice(1, 2), slice(0, 2)))
    array([[4, 5]])
    """

    _backend_type = "zarr"

    def _is_value(self, place: str) -> bool:
        if Path(place, ".zarray").is_file():
            return True
        try:
            metadata = json.loads(Path(place, "zarr.json").read_bytes())
        except (OSError, ValueError):
            return False  # a question never fails: what cannot be looked at is not there
        # A group has a zarr.json too.
        return isinstance(metadata, dict) and metadata.get("node_type") == "array"

    def _describe(self, place: str, path: P) -> dict[str, Any]:
        array = self._open(place, path)
        return {
            "size": sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file()),
            "shape": array.shape,
            "dtype": str(array.dtype),
        }

    def _open(self, place: str, path: P, mode: Any = "r") -> zarr.Array[Any]:
        try:
            return zarr.open_array(store=place, mode=mode)
        except Exception as error:
            raise self._error(
                CorruptDataError, f"the zarr array cannot be opened ({error})", path
            ) from error

    def load(self, path: P, *, region: Region | None = None) -> Any:
        """Return the array at `path`, or the part that `region` selects and no more is read.

        Parameters
        ----------
        path : str or os.PathLike
            An array.
        region : int, slice, ... or tuple of them, optional
            The part to return, as in basic indexing.

        Returns
        -------
        numpy.ndarray
            An array of the caller's own.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        CorruptDataError
            If the array's metadata or a chunk is damaged.
        """
        index = (...,) if region is None else as_index(region)
        while True:
            generation = self._generation(path)
            try:
                part = self._load(path, index)
            except StorageError:
                if self._generation(path) == generation:
                    raise
                continue
            # Replaced while it was read, its missing chunks would have come as fill values.
            if self._generation(path) == generation:
                return part

    def _load(self, path: P, index: tuple[Any, ...]) -> Any:
        with self._existing_value(path) as place:
            array = self._open(place, path)
            check_region(array.shape, index)
            try:
                return np.asarray(array[index])
            except Exception as error:
                raise CorruptDataError(f"a chunk cannot be decoded ({error})") from error

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
    ) -> None:
        """Store an array of numbers at `path`.

        Parameters
        ----------
        data : numpy.ndarray
            Booleans, integers, floats or complex numbers, of any shape.
        path : str or os.PathLike
            Where.
        overwrite : bool, default False
            Whether an existing array may be replaced.
        parents : bool, default False
            Whether to make missing directories.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array, in place: readers may see a part of it.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite` or `region` is given.
        PathNotFoundError
            If the parent is missing, unless `parents` is given.
        UnsupportedFormatError
            If the value is not an array of numbers.
        """
        if region is not None:
            with self._existing_value(path) as place:
                stored = self._open(place, path, "r+")
                check_region(stored.shape, region)
                try:
                    stored[as_index(region)] = data
                except (IndexError, ValueError) as error:
                    raise UnsupportedFormatError(
                        f"the value does not fit the region of an array of shape {stored.shape} "
                        f"({error})"
                    ) from error
            return
        array = np.asarray(data) if isinstance(data, np.ndarray | np.generic) else None
        if array is None or array.dtype.kind not in _KINDS:
            held = type(data).__name__ if array is None else f"array of {array.dtype}"
            raise self._error(
                UnsupportedFormatError, f"zarr holds arrays of numbers, not a {held}", path
            )
        with self._replacing(
            path, overwrite=overwrite, parents=parents, durable=False
        ) as temporary:
            created = zarr.create_array(
                store=temporary,
                shape=array.shape,
                dtype=array.dtype,
                chunks=_chunks(array.shape, array.dtype.itemsize),
            )
            if array.size:
                created[...] = array

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        if overwrite and os.path.lexists(target):
            if not exchange(temporary, target):
                # Where paths cannot be exchanged, a reader may for a moment find nothing.
                aside = temporary_name(target)
                os.rename(target, aside)
                os.rename(temporary, target)
                os.rename(aside, temporary)
            remove(temporary)
        else:
            rename_new(temporary, target)

    def _generation(self, path: P) -> tuple[int, int] | None:
        """Return what tells one array at a path from the next."""
        with suppress(OSError), self._places.existing(path) as place:
            status = os.stat(place)
            return status.st_ino, status.st_ctime_ns
        return None


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB: the whole array, its longest sides halved until it fits."""
    chunks = [max(1, side) for side in shape]
    while math.prod(chunks) * itemsize > _CHUNK and max(chunks) > 1:
        longest = chunks.index(max(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    return tuple(chunks)
