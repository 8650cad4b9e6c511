"""The images that the demo segments by default."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["SUFFIXES", "photographs"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})

# Photographs in scikit-image's wheel with objects that a threshold can find. No download is needed.
_NAMES = (
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "cell.png",
    "coins.png",
    "moon.png",
    "horse.png",
)


def photographs() -> list[Path]:
    """Return the files of the photographs that are installed with scikit-image."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "data"
    return [folder / name for name in _NAMES if (folder / name).is_file()]
