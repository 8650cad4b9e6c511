"""PNG and JPEG images with Pillow (the extra ``images``)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from polystore.exceptions import ImageLoadError, ImageSaveError, VFSTypeError
from polystore.formats.format import Format
from polystore.formats.limits import DEFLATE, check_declared_size
from polystore.formats.pixels import as_image
from polystore.region import put_region

__all__ = ["JPEG", "PNG"]

# Pillow's modes for the dtypes and numbers of channels that PNG can hold.
_MODES = {
    ("uint8", None): "L",
    ("uint8", 2): "LA",
    ("uint8", 3): "RGB",
    ("uint8", 4): "RGBA",
    ("uint16", None): "I;16",
    ("bool", None): "1",
}

# PNG colour types that Pillow reads with 8 bits only, and their numbers of channels.
_DEEP = {2: 3, 4: 2, 6: 4}
_SCAN = b"\xff\xda"  # begins a scan of a JPEG; no compressed data hold it
_MOST_SCANS = 100  # encoders write 10 or so
_CONVERTED = ("P", "PA", "CMYK", "YCbCr")  # converted to colours, as by other image readers


def _write_png(file: IO[bytes], value: Any) -> None:
    image = as_image(value)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # PNG has a fixed byte order
    channels = image.shape[2] if image.ndim == 3 else None
    if image.dtype == np.uint16 and image.ndim == 3 and channels in (2, 3, 4):
        file.write(imagecodecs.png_encode(image))  # Pillow has no 16-bit colour
        return
    mode = _MODES.get((str(image.dtype), channels))
    if mode is None or image.ndim not in (2, 3):
        raise ImageSaveError(
            f"PNG holds uint8 and uint16 images (gray, gray and alpha, RGB, RGBA) and bool gray "
            f"images, not {image.dtype} of shape {image.shape}; use .tif for other numbers"
        )
    _pillow_image(image, mode).save(file, "PNG")


def _write_jpeg(file: IO[bytes], value: Any) -> None:
    image = as_image(value)
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


def _rewrite_png(path: str, file: IO[bytes], index: tuple[Any, ...], data: Any) -> None:
    """Rewrite a PNG with a part of its pixels replaced, if it contains only pixels."""
    with _png(path) as (image, _):
        more = [name for name in map(str, image.info) if name != "interlace"]
        more += ["its palette"] * (image.mode in _CONVERTED)
    more = [*_png_apart(path), *more]
    if more:
        raise ImageSaveError(
            f"a save into a region would lose other content of the file: {', '.join(more)}. Load "
            f"the array and save it in another file"
        )
    pixels = _read_png(path)
    put_region(pixels, index, data)
    _write_png(file, pixels)


def _rewrite_jpeg(*_arguments: object) -> None:
    raise ImageSaveError(
        "JPEG is lossy: a save into a region would change other pixels. Load the array and save "
        "it in another format"
    )


def _read_png(path: str, *, series: int | None = None, max_decoded: int | None = None) -> Any:
    with _png(path) as (image, deep):
        frames = len(_frames(image))
        if series is None and frames > 1:
            raise VFSTypeError(
                f"the file holds {frames} images (frames); choose one with series=0 to "
                f"series={frames - 1}"
            )
        if series is not None and not 0 <= series < frames:
            raise VFSTypeError(f"series={series!r} does not exist; the file holds {frames} images")
        _check_size(image, deep, max_decoded)
        if not deep:
            image.seek(series or 0)
            return _pixels(image)
        if frames > 1:
            raise ImageLoadError("frames with 16-bit colours cannot be decoded")
        out = np.empty((image.height, image.width, deep), np.uint16)
        return imagecodecs.png_decode(Path(path).read_bytes(), out=out)


def _read_jpeg(path: str, *, max_decoded: int | None = None) -> Any:
    with Path(path).open("rb") as file, JpegImageFile(file) as image:
        _check_size(image, 0, max_decoded)
        file.seek(0)
        scans = file.read().count(_SCAN)
        if scans > _MOST_SCANS:
            raise ImageLoadError(f"the image has {scans} scans, each of which is a pass over it")
        file.seek(0)
        return _pixels(image)


def _describe_png(path: str) -> dict[str, Any]:
    with _png(path) as (image, deep):
        facts: dict[str, Any] = {"series": len(_frames(image))}
        if facts["series"] == 1:
            shape, dtype = _shape_and_dtype(image, deep)
            facts |= {"shape": shape, "dtype": str(dtype)}
        return facts


def _describe_jpeg(path: str) -> dict[str, Any]:
    with Path(path).open("rb") as file, JpegImageFile(file) as image:
        shape, dtype = _shape_and_dtype(image)
        return {"shape": shape, "dtype": str(dtype)}


def _png_apart(path: str) -> list[str]:
    with _png(path) as (image, _):
        frames = len(_frames(image))
        return [f"{frames} images (frames)"] if frames > 1 else []


@contextmanager
def _png(path: str) -> Iterator[tuple[PngImageFile, int]]:
    """Yield an open PNG, and its number of channels if they have 16 bits, else 0."""
    with Path(path).open("rb") as file:
        header = file.read(26)
        file.seek(0)
        with PngImageFile(file) as image:
            yield image, _DEEP.get(header[25], 0) if header[24] == 16 else 0


def _frames(image: ImageFile) -> range:
    return range(getattr(image, "n_frames", 1))


def _check_size(image: ImageFile, deep: int, most: int | None) -> None:
    shape, dtype = _shape_and_dtype(image, deep)
    declared = math.prod(shape) * dtype.itemsize
    if most is None:
        stored = os.fstat(image.fp.fileno()).st_size if image.fp else 0
        check_declared_size(declared, stored, 32 * DEFLATE)  # one bit may become RGBA
    elif declared > most:
        raise ImageLoadError(
            f"the image has {declared} bytes of pixels, more than max_decoded={most}"
        )


def _pixels(image: ImageFile) -> np.ndarray[Any, Any]:
    if image.mode in _CONVERTED:
        return np.array(image.convert(_colours(image)))
    pixels: np.ndarray[Any, Any] = np.array(image)
    if pixels.dtype == bool:  # of bytes of 255 by Pillow, where others have 1
        return pixels.view(np.uint8).astype(bool)
    # Pillow widens 16-bit gray to 32 bits in some versions.
    return pixels.astype(_shape_and_dtype(image)[1], copy=False)


def _shape_and_dtype(image: ImageFile, deep: int = 0) -> tuple[tuple[int, ...], np.dtype[Any]]:
    size = (image.height, image.width)
    if deep:
        return (*size, deep), np.dtype("uint16")
    mode = _colours(image) if image.mode in _CONVERTED else image.mode
    channels = Image.getmodebands(mode)
    dtype = {"1": "bool", "I": "uint16"}.get(mode, "uint16" if mode.startswith("I;16") else "uint8")
    return (size if channels == 1 else (*size, channels)), np.dtype(dtype)


def _colours(image: ImageFile) -> str:
    return "RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB"


PNG = Format(
    "PNG",
    (".png",),
    _write_png,
    _read_png,
    describe=_describe_png,
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
    options=frozenset({"series", "max_decoded"}),
    rewrite=_rewrite_png,
    kept_apart=_png_apart,
)
JPEG = Format(
    "JPEG",
    (".jpg", ".jpeg"),
    _write_jpeg,
    _read_jpeg,
    describe=_describe_jpeg,
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
    options=frozenset({"max_decoded"}),
    rewrite=_rewrite_jpeg,
)
