"""A picture of a part of an array, as PNG, with its histogram."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from polystore.exceptions import UnsupportedFormatError, VFSTypeError
from polystore.formats import format_of

__all__ = ["HIGH", "LOW", "Look", "is_colour", "is_drawn", "is_labels", "picture"]

LOW, HIGH = 1.0, 99.0
"""The percentiles that become black and white."""
_SIDE = 1024  # pixels of a picture
_MOST_READ = 64 * 2**20  # bytes of the array for one picture
_BINS = 64
_COLOURS = 251  # a prime number: neighbouring labels rarely share a colour
_GOLDEN = 0.618033988749895

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Look:
    """Which part of an array is drawn, and how.

    - `index`: the position along each axis before the two of the picture
    - `top`, `left`: the first row and column
    - `full`: whether every pixel is drawn, not every second or third
    - `low`, `high`: the percentiles that become black and white
    - `labels`: whether each number has a colour of its own
    """

    index: tuple[int, ...] = ()
    top: int = 0
    left: int = 0
    full: bool = False
    low: float = LOW
    high: float = HIGH
    labels: bool = False


def is_drawn(shape: Sequence[int], dtype: str) -> bool:
    """Return whether there is a picture of such an array."""
    return len(shape) > 1 and 0 not in shape and _kind(dtype) in ("b", "i", "u", "f", "c")


def is_colour(shape: Sequence[int], dtype: str) -> bool:
    """Return whether the last axis of an array is that of colours."""
    return len(shape) > 2 and shape[-1] in (3, 4) and dtype == "uint8"


def is_labels(dtype: str) -> bool:
    """Return whether the numbers of an array are more likely labels than brightness."""
    return _kind(dtype) in ("i", "u") and np.dtype(dtype).itemsize > 2


def _kind(dtype: str) -> str | None:
    try:
        return np.dtype(dtype).kind
    except TypeError:
        return None  # the name of a structured dtype


def picture(
    load: Callable[[tuple[int | slice, ...]], Any], shape: Sequence[int], dtype: str, look: Look
) -> dict[str, Any]:
    """Return a PNG in base64, the part that it shows, and the histogram of that part.

    - `load`: returns a region of the array. No other part is read

    Raises `UnsupportedFormatError` if there is no picture of such an array; `VFSTypeError` if the
    array has no such part.
    """
    if not is_drawn(shape, dtype):
        raise UnsupportedFormatError(f"there is no picture of {dtype} of shape {tuple(shape)}")
    colours = shape[-1] if is_colour(shape, dtype) and not look.labels else 1
    further = len(shape) - (3 if colours > 1 else 2)
    height, width = shape[further : further + 2]
    if len(look.index) != further:
        raise VFSTypeError(f"a picture of this array needs {further} positions, one for each axis")
    if not (0 <= look.top < height and 0 <= look.left < width):
        raise VFSTypeError(f"the picture has {height} rows and {width} columns")
    step = _step(max(height, width), np.dtype(dtype).itemsize * colours, full=look.full)
    rows = slice(look.top, min(height, look.top + _SIDE * step), step)
    columns = slice(look.left, min(width, look.left + _SIDE * step), step)
    pixels = np.asarray(load((*look.index, rows, columns)))
    shown, facts = _drawn(pixels, look, in_colour=colours > 1)
    file = io.BytesIO()
    format_of(".png").save(file, shown)
    return facts | {
        "png": base64.b64encode(file.getvalue()).decode(),
        "rows": [rows.start, rows.stop],
        "columns": [columns.start, columns.stop],
        "step": step,
    }


def _step(side: int, pixel_bytes: int, *, full: bool) -> int:
    """Return how many pixels of the array become one: as few as fit, and not too many to read."""
    if full:
        return 1
    most = isqrt(_MOST_READ // pixel_bytes) // _SIDE
    return max(1, min(-(-side // _SIDE), most))


def _drawn(pixels: Pixels, look: Look, *, in_colour: bool) -> tuple[Pixels, dict[str, Any]]:
    values = np.abs(pixels) if pixels.dtype.kind == "c" else pixels
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    peak = float(np.abs(finite).max(initial=0)) or 1.0  # so that differences stay finite
    finite /= peak
    counts, edges = np.histogram(finite, _BINS)
    low, high = np.percentile(finite, (look.low, look.high)) if finite.size else (0.0, 1.0)
    facts = {
        "histogram": counts.tolist(),
        "between": [float(edges[0]) * peak, float(edges[-1]) * peak],
        "contrast": [float(low) * peak, float(high) * peak],
    }
    if in_colour:
        return pixels, facts
    if look.labels:
        return _in_colours(np.nan_to_num(values)), facts
    scaled = (np.nan_to_num(values, nan=low * peak) / peak - low) / ((high - low) or 1.0)
    return (255 * scaled.clip(0, 1)).astype(np.uint8), facts


def _in_colours(labels: Pixels) -> Pixels:
    """Return an RGB image with a colour for each number; zero is black."""
    which = np.abs(np.fmod(labels, _COLOURS)).astype(np.intp)
    return np.where((labels != 0)[..., None], _palette()[which], np.uint8(0))


def _palette() -> Pixels:
    hue = np.arange(_COLOURS) * _GOLDEN % 1.0
    waves: Pixels = np.cos(2 * np.pi * (hue[:, None] - np.array([0.0, 1 / 3, 2 / 3])))
    return (150 + 100 * waves).astype(np.uint8)
