"""The keys of a zarr hierarchy as files below a directory: read, written, removed and listed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer

from polystore.exceptions import CorruptDataError, UnsupportedFormatError
from polystore.filesystem.dir_fd import Place, check_no_device
from polystore.filesystem.path_resolver import Places
from polystore.filesystem.renames import publish_file
from polystore.filesystem.temporaries import remove, temporary_name
from polystore.zarr.array.groups import MOST_METADATA
from polystore.zarr.array.reading import METADATA, described

__all__ = ["KeyFiles"]

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_LARGE = 2**24  # bytes; nothing smaller is compared with what metadata allow
_PER_ITEM = 128  # bytes that codecs and the index of a shard may add to the smallest chunk


class KeyFiles:
    """Keys of zarr as files.

    Of a file no more is read than the metadata of its array allow.

    Parameters
    ----------
    places : Places
        Where paths lead.
    prefix : str
        The path below which the keys lie.
    """

    def __init__(self, places: Places, prefix: str) -> None:
        self._places = places
        self._prefix = prefix.rstrip("/")

    def read(self, key: str, wanted: ByteRequest | None = None) -> bytes | None:
        """Return what is at a key, or a part of it; None where no file is.

        Raises
        ------
        CorruptDataError
            If it is a pipe, a socket or a device, or more than the metadata allow.
        InvalidPathError
            If a link leads out of a root.
        """
        try:
            with self._places.open(self._path(key)) as file:
                start, end = _range(wanted, os.fstat(file.fileno()).st_size)
                if end - start > _LARGE:
                    self._check_size(key, end - start)
                if start:
                    file.seek(start)
                return file.read(max(0, end - start))
        except UnsupportedFormatError as error:
            raise CorruptDataError(f"there is no file at the key {key!r}: {error}") from error
        except _ABSENT:
            return None

    def exists(self, key: str) -> bool:
        return self.read(key, RangeByteRequest(0, 0)) is not None

    def write(self, key: str, value: Buffer) -> None:
        """Put a file in the place of a key, in one step."""
        with self._places.slot(self._path(key), make=Place.make_directory) as place:
            with suppress(FileNotFoundError):
                check_no_device(place.status())
            temporary = place.beside(temporary_name())
            try:
                with temporary.create() as file:
                    file.write(value.as_buffer_like())
                publish_file(temporary, place, overwrite=True)
            except BaseException:
                remove(temporary)
                raise

    def remove(self, key: str) -> None:
        """Remove what is at a key, if anything is."""
        with suppress(*_ABSENT), self._places.itself(self._path(key)) as place:
            remove(place)

    def entries(self, key: str) -> Sequence[tuple[str, bool]]:
        """Return the names in a directory, and whether each is a directory."""
        with (
            suppress(*_ABSENT),
            self._places.existing(self._path(key)) as held,
            held.entries() as entries,
        ):
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        return []

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _check_size(self, key: str, size: int) -> None:
        name = key.rpartition("/")[2]
        most = MOST_METADATA if name in METADATA else self._most_in_chunk(key)
        if size > most:
            raise CorruptDataError(
                f"the file at the key {key!r} has {size} bytes, where at most {most:g} can be"
            )

    def _most_in_chunk(self, key: str) -> float:
        """Return how many bytes a chunk, or shard, can have by the metadata of its array."""
        names = key.split("/")
        for depth in range(len(names) - 1, -1, -1):
            for name in ("zarr.json", ".zarray"):
                metadata = self.read("/".join((*names[:depth], name)))
                if metadata is not None:
                    return _most(described(metadata))
        return math.inf


def _range(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return where in a file a part begins and ends."""
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, min(wanted.end, max(size, wanted.start))
    if isinstance(wanted, OffsetByteRequest):
        return min(wanted.offset, size), size
    if isinstance(wanted, SuffixByteRequest):
        return max(0, size - wanted.suffix), size
    return 0, size


def _most(array: dict[str, object]) -> float:
    try:
        if "chunks" in array:  # of format 2
            shape, name = array["chunks"], array["dtype"]
        else:
            grid: dict[str, dict[str, object]] = array["chunk_grid"]  # type: ignore[assignment]
            shape, name = grid["configuration"]["chunk_shape"], array["data_type"]
        dtype = np.dtype(name)  # type: ignore[call-overload]
        items = math.prod(map(int, shape))  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError):
        return math.inf  # of items that may have any length
    return (
        math.inf if dtype.hasobject else max(items, 1) * (2 * dtype.itemsize + _PER_ITEM) + _LARGE
    )
