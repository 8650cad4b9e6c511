"""What all image formats ask of the arrays that they store."""

from __future__ import annotations

from typing import Any

import numpy as np

from polystore.exceptions import ImageSaveError

__all__ = ["as_image"]


def as_image(value: Any) -> np.ndarray[Any, Any]:
    """Return an array with pixels.

    Raises
    ------
    ImageSaveError
        If there are none, or the format would drop their mask.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ImageSaveError(
            "a masked array would lose its mask; save array.filled(...), or .data and .mask apart"
        )
    if not isinstance(value, np.ndarray):
        raise ImageSaveError(f"an image is an array with pixels, not a {type(value).__name__}")
    if value.size == 0 or value.ndim == 0:
        raise ImageSaveError(f"an array of shape {value.shape} has no pixels")
    return value
