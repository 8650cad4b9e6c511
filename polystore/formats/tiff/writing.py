"""Write TIFF files: whole files, and a part of the pixels of an existing file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO, Any

import tifffile

from polystore.exceptions import ImageSaveError
from polystore.formats.pixels import as_image
from polystore.formats.tiff.pages import open_tiff, tiff_image
from polystore.formats.tiff.segments import patched_rows, read_pixels, selected
from polystore.region import put_region

__all__ = ["beside_pixels", "rewrite_tiff", "write_tiff"]

# Tags that a rewritten array sets itself: sizes, types, and offsets of pixels.
_OF_PIXELS = {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 305}
_OF_PIXELS |= {306, 317, 322, 323, 324, 325, 338, 339, 347, 530, 531, 532}
_DESCRIPTION, _ORIENTATION = 270, 274
_NO_SCALE: dict[int, Any] = {282: (1, 1), 283: (1, 1), 296: 1}
_PLAIN_COLOURS = {1, 2, 6}  # MinIsBlack, RGB, and YCbCr, which is decoded to RGB


def write_tiff(file: IO[bytes], value: Any) -> None:
    """Write an array as a TIFF file with planes of its last two axes, or three for RGB."""
    image = as_image(value)
    if image.ndim < 2:
        raise ImageSaveError(f"TIFF holds images of two axes or more, not the shape {image.shape}")
    most = 16 if image.dtype.kind == "c" else 8
    if image.dtype.kind not in "biufc" or image.dtype.itemsize > most:
        raise ImageSaveError(f"TIFF holds numbers of up to {most} bytes, not {image.dtype}")
    if image.dtype.kind == "b":
        raise ImageSaveError("TIFF would not return booleans; save image.astype('uint8')")
    colour = image.ndim >= 3 and image.shape[-1] in (3, 4) and image.dtype.kind == "u"
    tifffile.imwrite(
        file,
        image,
        photometric="rgb" if colour else "minisblack",
        bigtiff=image.nbytes > 2**31,
    )


def rewrite_tiff(path: str, file: IO[bytes], index: tuple[Any, ...], data: Any) -> None:
    """Rewrite a TIFF file, with a part of its pixels replaced and everything else kept.

    Raises `ImageSaveError` if the pixels are compressed or tiled, and the file contains more than
    pixels.
    """
    with open_tiff(path) as opened:
        if len(opened.series) > 1 or len(opened.series[0].levels) > 1:
            _refuse(opened)
        image = tiff_image(opened, None)
        image.check_complete()
        if not image.keyframe.is_final and beside_pixels(opened):
            _refuse(opened)
        if not image.keyframe.is_final:
            pixels = read_pixels(image, [range(side) for side in image.shape])
            put_region(pixels, index, data)
            write_tiff(file, pixels)
            return
        ranges, taken = selected(image, index)
        part = read_pixels(image, ranges)
        put_region(part[taken], (...,), data)
        with Path(path).open("rb") as stored:
            shutil.copyfileobj(stored, file)
        if part.size:
            for at, rows in patched_rows(image, ranges, part):
                file.seek(at)
                file.write(rows)


def _refuse(file: tifffile.TiffFile) -> None:
    raise ImageSaveError(
        f"a save into a region would lose other content of the file: "
        f"{', '.join(beside_pixels(file))}. Load the array and save it in another file"
    )


def beside_pixels(file: tifffile.TiffFile) -> list[str]:
    """Return the names of a file's content that an array of one image cannot hold."""
    found: list[str] = []
    if len(file.series) > 1:
        found.append(f"{len(file.series)} images (series)")
    levels = max((len(series.levels) for series in file.series), default=1)
    if levels > 1:
        found.append(f"{levels} levels of resolution")
    page: Any = file.pages.first
    if file.is_ome:
        found.append("OME metadata")
    if file.is_imagej:
        found.append("ImageJ metadata")
    if page.photometric not in _PLAIN_COLOURS:
        found.append(f"colours as {getattr(page.photometric, 'name', page.photometric)}")
    elif page.photometric != 1 and page.planarconfig != 1:
        found.append("colours in separate planes")
    tags: Any = page.tags
    found += [tag.name for tag in tags if _is_more_than_pixels(tag, file)]
    return list(dict.fromkeys(found))


def _is_more_than_pixels(tag: tifffile.TiffTag, file: tifffile.TiffFile) -> bool:
    if tag.code in _NO_SCALE:
        return bool(tag.value != _NO_SCALE[tag.code])
    if tag.code == _ORIENTATION:
        return bool(tag.value != 1)
    if tag.code == _DESCRIPTION:
        is_named = file.is_ome or file.is_imagej
        return not is_named and bool(tag.value) and not _is_shape(tag.value)
    return tag.code not in _OF_PIXELS


def _is_shape(description: object) -> bool:
    """Return whether a description is the shape alone, as tifffile adds it to that of the user."""
    try:
        found = json.loads(str(description))
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() <= {"shape"}
