"""Images: TIFF through tifffile, PNG and JPEG through Pillow (the extra ``images``)."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from polystore.exceptions import ImageLoadError, ImageSaveError
from polystore.formats import DEFLATE, Format, check_claim
from polystore.region import check_region, forward

__all__ = ["JPEG", "PNG", "TIFF"]

# What PNG holds exactly: the dtypes and numbers of channels of Pillow's modes.
_MODES = {
    ("uint8", None): "L",
    ("uint8", 2): "LA",
    ("uint8", 3): "RGB",
    ("uint8", 4): "RGBA",
    ("uint16", None): "I;16",
    ("bool", None): "1",
}

_SIXTEEN_BITS = ("I;16", "I;16B", "I")
_CONVERTED = ("P", "PA", "CMYK", "YCbCr")  # to colours, as other readers of images do


def _as_image(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray):
        raise ImageSaveError(f"an image is an array with pixels, not a {type(value).__name__}")
    if value.size == 0 or value.ndim == 0:
        raise ImageSaveError(f"an array of shape {value.shape} has no pixels")
    return value


def _write_tiff(file: IO[bytes], value: Any) -> None:
    image = _as_image(value)
    if image.dtype.kind not in "biufc" or image.dtype.itemsize > 16:
        raise ImageSaveError(f"TIFF holds numbers, not {image.dtype}")
    if image.dtype.kind == "b":
        raise ImageSaveError("TIFF would not bring booleans back; save image.astype('uint8')")
    colour = image.ndim >= 3 and image.shape[-1] in (3, 4) and image.dtype.kind == "u"
    tifffile.imwrite(
        file,
        image,
        photometric="rgb" if colour else "minisblack",
        bigtiff=image.nbytes > 2**31,
    )


@contextmanager
def _first_series(path: str) -> Iterator[tifffile.TiffPageSeries]:
    """Give the first image of a file that may hold several, once its claims are checked.

    Files that others are named in are not followed: they could lie anywhere.
    """
    # By its path tifffile would open what has the name now, links and all.
    with (
        Path(path).open("rb") as opened,
        tifffile.TiffFile(opened, _multifile=False, is_ndtiff=False) as file,
    ):
        _check_chain(file)
        series, stored = file.series[0], os.fstat(opened.fileno()).st_size
        plain = all(page is not None and page.compression == 1 for page in series.pages)
        if plain and series.nbytes > stored:
            raise ImageLoadError(
                f"the file claims {series.nbytes} bytes of pixels, and has {stored} in all"
            )
        check_claim(series.nbytes, stored)
        claimed, listed = math.prod(series.keyframe.chunked), len(series.keyframe.dataoffsets)
        if not plain and listed < claimed:
            raise ImageLoadError(f"a page claims {claimed} strips or tiles, and lists {listed}")
        yield series


def _check_chain(file: tifffile.TiffFile) -> None:
    """Raise if the pages lead back to an earlier one: tifffile would follow them for ever."""
    form, opened = file.tiff, file.filehandle
    seen: set[int] = set()
    offset = file.pages.first.offset
    while offset not in seen:
        seen.add(offset)
        opened.seek(offset)
        try:
            (tags,) = struct.unpack(form.tagnoformat, opened.read(form.tagnosize))
            opened.seek(offset + form.tagnosize + tags * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, opened.read(form.offsetsize))
        except (struct.error, OSError):
            return  # cut off, which tifffile sees too
        if offset == 0:
            return
    raise ImageLoadError(f"its pages do not end: page {len(seen)} leads back to byte {offset}")


def _read_tiff(path: str) -> Any:
    with _first_series(path) as series:
        return series.asarray()


def _read_tiff_region(path: str, index: tuple[Any, ...]) -> Any:
    with _first_series(path) as series:
        check_region(series.shape, index)
        import zarr  # slow to load, and needed for regions alone

        store = series.aszarr(level=0)
        try:
            # Decodes no more than the tiles and strips that the region touches.
            ahead, turn = forward(series.shape, index)
            return np.asarray(zarr.open_array(store, mode="r")[ahead])[turn]
        finally:
            store.close()


def _describe_tiff(path: str) -> dict[str, Any]:
    with _first_series(path) as series:
        return {"shape": series.shape, "dtype": str(series.dtype)}


def _write_png(file: IO[bytes], value: Any) -> None:
    image = _as_image(value)
    channels = image.shape[2] if image.ndim == 3 else None
    mode = _MODES.get((str(image.dtype), channels))
    if mode is None or image.ndim not in (2, 3):
        raise ImageSaveError(
            f"PNG holds uint8 images (gray, gray and alpha, RGB, RGBA), and uint16 and bool gray "
            f"ones, not {image.dtype} of shape {image.shape}; .tif holds any numbers"
        )
    _pillow_image(image, mode).save(file, "PNG")


def _write_jpeg(file: IO[bytes], value: Any) -> None:
    image = _as_image(value)
    channels = image.shape[2] if image.ndim == 3 else None
    if image.dtype != np.uint8 or channels not in (None, 3) or image.ndim not in (2, 3):
        raise ImageSaveError(
            f"JPEG holds uint8 images, gray or RGB, not {image.dtype} of shape {image.shape}"
        )
    _pillow_image(image, "RGB" if channels else "L").save(file, "JPEG", quality=95)


def _pillow_image(image: np.ndarray[Any, Any], mode: str) -> Image.Image:
    if mode == "1":
        return Image.fromarray(image.astype(np.uint8) * 255).convert("1")
    return Image.fromarray(np.ascontiguousarray(image))


def _reader(opened: Callable[[IO[bytes]], ImageFile]) -> Callable[[str], Any]:
    """Return what reads files of one kind, whatever else Pillow would find in them."""

    def read(path: str) -> Any:
        with Path(path).open("rb") as file, opened(file) as image:
            shape, dtype = _shape_and_dtype(image)
            claimed = math.prod(shape) * dtype.itemsize
            check_claim(claimed, os.fstat(file.fileno()).st_size, DEFLATE)  # nor does JPEG reach it
            if image.mode in _CONVERTED:
                return np.array(image.convert(_colours(image)))
            # Pillow widens 16-bit gray to 32 bits in some versions.
            return np.array(image).astype(dtype, copy=False)

    return read


def _describer(opened: Callable[[IO[bytes]], ImageFile]) -> Callable[[str], dict[str, Any]]:
    def describe(path: str) -> dict[str, Any]:
        with Path(path).open("rb") as file, opened(file) as image:
            shape, dtype = _shape_and_dtype(image)
            return {"shape": shape, "dtype": str(dtype)}

    return describe


def _shape_and_dtype(image: ImageFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
    mode = _colours(image) if image.mode in _CONVERTED else image.mode
    channels = Image.getmodebands(mode)
    dtype = {"1": "bool", "I": "uint16"}.get(mode, "uint16" if mode.startswith("I;16") else "uint8")
    size = (image.height, image.width)
    return (size if channels == 1 else (*size, channels)), np.dtype(dtype)


def _colours(image: ImageFile) -> str:
    return "RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB"


def _png_image(file: IO[bytes]) -> ImageFile:
    header = file.read(26)
    file.seek(0)
    image = PngImageFile(file)
    if header[24] == 16 and image.mode not in _SIXTEEN_BITS:
        raise ImageLoadError("16-bit PNG images in colour would lose half their bits; use .tif")
    return image


TIFF = Format(
    "TIFF",
    (".tif", ".tiff"),
    _write_tiff,
    _read_tiff,
    _read_tiff_region,
    _describe_tiff,
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
PNG = Format(
    "PNG",
    (".png",),
    _write_png,
    _reader(_png_image),
    describe=_describer(_png_image),
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
JPEG = Format(
    "JPEG",
    (".jpg", ".jpeg"),
    _write_jpeg,
    _reader(JpegImageFile),
    describe=_describer(JpegImageFile),
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
