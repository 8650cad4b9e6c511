"""TIFF files with tifffile (the extra ``images``)."""

from __future__ import annotations

from typing import Any

from polystore.exceptions import ImageLoadError, ImageSaveError, VFSTypeError
from polystore.formats.format import Format
from polystore.formats.tiff.pages import open_tiff, tiff_image
from polystore.formats.tiff.segments import read_pixels, selected
from polystore.formats.tiff.writing import beside_pixels, rewrite_tiff, write_tiff

__all__ = ["TIFF"]


def _read(
    path: str,
    *,
    series: int | None = None,
    missing: str | None = None,
    max_decoded: int | None = None,
) -> Any:
    return _read_region(path, (...,), series=series, missing=missing, max_decoded=max_decoded)


def _read_region(
    path: str,
    index: tuple[Any, ...],
    *,
    series: int | None = None,
    missing: str | None = None,
    max_decoded: int | None = None,
) -> Any:
    if missing not in (None, "zeros"):
        raise VFSTypeError(f"missing must be None or 'zeros', not {missing!r}")
    with open_tiff(path) as file:
        image = tiff_image(file, series)
        if missing != "zeros":
            image.check_complete()
        ranges, taken = selected(image, index)
        return read_pixels(image, ranges, most=max_decoded)[taken][()]


def _describe(path: str) -> dict[str, Any]:
    with open_tiff(path) as file:
        found = file.series
        facts: dict[str, Any] = {"series": len(found)}
        if len(found) == 1:
            image = tiff_image(file, 0)
            facts |= {"shape": image.shape, "dtype": str(image.series.dtype)}
        return facts


def _kept_apart(path: str) -> list[str]:
    with open_tiff(path) as file:
        return beside_pixels(file)


TIFF = Format(
    "TIFF",
    (".tif", ".tiff"),
    write_tiff,
    _read,
    _read_region,
    _describe,
    compressed=True,
    corrupt=ImageLoadError,
    unwritable=ImageSaveError,
    options=frozenset({"series", "missing", "max_decoded"}),
    rewrite=rewrite_tiff,
    kept_apart=_kept_apart,
)
