"""PNG and JPEG images through Pillow (the extra ``images``)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from polystore.exceptions import ImageLoadError, ImageSaveError
from polystore.formats import DEFLATE, Format, check_claim
from polystore.pixels import as_image

__all__ = ["JPEG", "PNG"]

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


def _write_png(file: IO[bytes], value: Any) -> None:
    image = as_image(value)
    channels = image.shape[2] if image.ndim == 3 else None
    mode = _MODES.get((str(image.dtype), channels))
    if mode is None or image.ndim not in (2, 3):
        raise ImageSaveError(
            f"PNG holds uint8 images (gray, gray and alpha, RGB, RGBA), and uint16 and bool gray "
            f"ones, not {image.dtype} of shape {image.shape}; .tif holds any numbers"
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
