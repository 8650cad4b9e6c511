"""The known formats, by the suffixes of their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points

from polystore.exceptions import UnsupportedFormatError
from polystore.formats.format import Format
from polystore.formats.npy import NPY
from polystore.formats.npz import NPZ
from polystore.formats.text import BYTES, CSV, JSON, TEXT
from polystore.late_imports import imported

__all__ = ["format_of", "known_suffixes"]

ENTRY_POINT_GROUP = "polystore.formats"


def format_of(path: str) -> Format:
    """Return the format of a path: that of its longest known suffix; case does not matter.

    Raises
    ------
    UnsupportedFormatError
        If no format has a suffix of the path.
    MissingDependencyError
        If the format needs a package that is not installed.
    """
    name = os.path.basename(path).lower()
    endings = [name[i:] for i, letter in enumerate(name) if letter == "."]
    known = _formats() if endings else {}
    for ending in endings:
        if ending in known:
            return known[ending]()
    problem = "no format has the suffix of this file" if endings else "the path has no suffix"
    raise UnsupportedFormatError(
        f"{problem}, which names the format; the known ones are {', '.join(known_suffixes())}"
    )


def known_suffixes() -> list[str]:
    """Return all known suffixes, including those whose package is not installed."""
    return sorted(_formats())


@cache
def _formats() -> dict[str, Callable[[], Format]]:
    """Return a function for each suffix that returns its format; entry points add suffixes."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    plugins = {point.name.lower(): partial(_format, point, "all") for point in points}
    return {**plugins, **_BUILT_IN}


def _late(place: str, extra: str) -> Callable[[], Format]:
    """Return a function that imports a format with an optional package."""
    return partial(_format, EntryPoint("", place, ENTRY_POINT_GROUP), extra)


def _format(point: EntryPoint, extra: str) -> Format:
    found = imported(
        point.load,
        "the format",
        source=f"the import of {point.value}",
        extra=extra,
        error=UnsupportedFormatError,
    )
    if not isinstance(found, Format):
        raise UnsupportedFormatError(f"{point.value} is not a polystore.formats.Format")
    return found


_BUILT_IN: dict[str, Callable[[], Format]] = {
    suffix: (lambda found=found: found)
    for found in (NPY, NPZ, JSON, CSV, TEXT, BYTES)
    for suffix in found.suffixes
} | {
    ".tif": _late("polystore.formats.tiff.format:TIFF", "images"),
    ".tiff": _late("polystore.formats.tiff.format:TIFF", "images"),
    ".png": _late("polystore.formats.images:PNG", "images"),
    ".jpg": _late("polystore.formats.images:JPEG", "images"),
    ".jpeg": _late("polystore.formats.images:JPEG", "images"),
    ".pt": _late("polystore.formats.torch:TORCH", "torch"),
    ".pth": _late("polystore.formats.torch:TORCH", "torch"),
}
