"""Images in a TIFF file: the series of planes, and checks of the sizes that the file declares."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from polystore.exceptions import ImageLoadError, VFSTypeError

__all__ = ["Plane", "TiffImage", "open_tiff", "tiff_image"]

_MOST_PLANES = 2**20  # planes that metadata may name in addition to those in the file
_MOST_SHARED = 64  # times the size of the file: the limit for the values of all tags
_VALUE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # by the type of a tag
_NAMED = 5  # missing planes that an error names


@dataclass(frozen=True, slots=True)
class Plane:
    """The offsets of the strips or tiles of one plane; an empty one has offset or count 0."""

    offsets: Sequence[int]
    counts: Sequence[int]
    jpegtables: bytes | None = None


@dataclass(frozen=True, slots=True)
class TiffImage:
    """One image of a TIFF file: an array whose last axes are stored plane by plane.

    - `series`: what tifffile knows of it
    - `planes`: in C order; None for one that the metadata names and the file lacks
    - `leading`: the number of axes that count planes; the axes after it are those of one plane
    """

    series: tifffile.TiffPageSeries
    planes: list[Plane | None]
    leading: int

    @property
    def keyframe(self) -> Any:
        return self.series.keyframe

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.series.shape)

    def check_complete(self) -> None:
        """Raise ImageLoadError if planes are missing, and name them."""
        lost = [number for number, plane in enumerate(self.planes) if plane is None]
        if not lost:
            return
        sides, axes = self.shape[: self.leading], self.series.axes
        names = [
            " ".join(
                f"{axis}={place}"
                for axis, place in zip(axes, np.unravel_index(number, sides), strict=False)
            )
            for number in lost[:_NAMED]
        ]
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        raise ImageLoadError(
            f"the file lacks {len(lost)} of the {len(self.planes)} planes in its metadata: "
            f"{', '.join(names)}{more}. missing='zeros' loads zeros instead"
        )


@contextmanager
def open_tiff(path: str) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file, after a check of the sizes in its tags, pages and metadata.

    Other files that it names are not opened: they could be anywhere.

    Raises `ImageLoadError` if it claims more than it can hold; before memory is taken.
    """
    # Given a name, tifffile would open it again and follow links.
    with Path(path).open("rb") as opened:
        _check_tags(opened.fileno())
        with tifffile.TiffFile(opened, _multifile=False, is_ndtiff=False) as file:
            if file.is_ome:
                _check_ome(file.ome_metadata or "", len(file.pages))
            yield file


def tiff_image(file: tifffile.TiffFile, number: int | None) -> TiffImage:
    """Return one image of a file; `number` is needed if there are several.

    Raises `ImageLoadError` if its shape does not fit its planes; `VFSTypeError` if there is no such
    image, or no number though there are several.
    """
    found = file.series
    if not found:
        raise ImageLoadError("the file holds no image")
    if number is None and len(found) > 1:
        shapes = ", ".join(str(tuple(series.shape)) for series in found[:_NAMED])
        more = ", ..." if len(found) > _NAMED else ""
        raise VFSTypeError(
            f"the file holds {len(found)} images (series) of the shapes {shapes}{more}; "
            f"choose one with series=0 to series={len(found) - 1}"
        )
    chosen = 0 if number is None else number
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(found):
        raise VFSTypeError(
            f"series={chosen!r} does not exist; the file holds {len(found)} images from series=0 on"
        )
    series = found[chosen]
    count, leading = _split(series)
    planes: list[Plane | None] = _planes(file, series, count)
    named = _named_planes(file, series) if len(found) == 1 else 0
    if named > count:
        raise ImageLoadError(f"the metadata names {named} planes; the file holds {count}")
    return TiffImage(series, planes, leading)


def _split(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    """Return the number of planes, and of the axes that count them."""
    shape, plane = tuple(series.shape), series.keyframe.shaped
    inner = [side for side in plane if side != 1]
    for leading in range(len(shape) + 1):
        if [side for side in shape[leading:] if side != 1] == inner:
            return math.prod(shape[:leading]), leading
    raise ImageLoadError(f"planes of shape {plane} cannot form an image of shape {shape}")


def _planes(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries, count: int
) -> list[Plane | None]:
    if count > max(_MOST_PLANES, 4 * len(file.pages)):
        raise ImageLoadError(f"the file declares {count} planes and holds {len(file.pages)} pages")
    first, keyframe = series.dataoffset, series.keyframe
    if first is not None:  # the planes are contiguous, whatever pages exist
        held = max(0, os.fstat(file.filehandle.fileno()).st_size - first) // max(1, keyframe.nbytes)
        return [
            Plane([first + number * keyframe.nbytes], [keyframe.nbytes]) if number < held else None
            for number in range(count)
        ]
    planes: list[Plane | None] = []
    for number in range(count):
        try:
            page = series[number]
        except IndexError:
            planes += [None] * (count - number)
            break
        tables = None if page is None else page.jpegtables
        planes.append(page and Plane(page.dataoffsets, page.databytecounts, tables))
    return planes


def _named_planes(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> int:
    """Return the number of planes in the metadata; tifffile drops it if some are missing."""
    if file.is_imagej and series.kind != "imagej":
        named: Any = (file.imagej_metadata or {}).get("images", 1)
        return named if isinstance(named, int) else 1
    description = series.keyframe.shaped_description
    if description and series.kind in ("generic", "shaped"):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            whole = math.prod(json.loads(description)["shape"])
            return int(whole // max(1, math.prod(series.keyframe.shape)))
    return 0


def _check_tags(descriptor: int) -> None:
    """Raise if the pages lead back to an earlier one, or the values of tags take too much.

    tifffile would follow the pages for ever, and read the same values again for each tag.
    """
    size = os.fstat(descriptor).st_size
    header = os.pread(descriptor, 16, 0)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 8:
        return  # tifffile reports the error
    big = header[2:4] in (b"+\0", b"\0+")
    number, offset, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    head, after = struct.calcsize(number), struct.calcsize(offset)
    (at,) = struct.unpack(order + offset, header[8:] if big else header[4:8])
    seen: set[int] = set()
    taken = 0
    while at:
        if at in seen:
            raise ImageLoadError(
                f"the list of pages has a loop: page {len(seen)} leads back to byte {at}"
            )
        seen.add(at)
        try:
            (tags,) = struct.unpack(order + number, os.pread(descriptor, head, at))
            if tags > 4096:
                return  # tifffile refuses it
            data = os.pread(descriptor, tags * entry + after, at + head)
            (at,) = struct.unpack_from(order + offset, data, tags * entry)
        except (struct.error, OSError, OverflowError):
            return  # truncated; tifffile reports it
        for _, kind, count in struct.iter_unpack(
            order + ("HHQ8x" if big else "HHI4x"), data[: tags * entry]
        ):
            value = count * (_VALUE_SIZES[kind] if kind < len(_VALUE_SIZES) else 0)
            taken += value if value <= size else 0  # tifffile ignores values beyond the file
        if taken > _MOST_SHARED * size:
            raise ImageLoadError(f"the tags declare {taken} bytes in a file of {size} bytes")


def _check_ome(xml: str, pages: int) -> None:
    """Raise if OME metadata names too many planes; tifffile would build a list of them."""
    try:
        root = ET.fromstring(xml)  # noqa: S314 - expat limits the expansion of entities
    except ET.ParseError:
        return  # tifffile ignores such metadata
    planes = 0
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name == "Pixels":
            sizes = [_whole(element, f"Size{axis}", 1) for axis in "ZCT"]
            planes += max(0, math.prod(sizes))
            planes += sum(
                max(0, _whole(data, "PlaneCount", 0), _whole(data, "NumPlanes", 0))
                for data in element
            )
        elif name.startswith("ModuloAlong"):
            # tifffile builds an array of the labels
            with np.errstate(all="ignore"):
                start, end, step = (float(element.get(key, 1)) for key in ("Start", "End", "Step"))
                labels = abs((end - start) / step) if step else math.inf
            planes += int(min(labels, 2.0**62)) if labels == labels else 2**62
    if planes > _MOST_PLANES + 4 * pages:
        raise ImageLoadError(f"the OME metadata names {planes} planes; the file holds {pages}")


def _whole(element: ET.Element, name: str, default: int) -> int:
    text = element.get(name, "")
    if len(text) > 20:
        raise ImageLoadError(f"the OME metadata has a {name} of {len(text)} digits")
    return int(text) if text.strip().lstrip("-").isdigit() else default
