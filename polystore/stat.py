"""The result of ``stat``: what every backend says about a path."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = ["Details", "Stat"]


class Details(TypedDict, total=False):
    """The keys of `Stat` that are there only where they apply."""

    target: str
    """The path that a link points to."""
    size: int
    """The size of the value in bytes."""
    modified: float
    """The time of the last change, in seconds since the epoch."""
    shape: tuple[int, ...]
    """The shape of a stored array."""
    dtype: str
    """The dtype of a stored array, as NumPy names it."""
    chunks: tuple[int, ...]
    """The shape of the chunks of an array of zarr."""
    attributes: dict[str, Any]
    """The attributes of an array or a group of zarr, if it has any."""
    series: int
    """The number of images in a ``.tif`` file that holds several."""
    replicas: int
    """The number of nodes that hold the value, in the memory of a Ray cluster."""
    lost: str
    """How the value was lost, in the memory of a Ray cluster; only there if it is lost."""
    evictable: bool
    """Whether a full memory of a Ray cluster may let the value go; only there if it may."""
    evicted: bool
    """Whether it has done so."""
    pinned: bool
    """Whether the value is kept nevertheless."""
    expires: float
    """When a value with a time to live is deleted, in seconds since the epoch."""
    version: int
    """A number that changes with each save, in backends that keep versions."""


class Stat(Details):
    """The description of a path, also of a missing one.

    A backend may add keys of its own.
    """

    type: Literal["file", "directory", "symlink", "missing"]
    """The kind of the path itself: a link is a "symlink" wherever it leads."""
    path: str
    """The path, as the backend spells it."""
    exists: bool
    """Whether the path leads to anything; a dangling link does not."""
