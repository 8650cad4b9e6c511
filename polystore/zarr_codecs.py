"""Blosc, of whatever format of zarr, with the check that keeps a damaged chunk from a crash.

C-Blosc reads as many bytes as the header of a chunk says, and numcodecs does not compare that with
how many there are, so that a chunk which was cut off or damaged there ends the process. For a
chunk whose header is right C-Blosc itself keeps to its bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numcodecs
import numpy as np
import zarr
import zarr.codecs.numcodecs
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

__all__ = ["checked"]

_HEADER = 16  # bytes, of which the last four are how many the whole chunk has


def checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the same array, which raises ValueError where a damaged Blosc chunk might crash."""
    stored = array.metadata
    safe: ArrayV2Metadata | ArrayV3Metadata
    if isinstance(stored, ArrayV2Metadata):
        codecs = (stored.compressor, *(stored.filters or ()))
        compressor, *filters = map(_checked, codecs)
        if _same(codecs, (compressor, *filters)):
            return array
        safe = replace(stored, compressor=compressor, filters=tuple(filters) or None)
    else:
        found = tuple(map(_checked, stored.codecs))
        if _same(stored.codecs, found):
            return array
        safe = replace(stored, codecs=found)
    return zarr.Array(zarr.AsyncArray(safe, array.store_path, array.async_array.config))


def _check(chunk: Any) -> None:
    found = np.asarray(chunk).reshape(-1).view(np.uint8)
    if found.size < _HEADER:
        raise ValueError(f"a Blosc chunk of {found.size} bytes, fewer than its header")
    claimed = int.from_bytes(found[_HEADER - 4 : _HEADER].tobytes(), "little")
    if claimed != found.size:
        raise ValueError(f"a Blosc chunk of {found.size} bytes that claims {claimed}")


class _Format2(numcodecs.Blosc):  # type: ignore[misc]
    def decode(self, buf: Any, out: Any = None) -> Any:
        _check(buf)
        return super().decode(buf, out)


class _Checking(BytesBytesCodec):
    async def decode(
        self, chunks_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> Iterable[Buffer | None]:
        chunks = list(chunks_and_specs)
        for chunk, _ in chunks:
            if chunk is not None:
                _check(chunk.as_array_like())
        return await super().decode(chunks)


class _Format3(_Checking, BloscCodec):
    pass


class _Numcodecs(_Checking, zarr.codecs.numcodecs.Blosc):
    pass


def _checked(codec: Any) -> Any:
    kind = type(codec)
    if kind is numcodecs.Blosc:
        return _Format2.from_config({k: v for k, v in codec.get_config().items() if k != "id"})
    if kind is BloscCodec:
        return _Format3.from_dict(codec.to_dict())
    if kind is zarr.codecs.numcodecs.Blosc:
        return _Numcodecs.from_dict(codec.to_dict())
    if kind is ShardingCodec:
        inner = tuple(map(_checked, codec.codecs))
        return codec if _same(codec.codecs, inner) else replace(codec, codecs=inner)
    return codec


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))
