"""Images: TIFF through tifffile, PNG and JPEG through Pillow (the extra ``images``)."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image

from polystore.exceptions import ImageLoadError, ImageSaveError
from polystore.formats import Format

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


def _as_image(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray) or value.size == 0 or value.ndim == 0:
        raise ImageSaveError(f"an image is an array with pixels, not a {type(value).__name__}")
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


def _read_tiff(path: str) -> Any:
    return tifffile.imread(path)


def _view_tiff(path: str) -> Any:
    try:
        return tifffile.memmap(path, mode="r")
    except ValueError:  # compressed or tiled: nothing to map
        return _read_tiff(path)


def _write_png(file: IO[bytes], value: Any) -> None:
    image = _as_image(value)
    channels = image.shape[2] if image.ndim == 3 else None
    mode = _MODES.get((str(image.dtype), channels))
    if mode is None or image.ndim > 3:
        raise ImageSaveError(
            f"PNG holds uint8 images (gray, gray and alpha, RGB, RGBA), and uint16 and bool gray "
            f"ones, not {image.dtype} of shape {image.shape}; .tif holds any numbers"
        )
    _pillow_image(image, mode).save(file, "PNG")


def _write_jpeg(file: IO[bytes], value: Any) -> None:
    image = _as_image(value)
    channels = image.shape[2] if image.ndim == 3 else None
    if image.dtype != np.uint8 or channels not in (None, 3) or image.ndim > 3:
        raise ImageSaveError(
            f"JPEG holds uint8 images, gray or RGB, not {image.dtype} of shape {image.shape}"
        )
    _pillow_image(image, "RGB" if channels else "L").save(file, "JPEG", quality=95)


def _pillow_image(image: np.ndarray[Any, Any], mode: str) -> Image.Image:
    if mode == "1":
        return Image.fromarray(image.astype(np.uint8) * 255).convert("1")
    return Image.fromarray(np.ascontiguousarray(image))


def _read_with_pillow(path: str) -> Any:
    with Image.open(path) as image:
        if image.mode in ("P", "PA", "CMYK", "YCbCr"):
            return np.array(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        pixels = np.array(image)
    # Pillow widens 16-bit gray to 32 bits in some versions.
    return pixels.astype(np.uint16) if image.mode == "I" else pixels


TIFF = Format(
    "TIFF",
    (".tif", ".tiff"),
    _write_tiff,
    _read_tiff,
    _view_tiff,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
PNG = Format(
    "PNG",
    (".png",),
    _write_png,
    _read_with_pillow,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
JPEG = Format(
    "JPEG",
    (".jpg", ".jpeg"),
    _write_jpeg,
    _read_with_pillow,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
)
