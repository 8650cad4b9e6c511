"""A tree that faults are made in, and what nobody may ever see in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from polystore import DiskBackend, ZarrBackend
from polystore.filesystem.temporaries import PREFIX


@dataclass(frozen=True)
class Tree:
    """A directory, and a backend that keeps its values there."""

    backend: Any
    top: str  # as the operating system calls the directory
    inside: str  # as the backend calls it

    @property
    def is_zarr(self) -> bool:
        return isinstance(self.backend, ZarrBackend)

    def path(self, path: str = "") -> str:
        return f"{self.inside}/{path}".rstrip("/") or "/"


KINDS: dict[str, Callable[[str], Tree]] = {
    "disk": lambda top: Tree(DiskBackend(), top, top),
    "rooted disk": lambda top: Tree(DiskBackend(top), top, ""),
    "zarr": lambda top: Tree(ZarrBackend(), top, top),
    "rooted zarr": lambda top: Tree(ZarrBackend(top), top, ""),
}


def make(kind: str, top: str) -> Tree:
    """Make a new tree; one of zarr is a group, so that zarr itself can list it."""
    os.mkdir(top)
    if kind == "zarr":
        zarr.open_group(top, mode="w")
    return KINDS[kind](top)


# Values that show what they are made of


def image(generation: int, rows: int = 60) -> Any:
    return np.full((rows, 50), generation, np.uint8)


def document(generation: int, length: int = 400) -> dict[str, list[int]]:
    return {"all": [generation] * length}


def whole(value: Any) -> int:
    """Return the generation that all of a value is of."""
    found = np.unique(value["all"] if isinstance(value, dict) else value)
    assert len(found) == 1, f"it is made of {found}"
    return int(found[0])


# What listings show


def no_listing_shows_a_temporary(tree: Tree) -> None:
    no_temporary_among(everything_listed(tree))
    no_temporary_among(members_of_zarr(tree))


def no_temporary_among(names: list[str]) -> None:
    assert not [name for name in names if PREFIX in name], names


def everything_listed(tree: Tree) -> list[str]:
    """Return what the two listings show, at every depth."""
    backend = tree.backend
    seen: list[str] = backend.list_files(tree.path(), recursive=True)
    waiting = [tree.path()]
    while waiting:
        place = waiting.pop()
        names = backend.list_dir(place)
        seen += names
        below = [f"{place.rstrip('/')}/{name}" for name in names]
        waiting += [path for path in below if backend.is_dir(path) and not backend.is_symlink(path)]
    return seen


def members_of_zarr(tree: Tree) -> list[str]:
    """Return what zarr itself lists of a tree of zarr."""
    if not tree.is_zarr:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what lies beside arrays, and is no part of zarr
        return [name for name, _ in zarr.open_group(tree.top, mode="r").members(max_depth=None)]


# What is left


def temporaries(top: str) -> list[str]:
    return [path for path in map(str, Path(top).rglob("*")) if PREFIX in path]


def a_later_save_sweeps(tree: Tree) -> None:
    """Save into each directory that a dead process left a temporary in."""
    for directory in {os.path.dirname(path) for path in temporaries(tree.top)}:
        if PREFIX in directory:
            continue  # inside of another one
        sweeper = tree.path(os.path.relpath(f"{directory}/sweeper.npy", tree.top))
        tree.backend.save(image(0), sweeper)
        tree.backend.delete(sweeper)
    assert temporaries(tree.top) == []
