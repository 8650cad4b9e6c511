"""Segmentation of photographs: a survey of the whole image, then pixels by threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import remove_small_holes, remove_small_objects

from polystore_ray.demo.tiles import Tile

__all__ = ["Survey", "clean", "measure", "segment", "survey"]

STRIDE = 8  # pixels between the points at which the background is sampled
SMOOTHING = 1.5  # pixels, the standard deviation of the Gaussian

Image = npt.NDArray[Any]
Signal = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Survey:
    """The parameters that a survey of the whole image sets for all tiles.

    - `channel`: the channel that separates objects from background best
    - `threshold`: Otsu's threshold: a pixel belongs to an object if its signal is above (or below)
      it
    - `bright`: whether objects are above the threshold
    - `background`: the slowly varying part of the signal at every `STRIDE`-th pixel; None if
      subtracting it does not help
    """

    channel: str
    threshold: float
    bright: bool
    background: Signal | None


def survey(image: Image) -> Survey:
    """Choose channel, background and threshold by Otsu's separability, and the polarity.

    Objects are on the side of the threshold with fewer pixels of the image's border.

    Notes
    -----
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. Syst. Man
    Cybern. 9 (1979) 62-66: the separability is the between-class variance over the total one.
    """
    found = []
    for channel, signal in _channels(image).items():
        smooth = gaussian(signal, SMOOTHING, mode="nearest")
        size = max(image.shape[:2]) / STRIDE
        coarse = gaussian(smooth[::STRIDE, ::STRIDE], size / 6, mode="nearest")
        whole = Tile(slice(0, image.shape[0]), slice(0, image.shape[1]))
        for background in (None, coarse):
            flat = smooth if background is None else smooth - _at(background, whole)
            threshold = float(threshold_otsu(flat))
            found.append((_separability(flat, threshold), channel, threshold, background, flat))
    _, channel, threshold, background, flat = max(found, key=lambda choice: choice[0])
    border = np.concatenate([flat[0], flat[-1], flat[:, 0], flat[:, -1]])
    bright = float((border > threshold).mean()) < 0.5
    return Survey(channel, threshold, bright, background)


def segment(image: Image, tile: Tile, decided: Survey) -> npt.NDArray[np.int32]:
    """Return the labels of one tile: connected pixels beyond the threshold, numbered from 1.

    - `image`: the pixels of the tile, (rows, columns) or (rows, columns, channels)
    - `tile`: the position of the tile in the image
    - `decided`: the survey of the whole image
    """
    signal = gaussian(_channels(image)[decided.channel], SMOOTHING, mode="nearest")
    if decided.background is not None:
        signal = signal - _at(decided.background, tile)
    objects = signal > decided.threshold if decided.bright else signal < decided.threshold
    return np.asarray(label(objects), np.int32)


def clean(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Remove specks, fill pinholes and renumber the objects of a whole image."""
    least = max(24, labels.size // 10_000)
    mask = remove_small_objects(labels > 0, max_size=least)
    mask = remove_small_holes(mask, max_size=4 * least)
    return np.asarray(label(mask), np.int32)


def measure(image: Image, labels: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
    """Return one row per object: position and size in pixels, mean gray value, shape."""
    gray = image if image.ndim == 2 else image[..., :3].mean(axis=2)
    return [
        {
            "object": region.label,
            "row": round(float(region.centroid[0]), 1),
            "column": round(float(region.centroid[1]), 1),
            "area": int(region.area),
            "mean": round(float(region.intensity_mean), 2),
            "eccentricity": round(float(region.eccentricity), 3),
        }
        for region in regionprops(labels, intensity_image=gray)
    ]


def _channels(image: Image) -> dict[str, Signal]:
    """Return the candidate channels of an image, scaled to 0 to 1."""
    full = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
    scaled = image / float(full)
    if image.ndim == 2:
        return {"gray": scaled}
    colours = scaled[..., :3]
    return {
        "gray": colours @ np.array([0.2125, 0.7154, 0.0721]),
        "red": colours[..., 0],
        "green": colours[..., 1],
        "saturation": rgb2hsv(colours)[..., 1],
    }


def _at(background: Signal, tile: Tile) -> Signal:
    """Return the background at each pixel of a tile; it does not depend on the tile."""
    rows = np.arange(tile.rows.start, tile.rows.stop) / STRIDE
    columns = np.arange(tile.columns.start, tile.columns.stop) / STRIDE
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(ndimage.map_coordinates(background, grid, order=1, mode="nearest"))


def _separability(signal: Signal, threshold: float) -> float:
    above = signal > threshold
    share = float(above.mean())
    if share in (0.0, 1.0):
        return 0.0
    between = share * (1 - share) * float(signal[above].mean() - signal[~above].mean()) ** 2
    return between / float(signal.var())
