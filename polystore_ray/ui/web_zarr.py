"""Arrays and groups as zarr over HTTP, for viewers on the web such as vizarr and neuroglancer.

What is stored as files of zarr is passed on as it is. Any other array, in whatever backend, appears
as an array of zarr format 3 whose chunks are its regions; a directory appears as a group.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
import zarr

from polystore import FileManager
from polystore.exceptions import PathNotFoundError, UnsupportedFormatError
from polystore.region import chunk_shape
from polystore_ray.interop.stored_files import is_raw
from polystore_ray.ui.reading import Place

__all__ = ["Content", "WebZarr"]

_METADATA = "zarr.json"
_CHUNK = re.compile(r"(.*)/c((?:/[0-9]+)*)")
_LARGEST = 2**28  # bytes of a chunk


class Content(NamedTuple):
    """The bytes of a key: their number, and a function that reads those from one to another."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, data: bytes) -> Content:
        return cls(len(data), lambda start, stop: data[start:stop])


class WebZarr:
    """The keys below a place as a store of zarr would have them."""

    def __init__(self, fm: FileManager) -> None:
        self._fm = fm

    def content(self, top: Place, key: str) -> Content:
        """Return the content of a key below a place.

        Raises `PathNotFoundError` if there is no such key.
        """
        place = top.below(key)
        if not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise _no_key(place)
        stored = self._stored(place)
        if stored is not None:
            return stored
        directory, _, name = place.path.rpartition("/")
        if name == _METADATA:
            return Content.of(self._metadata(place._replace(path=directory or "/")))
        match = _CHUNK.fullmatch(place.path)
        if match is not None:
            at = tuple(int(number) for number in match[2].split("/")[1:])
            return Content.of(self._chunk(place._replace(path=match[1]), at))
        raise _no_key(place)

    def _stored(self, place: Place) -> Content | None:
        """Return a file, or an array of bytes, as which `ClusterStore` keeps files of zarr."""
        facts = self._fm.stat(place.path, place.backend)
        options: dict[str, Any] = {}
        if is_raw(self._fm.registry[place.backend]):
            options["suffix"] = ".bin"
            if "chunks" in facts or not self._fm.is_file(place.path, place.backend):
                return None
        elif facts.get("dtype") != "uint8" or len(facts["shape"]) != 1:
            return None

        def read(start: int, stop: int) -> bytes:
            region = (slice(start, stop),)
            return bytes(self._fm.load(place.path, place.backend, region=region, **options))

        return Content(facts["size"], read)

    def _metadata(self, place: Place) -> bytes:
        facts: dict[str, Any] = {**self._fm.stat(place.path, place.backend)}
        attributes = facts.get("attributes")
        store: dict[str, Any] = {}
        if self._fm.is_dir(place.path, place.backend):
            zarr.create_group(store, attributes=attributes)
        else:
            zarr.create_array(
                store,
                shape=_shape(facts, place),
                chunks=_chunks(facts),
                dtype=_dtype(facts),
                compressors=None,
                filters=None,
                fill_value=0,
                attributes=attributes,
            )
        return bytes(store[_METADATA].to_bytes())

    def _chunk(self, place: Place, at: tuple[int, ...]) -> bytes:
        facts: dict[str, Any] = {**self._fm.stat(place.path, place.backend)}
        shape, chunks, dtype = _shape(facts, place), _chunks(facts), _dtype(facts)
        region = tuple(slice(i * side, (i + 1) * side) for i, side in zip(at, chunks, strict=False))
        if len(at) != len(shape) or any(
            part.start >= side for part, side in zip(region, shape, strict=True)
        ):
            raise _no_key(place)
        part = np.asarray(self._fm.load(place.path, place.backend, region=region), dtype)
        if part.shape != chunks:  # at the end of an axis
            whole = np.zeros(chunks, dtype)
            whole[tuple(map(slice, part.shape))] = part
            part = whole
        return part.tobytes()


def _shape(facts: dict[str, Any], place: Place) -> tuple[int, ...]:
    shape: tuple[int, ...] | None = facts.get("shape")
    if shape is None:
        raise _no_key(place)
    return shape


def _chunks(facts: dict[str, Any]) -> tuple[int, ...]:
    """Return the chunks of an array of zarr; those of any other are about 1 MiB."""
    dtype = _dtype(facts)
    chunks: tuple[int, ...] = facts.get("chunks") or chunk_shape(facts["shape"], dtype.itemsize)
    if prod(chunks) * dtype.itemsize > _LARGEST:
        return chunk_shape(facts["shape"], dtype.itemsize)
    return chunks


def _dtype(facts: dict[str, Any]) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(facts["dtype"])
    except TypeError:
        dtype = np.dtype(object)  # the name of a structured dtype
    if dtype.kind not in "biufc" or dtype.itemsize > 16:
        raise UnsupportedFormatError(f"viewers of zarr have no numbers of type {facts['dtype']}")
    little: np.dtype[Any] = dtype.newbyteorder("<")
    return little


def _no_key(place: Place) -> PathNotFoundError:
    return PathNotFoundError("no such key", path=place.path, backend=place.backend)
