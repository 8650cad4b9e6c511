"""The check of arrays that all image formats share."""

from __future__ import annotations

from typing import Any

import numpy as np

from polystore.exceptions import ImageSaveError

__all__ = ["as_image"]


def as_image(value: Any) -> np.ndarray[Any, Any]:
    """Return an array that can be stored as an image.

    Raises `ImageSaveError` if the value is not an array, has no pixels, or has a mask.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ImageSaveError(
            "a masked array would lose its mask; save array.filled(value), or array.data and "
            "array.mask as two files"
        )
    if not isinstance(value, np.ndarray):
        raise ImageSaveError(f"an image must be an array, not a {type(value).__name__}")
    if value.size == 0 or value.ndim == 0:
        raise ImageSaveError(f"an array of shape {value.shape} has no pixels")
    return value
