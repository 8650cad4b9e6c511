"""Overlapping tiles of large images, and the stitching of their labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Tile", "cut", "stitch"]

LARGEST = 512  # pixels; a side of up to this size is not cut
OVERLAP = 48  # pixels that neighbouring tiles share

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image: its rows and columns."""

    rows: slice
    columns: slice

    @property
    def name(self) -> str:
        """A name; sorted names are in the order of rows and columns."""
        return f"r{self.rows.start:05d}c{self.columns.start:05d}"

    def of(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return this part of an image, as a view."""
        return image[self.rows, self.columns]


def cut(shape: tuple[int, ...]) -> list[Tile]:
    """Return overlapping tiles that cover an image; a small image is one tile.

    Examples
    --------
    >>> [tile.name for tile in cut((400, 900))]
    ['r00000c00000', 'r00000c00426']
    """
    return [
        Tile(rows, columns) for rows in _intervals(shape[0]) for columns in _intervals(shape[1])
    ]


def _intervals(length: int) -> list[slice]:
    if length <= LARGEST:
        return [slice(0, length)]
    count = -(-(length - OVERLAP) // (LARGEST - OVERLAP))
    step = (length - OVERLAP) / count
    starts = [round(i * step) for i in range(count)]
    return [slice(start, min(length, round(start + step) + OVERLAP)) for start in starts]


def stitch(shape: tuple[int, int], parts: Iterable[tuple[Tile, Labels]]) -> Labels:
    """Return the labels of a whole image from those of its tiles.

    Objects of two tiles that share a pixel become one, so an object that crosses a border keeps
    one label. Labels are numbered from 1, 0 is background.

    - `shape`: rows and columns of the image
    - `parts`: each tile with its labels, numbered from 1
    """
    whole = np.zeros(shape, np.int32)
    same: list[npt.NDArray[np.int32]] = []
    highest = 0
    for tile, labels in parts:
        mine = np.where(labels > 0, labels + highest, 0).astype(np.int32)
        there = tile.of(whole)
        both = (there > 0) & (mine > 0)
        same.append(np.unique(np.stack([there[both], mine[both]]), axis=1))
        there[...] = np.where(there > 0, there, mine)
        highest += int(labels.max(initial=0))
    pairs = np.concatenate([np.empty((2, 0), np.int32), *same], axis=1)
    graph = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), (highest + 1, highest + 1))
    _, component = connected_components(graph, directed=False)
    return np.unique(component[whole], return_inverse=True)[1].reshape(shape).astype(np.int32)
