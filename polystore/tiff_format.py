"""TIFF files through tifffile (the extra ``images``)."""

from __future__ import annotations

from typing import IO, Any

import tifffile

from polystore.exceptions import ImageLoadError, ImageSaveError
from polystore.formats import Format
from polystore.pixels import as_image
from polystore.region import check_region, forward
from polystore.tiff_pages import open_tiff, tiff_image
from polystore.tiff_segments import read_pixels

__all__ = ["TIFF"]


def _write(file: IO[bytes], value: Any) -> None:
    image = as_image(value)
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


def _read(
    path: str,
    *,
    series: int | None = None,
    missing: str = "error",
    max_decoded: int | None = None,
) -> Any:
    return _read_region(path, (...,), series=series, missing=missing, max_decoded=max_decoded)


def _read_region(
    path: str,
    index: tuple[Any, ...],
    *,
    series: int | None = None,
    missing: str = "error",
    max_decoded: int | None = None,
) -> Any:
    with open_tiff(path) as file:
        image = tiff_image(file, series)
        if missing != "zeros":
            image.check_complete()
        check_region(image.shape, index)
        ahead, turn = forward(image.shape, index)
        ranges = [
            range(*part.indices(side)) if isinstance(part, slice) else range(side)[part:][:1]
            for part, side in zip(ahead, image.shape, strict=True)
        ]
        pixels = read_pixels(image, ranges, most=max_decoded)
        whole = tuple(slice(None) if isinstance(part, slice) else 0 for part in ahead)
        return pixels[whole][turn]


def _describe(path: str) -> dict[str, Any]:
    with open_tiff(path) as file:
        found = file.series
        facts: dict[str, Any] = {"series": len(found)}
        if len(found) == 1:
            image = tiff_image(file, 0)
            facts |= {"shape": image.shape, "dtype": str(image.series.dtype)}
        return facts


TIFF = Format(
    "TIFF",
    (".tif", ".tiff"),
    _write,
    _read,
    _read_region,
    _describe,
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
    options=frozenset({"series", "missing", "max_decoded"}),
)
