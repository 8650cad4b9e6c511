"""Codecs of zarr that do not believe what a chunk says of itself.

numcodecs does. C-Blosc reads as many bytes as a header claims, so that a chunk which was cut off
or damaged there ends the process; compressed chunks may hold any number of bytes more than there
are elements; and chunks of strings claim to hold any number of them. Here each codec that reads
such a claim is guarded: a chunk may decode to about what its array has room for.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numcodecs
import numpy as np
import zarr
from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy
from numpy.typing import NDArray
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from polystore.formats import MOST_DECODED

__all__ = ["guarded"]

_PIECE = 1024  # bytes of a stream that are decoded first
_LZMA = 2**28  # bytes that the decoder may take for itself; four times what level 9 does
_FILTERED = 16  # bytes that a filter makes of an element at most, unless the element has more
_SLACK = 2**16  # bytes that a chunk may hold besides its elements, of checksums and the like


def guarded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the same array, which raises ValueError for chunks that claim what they cannot hold.

    What is written through it is what would be written without, but that an array without a fill
    value gets all its chunks: of one that is missing zarr 2 reads any values.
    """
    config: Any = None
    stored = array.metadata
    safe: ArrayV2Metadata | ArrayV3Metadata
    if isinstance(stored, ArrayV2Metadata):
        room = _room(stored.chunks, stored.dtype, least=_FILTERED if stored.filters else 0)
        codecs = (stored.compressor, *(stored.filters or ()))
        compressor, *filters = (_guarded_numcodec(codec, room) for codec in codecs)
        if stored.fill_value is None:
            config = {"write_empty_chunks": True}
        elif _same(codecs, (compressor, *filters)):
            return array
        safe = replace(stored, compressor=compressor, filters=tuple(filters) or None)
    else:
        found = tuple(map(_guarded_codec, stored.codecs))
        if _same(stored.codecs, found):
            return array
        safe = replace(stored, codecs=found)
    return zarr.Array(zarr.AsyncArray(safe, array.store_path, config))


def _room(shape: Sequence[int], dtype: Any, least: int = 0) -> int | None:
    """Return the bytes of a chunk's elements, of so many at least; None for strings and objects."""
    itemsize = getattr(dtype, "item_size", None)
    return None if itemsize is None else math.prod(shape) * max(least, int(itemsize))


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


# What is believed of a chunk. Codecs have the names that numcodecs gives them.

Chunk = NDArray[np.uint8]
Config = Mapping[str, Any]


def _limits(data: Any, room: int | None) -> tuple[Chunk, int]:
    """Return a chunk as its bytes, and the most that it may hold."""
    chunk = ensure_contiguous_ndarray(data).view(np.uint8)
    most = max(MOST_DECODED, 100 * chunk.size)
    return chunk, most if room is None else min(most, 2 * room + _SLACK)


def _believe(declared: int, most: int) -> None:
    if declared > most:
        raise ValueError(
            f"a chunk claims to hold {declared} bytes, where there is room for {most}: damage, or "
            f"a decompression bomb"
        )


def _little(chunk: Chunk, start: int, end: int) -> int:
    if chunk.size < end:
        raise ValueError(f"a chunk of {chunk.size} bytes has no whole header")
    return int.from_bytes(chunk[start:end].tobytes(), "little")


def _check_blosc(chunk: Chunk, most: int) -> None:
    # The header of C-Blosc: four bytes, then the sizes decoded, of a block, and as it is. Where
    # the last one is right, C-Blosc keeps to its bounds.
    declared = _little(chunk, 12, 16)
    if declared != chunk.size:
        raise ValueError(f"a Blosc chunk of {chunk.size} bytes claims to have {declared}")
    _believe(_little(chunk, 4, 8), most)


def _check_lz4(chunk: Chunk, most: int) -> None:
    _believe(_little(chunk, 0, 4), most)  # of numcodecs' own: LZ4 itself has no header


def _check_zstd(chunk: Chunk, most: int) -> None:
    # RFC 8878, section 3.1.1.1: after four magic bytes a descriptor, and the size if there is one.
    descriptor = _little(chunk, 4, 5)
    single = descriptor >> 5 & 1
    length = (single, 2, 4, 8)[descriptor >> 6]
    if length == 0:
        numcodecs.Zstd().decode(chunk, np.empty(most, np.uint8))  # fails if it holds more
        return
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    _believe(_little(chunk, start, start + length) + (256 if length == 2 else 0), most)


def _check_widened(config: Config, chunk: Chunk, most: int) -> None:
    old = config.get("encode_dtype") or config.get("astype") or "u1"
    new = config.get("decode_dtype") or config.get("dtype") or "u1"
    widened = 8 if config["id"] == "packbits" else np.dtype(new).itemsize
    _believe(chunk.size // max(1, np.dtype(old).itemsize) * widened, most)


def _check_objects(chunk: Chunk, _: int) -> None:
    number = _little(chunk, 0, 4)
    if 4 + 4 * number > chunk.size:  # each has its length before it
        raise ValueError(f"a chunk of {chunk.size} bytes claims to hold {number} objects")


def _lzma(config: Config) -> lzma.LZMADecompressor:
    form = config.get("format", lzma.FORMAT_XZ)
    limit = None if form == lzma.FORMAT_RAW else _LZMA
    return lzma.LZMADecompressor(form, limit, config.get("filters"))


_CHECKS: dict[str, Callable[[Chunk, int], None]] = {
    "blosc": _check_blosc,
    "lz4": _check_lz4,
    "vlen-array": _check_objects,
    "vlen-bytes": _check_objects,
    "vlen-utf8": _check_objects,
    "zstd": _check_zstd,
}
_STREAMS: dict[str, Callable[[Config], Any]] = {  # which do not say how much they hold
    "bz2": lambda _: bz2.BZ2Decompressor(),
    "gzip": lambda _: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "lzma": _lzma,
    "zlib": lambda _: zlib.decompressobj(),
}
# Filters of format 2. In format 3 they know what they make.
_WIDENING = frozenset({"astype", "categorize", "delta", "fixedscaleoffset", "packbits", "quantize"})
_REFUSED = frozenset({"json2", "msgpack2", "pickle"})  # which make any object of a few bytes


def _decoded(name: str, config: Config, chunk: Chunk, most: int) -> bytes:
    """Return what streams, one after another, hold."""
    data, parts, size, at = chunk.tobytes(), [b""], 0, 0
    while at < len(data) or at == 0:
        stream, taken = _STREAMS[name](config), _PIECE
        while not stream.eof:
            if at >= len(data):
                raise ValueError("a chunk ends before what is compressed in it")
            piece = data[at : at + taken]  # small at first: what is left of it is copied
            parts.append(stream.decompress(piece, most + 1 - size))
            size += len(parts[-1])
            _believe(size, most)
            at += len(piece) - len(stream.unused_data)
            taken *= 2
        if name == "gzip" and not data[at:].strip(b"\0"):
            break  # it may be padded
    return b"".join(parts)


def _is_guarded(name: str) -> bool:
    return name in _CHECKS or name in _STREAMS


# Codecs of format 2, which are those of numcodecs


def _guarded_numcodec(codec: Any, room: int | None) -> Any:
    if codec is None:
        return None
    if codec.codec_id in _REFUSED:
        raise ValueError(f"the codec {codec.codec_id} is not read: it makes objects of any kind")
    if not _is_guarded(codec.codec_id) and codec.codec_id not in _WIDENING:
        return codec
    config = {name: value for name, value in codec.get_config().items() if name != "id"}
    plain: Any = type(codec)
    safe = _numcodec_class(plain).from_config(config)
    safe._room = room  # noqa: SLF001 - of the class below; under a name that is no configuration
    return safe


class _GuardedNumcodec:
    """What is mixed into the class of a codec, which `super` is."""

    def decode(self: Any, buf: Any, out: Any = None) -> Any:
        chunk, most = _limits(buf, self._room)
        if self.codec_id in _STREAMS:
            decoded = _decoded(self.codec_id, self.get_config(), chunk, most)
            return ndarray_copy(decoded, out)
        if self.codec_id in _WIDENING:
            _check_widened(self.get_config(), chunk, most)
        else:
            _CHECKS[self.codec_id](chunk, most)
        return super().decode(buf, out)  # type: ignore[misc]

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return _guarded_numcodec, (numcodecs.get_codec(self.get_config()), self._room)


@cache
def _numcodec_class(plain: Any) -> Any:
    return type(plain.__name__, (_GuardedNumcodec, plain), {})


# Codecs of format 3


def _guarded_codec(codec: Any) -> Any:
    if isinstance(codec, ShardingCodec):
        inner, index = (tuple(map(_guarded_codec, of)) for of in (codec.codecs, codec.index_codecs))
        if _same((*codec.codecs, *codec.index_codecs), (*inner, *index)):
            return codec
        return replace(codec, codecs=inner, index_codecs=index)
    described = codec.to_dict()
    if not _is_guarded(_name(described)):
        return codec
    plain: Any = type(codec)
    return _codec_class(plain).from_dict(described)


def _name(described: Mapping[str, Any]) -> str:
    return str(described["name"]).removeprefix("numcodecs.")


class _GuardedCodec:
    """What is mixed into the class of a codec, which `super` is."""

    async def _decode_single(self: Any, chunk: Any, spec: ArraySpec) -> Any:
        if hasattr(self._plain, "_decode_sync"):
            return await asyncio.to_thread(self._decode_sync, chunk, spec)
        decoded = await asyncio.to_thread(self._checked, chunk, spec)
        return await super()._decode_single(chunk, spec) if decoded is None else decoded  # type: ignore[misc]

    def _decode_sync(self: Any, chunk: Any, spec: ArraySpec) -> Any:
        decoded = self._checked(chunk, spec)
        return super()._decode_sync(chunk, spec) if decoded is None else decoded  # type: ignore[misc]

    def _checked(self: Any, chunk: Any, spec: ArraySpec) -> Any:
        """Return a chunk decoded in bounds; None where its own codec may decode it now."""
        described = self.to_dict()
        name = _name(described)
        data, most = _limits(chunk.as_array_like(), _room(spec.shape, spec.dtype))
        if name in _STREAMS:
            config = described.get("configuration", {})
            return spec.prototype.buffer.from_bytes(_decoded(name, config, data, most))
        _CHECKS[name](data, most)
        return None

    # For those who compare it, keep it or send it, it is the codec that it guards.

    def _unguarded(self: Any) -> Any:
        return self._plain.from_dict(self.to_dict())

    def __eq__(self, other: object) -> bool:
        found = other._unguarded() if isinstance(other, _GuardedCodec) else other
        return bool(self._unguarded() == found)

    def __hash__(self) -> int:
        return hash(self._unguarded())

    def __reduce__(self) -> tuple[Any, ...]:
        return _guarded_codec, (self._unguarded(),)


@cache
def _codec_class(plain: Any) -> Any:
    return type(plain.__name__, (_GuardedCodec, plain), {"_plain": plain})
