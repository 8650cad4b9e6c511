"""Pixels of a TIFF file: decode the strips and tiles of a region within limits."""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

import numpy as np
import tifffile

from polystore.exceptions import ImageLoadError
from polystore.formats.limits import DEFLATE, MOST_DECODED
from polystore.formats.tiff.pages import Plane, TiffImage
from polystore.region import check_region, forward

__all__ = ["patched_rows", "read_pixels", "selected"]

_PIECE = 2**22  # bytes of contiguous rows per read
_BELIEVED = 2**29  # bytes that every file may decode to
_BELIEVED_OF_SEGMENT = 2**26
_THREADS = 8
_JPEG = {6, 7, 33007, 34892}
_OF_FLOATS = 3  # of predictors
_JPEG2000 = {33003, 33004, 33005, 34712}
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_BY_TIFFFILE = {65000, 65001, 65002}  # electron events, decoded into arrays of a given shape


@dataclass(frozen=True, slots=True)
class _Segments:
    """The strips or tiles of a plane, with five axes in the order of tifffile.

    These are separate samples, depth, length, width, and samples of a pixel. Contiguous pixels
    are cut into pieces of rows, whatever the strips are.
    """

    shape: tuple[int, ...]
    sides: tuple[int, ...]
    is_contiguous: bool

    @classmethod
    def of(cls, keyframe: Any) -> _Segments:
        shape = tuple(keyframe.shaped)
        _, _, length, width, samples = shape
        if keyframe.is_final:
            row = width * samples * keyframe.dtype.itemsize
            rows = min(length, max(1, _PIECE // max(1, row)))
            return cls(shape, (1, 1, rows, width, samples), True)
        if keyframe.is_tiled:
            sides = (1, keyframe.tiledepth, keyframe.tilelength, keyframe.tilewidth, samples)
        else:
            sides = (1, 1, keyframe.rowsperstrip, width, samples)
        if min(shape) < 1 or min(sides) < 1:
            raise ImageLoadError(
                f"strips or tiles of shape {sides} cannot form a plane of shape {shape}"
            )
        return cls(shape, sides, False)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(-(-whole // side) for whole, side in zip(self.shape, self.sides, strict=True))

    def touched(self, ranges: Sequence[range]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the segments that overlap ranges: the number, and the position along each axis."""
        counts = self.counts
        along = [
            [k for k in range(taken[0] // side, taken[-1] // side + 1) if _part(taken, k, side)]
            for taken, side in zip(ranges, self.sides, strict=True)
        ]
        for places in itertools.product(*along):
            yield int(np.ravel_multi_index(places, counts)), places

    def parts(
        self, ranges: Sequence[range], places: tuple[int, ...]
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return the place of a segment in the selected part, and its selected values.

        A segment has no axis of separate samples.
        """
        found = [
            _part(taken, place, side)
            for taken, place, side in zip(ranges, places, self.sides, strict=True)
        ]
        whole, own = zip(*[part for part in found if part], strict=True)
        return whole, own[1:]


def _part(taken: range, number: int, side: int) -> tuple[slice, slice] | None:
    """Return the target and the source of a segment's values along one axis."""
    start = number * side
    first = max(0, -((taken.start - start) // taken.step) if start > taken.start else 0)
    last = min(len(taken), -((taken.start - start - side) // taken.step))
    if first >= last:
        return None
    begin = taken.start + first * taken.step - start
    end = taken.start + (last - 1) * taken.step - start + 1
    return slice(first, last), slice(begin, end, taken.step)


def selected(
    image: TiffImage, index: tuple[Any, ...]
) -> tuple[list[range], tuple[int | slice | EllipsisType, ...]]:
    """Return ranges that contain a region, and the index of the region in their array.

    Raises `VFSTypeError` if the image has no such region.
    """
    check_region(image.shape, index)
    ahead, turn = forward(image.shape, index)
    turned = iter(turn)
    ranges = [
        range(*part.indices(side)) if isinstance(part, slice) else range(side)[part:][:1]
        for part, side in zip(ahead, image.shape, strict=True)
    ]
    taken = [next(turned) if isinstance(part, slice) else 0 for part in ahead]
    return ranges, (*taken, ...)


def read_pixels(
    image: TiffImage, ranges: Sequence[range], *, most: int | None = None
) -> np.ndarray[Any, Any]:
    """Return the part of an image that ranges with positive steps select along its axes.

    Decodes no strip or tile that the part does not touch. Missing planes come as zeros.

    - `ranges`: one for each axis
    - `most`: bytes that the part may take, instead of what is believed of a file of its size

    Raises `ImageLoadError` if strips or tiles are missing, damaged, or hold more than they can or
    may.
    """
    keyframe = image.keyframe
    dtype = keyframe.dtype
    if dtype is None:
        raise ImageLoadError(
            f"NumPy has no numbers with {keyframe.bitspersample} bits of sample format "
            f"{keyframe.sampleformat}"
        )
    if keyframe.predictor == _OF_FLOATS and dtype.kind != "f":
        raise ImageLoadError(f"the pixels are {dtype}, and predicted as only floats can be")
    shape = tuple(map(len, ranges))
    size = os.fstat(keyframe.parent.filehandle.fileno()).st_size
    _check_whole(math.prod(shape) * dtype.itemsize, size, most)
    fill = getattr(keyframe, "nodata", 0)
    # np.zeros uses memory only where it is written, which matters for sparse images.
    out = np.full(shape, fill, dtype) if fill else np.zeros(shape, dtype)
    if not out.size:
        return out
    decoder = _Decoder(keyframe, most)
    inner = _plane_ranges(image, ranges)
    targets = out.reshape(-1, *map(len, inner))
    jobs: list[Callable[[], None]] = []
    for target, plane in zip(targets, _chosen(image, ranges), strict=True):
        if plane is None:
            target[...] = 0
        else:
            jobs += decoder.jobs(plane, target, inner)
    _run(jobs, parallel=keyframe.compression != 1)
    return out if image.series.transform is None else image.series.transform(out)


def patched_rows(
    image: TiffImage, ranges: Sequence[range], part: np.ndarray[Any, Any]
) -> Iterator[tuple[int, bytes]]:
    """Yield offsets and bytes that write a part into an image of contiguous planes."""
    decoder = _Decoder(image.keyframe, None)
    inner = _plane_ranges(image, ranges)
    sources = part.reshape(-1, *map(len, inner))
    for source, plane in zip(sources, _chosen(image, ranges), strict=True):
        if plane is not None:
            yield from decoder.patched(plane, source, inner)


def _chosen(image: TiffImage, ranges: Sequence[range]) -> Iterator[Plane | None]:
    """Yield the planes that ranges along the leading axes select."""
    sides = image.shape[: image.leading]
    for place in itertools.product(*ranges[: image.leading]):
        yield image.planes[int(np.ravel_multi_index(place, sides)) if place else 0]


def _plane_ranges(image: TiffImage, ranges: Sequence[range]) -> list[range]:
    """Return ranges for the five axes of a plane; axes of length 1 may be missing in the image."""
    sides = image.shape[image.leading :]
    long = iter([r for r, side in zip(ranges[image.leading :], sides, strict=True) if side != 1])
    return [range(1) if side == 1 else next(long) for side in image.keyframe.shaped]


def _run(jobs: list[Callable[[], None]], *, parallel: bool) -> None:
    threads = min(len(jobs), _THREADS, os.cpu_count() or 1)
    if not parallel or threads < 2:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(threads) as executor:
        for _ in executor.map(lambda job: job(), jobs):
            pass


def _check_whole(declared: int, stored: int, most: int | None) -> None:
    believed = min(DEFLATE * stored, max(MOST_DECODED, 100 * stored))
    if declared > (max(_BELIEVED, believed) if most is None else most):
        raise ImageLoadError(
            f"a file of {stored} bytes declares {declared} bytes of pixels: damage, or a "
            f"decompression bomb. If it is neither, load a region=, or use max_decoded={declared}"
        )


class _Decoder:
    """Decode strips and tiles of one image, each no larger than its plane."""

    def __init__(self, keyframe: Any, most: int | None) -> None:
        self._keyframe = keyframe
        self._segments = _Segments.of(keyframe)
        self._descriptor = keyframe.parent.filehandle.fileno()
        self._stored_dtype = np.dtype(keyframe.parent.byteorder + keyframe.dtype.char)
        self._bytes = math.prod(self._segments.sides) * keyframe.dtype.itemsize
        whole = math.prod(self._segments.shape) * keyframe.dtype.itemsize
        if self._bytes > max(_BELIEVED_OF_SEGMENT, 4 * whole):
            raise ImageLoadError(
                f"a strip or tile declares {self._bytes} bytes in a plane of {whole} bytes"
            )
        self._most = max(_BELIEVED_OF_SEGMENT, most or 0)
        self._decode: Callable[..., Any] = (
            keyframe.decode
        )  # created here, since threads would race for it
        self._codec = (
            tifffile.TIFF.DECOMPRESSORS[keyframe.compression]
            if keyframe.compression in tifffile.TIFF.IMAGE_COMPRESSIONS - _JPEG
            and keyframe.compression not in _BY_TIFFFILE
            else None
        )

    def jobs(
        self, plane: Plane, target: np.ndarray[Any, Any], ranges: Sequence[range]
    ) -> Iterator[Callable[[], None]]:
        """Yield a function for each overlapping segment that decodes it into the part."""
        segments = self._segments
        wanted = math.prod(segments.counts)
        if not segments.is_contiguous and min(len(plane.offsets), len(plane.counts)) < wanted:
            raise ImageLoadError(
                f"a plane needs {wanted} strips or tiles; {len(plane.offsets)} are listed"
            )
        for number, places in segments.touched(ranges):
            to, of = segments.parts(ranges, places)
            yield partial(self._put, plane, number, places, target[to], of)

    def patched(
        self, plane: Plane, source: np.ndarray[Any, Any], ranges: Sequence[range]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield offsets and bytes that replace the selected part by `source`."""
        for _, places in self._segments.touched(ranges):
            of, to = self._segments.parts(ranges, places)
            at, stored = self._rows(plane, places)
            rows = stored.copy()
            rows[to] = source[of]
            yield at, rows.tobytes()

    def _put(
        self,
        plane: Plane,
        number: int,
        places: tuple[int, ...],
        to: np.ndarray[Any, Any],
        of: tuple[slice, ...],
    ) -> None:
        if self._segments.is_contiguous:
            values = self._rows(plane, places)[1]
        elif plane.offsets[number] and plane.counts[number]:
            values = self._segment(plane, number)
        else:
            return  # an empty segment is not stored
        to[...] = values[of]

    def _rows(self, plane: Plane, places: tuple[int, ...]) -> tuple[int, np.ndarray[Any, Any]]:
        _, depth, length, width, of_pixel = self._segments.shape
        row = width * of_pixel * self._stored_dtype.itemsize
        first = places[2] * self._segments.sides[2]
        rows = min(self._segments.sides[2], length - first)
        at = plane.offsets[0] + ((places[0] * depth + places[1]) * length + first) * row
        data = self._read(at, rows * row)
        return at, np.frombuffer(data, self._stored_dtype).reshape(1, rows, width, of_pixel)

    def _segment(self, plane: Plane, number: int) -> np.ndarray[Any, Any]:
        stored, keyframe = plane.counts[number], self._keyframe
        ratio = 8 if keyframe.compression == 1 else DEFLATE  # 8: a bit becomes a byte
        if self._bytes > max(self._most, ratio * stored):
            raise ImageLoadError(
                f"a strip or tile of {stored} bytes declares {self._bytes} decoded bytes: damage, "
                f"or a decompression bomb"
            )
        data = self._read(plane.offsets[number], stored)
        if self._codec is not None:
            return self._image(self._codec, data, number)
        options: dict[str, Any] = {}
        if keyframe.compression in _JPEG:
            _check_jpeg(data, self._segments.sides, keyframe.jpegheader)
            options = {"jpegtables": plane.jpegtables, "jpegheader": keyframe.jpegheader}
        values: np.ndarray[Any, Any] = self._decode(data, number, **options)[0]
        return values

    def _image(self, codec: Callable[..., Any], data: bytes, number: int) -> np.ndarray[Any, Any]:
        """Decode a nested image file, if its size is that of the strip or tile.

        The codecs look at the size in the file before they decode it into an array.
        """
        keyframe = self._keyframe
        _, at, sides = self._decode(None, number)
        if keyframe.compression in _JPEG2000:
            _check_jpeg2000(data, sides)
        cut = [
            min(side, whole - start)
            for side, whole, start in zip(sides, keyframe.shaped[1:], at[1:], strict=True)
        ]
        dtype = keyframe.dtype
        for shape in dict.fromkeys((tuple(sides), tuple(cut))):
            out = np.empty(shape, dtype)
            flat = out.reshape(shape[1:3] if shape[0] == shape[3] == 1 else shape[1:])
            with suppress(ValueError):  # of another shape
                codec(data, out=flat)
                return out
        raise ImageLoadError(
            f"a nested image is not of shape {tuple(sides)} and dtype {dtype}, unlike its strip or "
            f"tile"
        )

    def _read(self, at: int, count: int) -> bytes:
        held = os.fstat(self._descriptor).st_size
        if at + count > held:
            raise ImageLoadError(
                f"pixels are at bytes {at} to {at + count}; the file has {held} bytes"
            )
        data = os.pread(self._descriptor, count, at)
        while len(data) < count:
            more = os.pread(self._descriptor, count - len(data), at + len(data))
            if not more:
                raise ImageLoadError(
                    f"the file was truncated at byte {at + len(data)} during the read"
                )
            data += more
        return data


def _check_jpeg2000(data: bytes, sides: Sequence[int]) -> None:
    """Raise if a codestream is larger than its strip or tile."""
    at = data.find(_START_OF_CODESTREAM)
    while at >= 0:
        header = data[at + 8 : at + 42]
        if len(header) == 34:
            right, low, left, top, *_ = struct.unpack(">8I", header[:32])
            (samples,) = struct.unpack(">H", header[32:])
            if (right - left) * (low - top) * samples > math.prod(sides):
                raise ImageLoadError(
                    f"a JPEG 2000 image of {right - left} x {low - top} is in a strip or tile of "
                    f"shape {tuple(sides)}"
                )
        at = data.find(_START_OF_CODESTREAM, at + 1)


def _check_jpeg(data: bytes, sides: Sequence[int], header: bytes | None) -> None:
    """Raise if a JPEG is larger than its strip or tile."""
    at = 2
    while header is None and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns = struct.unpack(">HH", data[at + 5 : at + 9])
            if rows * columns > 2 * max(2**16, math.prod(sides[1:4])):
                raise ImageLoadError(
                    f"a JPEG of {rows} x {columns} is in a strip or tile of shape {tuple(sides)}"
                )
            return
        at += 1 if marker == 0xFF else 2 + length
