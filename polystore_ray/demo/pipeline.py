"""The steps of the demo, with the public API only: disk to memory, tasks on tiles, zarr and CSV."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polystore import FileManager, StorageError
from polystore_ray.demo.segmentation import Survey, clean, measure, segment, survey
from polystore_ray.demo.tiles import Tile, cut, stitch

__all__ = ["Outcome", "Runner", "Trip", "run"]

BATCH = 4  # images read at once

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Trip:
    """The number of bytes that one task read from and saved to the cluster memory."""

    worker: int
    shared: int = 0  # bytes read as views of shared memory
    copied: int = 0  # bytes read as copies
    saved: int = 0


@dataclass(frozen=True)
class Outcome:
    """One image and the objects found in it."""

    name: str
    image: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    rows: list[dict[str, Any]]
    decided: Survey
    tiles: int


@dataclass
class Result:
    """The result of a run."""

    outcomes: list[Outcome] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Runner(Protocol):
    """Run a function for many arguments, in other processes and in any order."""

    def __call__(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Yield the results as they arrive."""


def run(
    fm: FileManager, files: Sequence[Path], out: Path, runner: Runner, progress: Progress
) -> Result:
    """Segment images and write labels and measurements.

    Parameters
    ----------
    fm : FileManager
        A file manager with the backends ``disk``, ``memory`` and ``zarr``.
    files : sequence of Path
        The images.
    out : Path
        The directory for ``labels.zarr`` and ``measurements.csv``; existing ones are replaced.
    runner : Runner
        Runs the tasks, which get paths and never pixels.
    progress : callable
        Called with the number of steps done, the number of steps, and the name of the step.
    """
    result = Result()
    images = _read(fm, files, result, progress)
    places = {name: cut(image.shape) for name, image in images.items()}
    tiles = [(name, tile) for name, all_of in places.items() for tile in all_of]
    total = len(files) + 2 * len(images) + len(tiles)
    done = len(files)

    fm.save_batch(
        [tile.of(images[name]) for name, tile in tiles],
        [_tile_path(name, tile) for name, tile in tiles],
        backend="memory",
    )
    result.trips.append(
        Trip(os.getpid(), saved=sum(i.nbytes + _cut_bytes(i) for i in images.values()))
    )

    decided: dict[str, Survey] = {}
    for name, choice, trip in runner(survey_image, [(fm, name) for name in images]):
        decided[name] = choice
        result.trips.append(trip)
        done += 1
        progress(done, total, f"survey of {name}")
    for name, trip in runner(
        segment_tile, [(fm, name, tile, decided[name]) for name, tile in tiles]
    ):
        result.trips.append(trip)
        done += 1
        progress(done, total, f"tiles of {name}")
    found: dict[str, list[dict[str, Any]]] = {}
    fm.ensure_directory(out, backend="disk")
    calls = [(fm, name, all_of, str(out / "labels.zarr")) for name, all_of in places.items()]
    for name, rows, trip in runner(stitch_image, calls):
        found[name] = rows
        result.trips.append(trip)
        done += 1
        progress(done, total, f"stitching of {name}")

    for name, image in images.items():
        labels = fm.load(f"/labels/{name}/whole", backend="memory")
        result.outcomes.append(
            Outcome(name, image, labels, found[name], decided[name], len(places[name]))
        )
    table = [{"image": name} | row for name in images for row in found[name]]
    fm.save(table, out / "measurements.csv", backend="disk", overwrite=True)
    return result


def _read(
    fm: FileManager, files: Sequence[Path], result: Result, progress: Progress
) -> dict[str, npt.NDArray[Any]]:
    """Read images from disk in batches and share them; skip and report damaged files."""
    images: dict[str, npt.NDArray[Any]] = {}
    for start in range(0, len(files), BATCH):
        batch = list(files[start : start + BATCH])
        try:
            values = fm.load_batch(batch, backend="disk")
        except StorageError:
            values = []
            for path in list(batch):
                try:
                    values.append(fm.load(path, backend="disk"))
                except StorageError as error:
                    result.failures.append(str(error))
                    batch.remove(path)
        for path, value in zip(batch, values, strict=True):
            if value.ndim not in (2, 3):
                result.failures.append(f"not a 2-D image; its shape is {value.shape}: {path}")
                continue
            fm.save(value, f"/images/{path.name}", backend="memory", overwrite=True)
            images[path.name] = fm.load(f"/images/{path.name}", backend="memory")
        progress(min(start + BATCH, len(files)), len(files), "reading images")
    return images


def _tile_path(name: str, tile: Tile) -> str:
    return f"/tiles/{name}/{tile.name}"


def _cut_bytes(image: npt.NDArray[Any]) -> int:
    return sum(tile.of(image).nbytes for tile in cut(image.shape))


# Functions that run in tasks


class _Memory:
    """The cluster memory for one task, with a count of the bytes read and saved."""

    def __init__(self, fm: FileManager) -> None:
        self._fm = fm
        self._bytes = {"shared": 0, "copied": 0, "saved": 0}

    def load(self, path: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = self._fm.load(path, backend="memory")
        view = not array.flags.owndata and not array.flags.writeable
        self._bytes["shared" if view else "copied"] += array.nbytes
        return array

    def save(self, array: npt.NDArray[Any], path: str) -> None:
        self._fm.save(array, path, backend="memory", overwrite=True)
        self._bytes["saved"] += array.nbytes

    def trip(self) -> Trip:
        return Trip(os.getpid(), **self._bytes)


def survey_image(fm: FileManager, name: str) -> tuple[str, Survey, Trip]:
    """Survey a whole image."""
    memory = _Memory(fm)
    return name, survey(memory.load(f"/images/{name}")), memory.trip()


def segment_tile(fm: FileManager, name: str, tile: Tile, decided: Survey) -> tuple[str, Trip]:
    """Segment one tile: load it from the memory by its path, and save its labels there."""
    memory = _Memory(fm)
    labels = segment(memory.load(_tile_path(name, tile)), tile, decided)
    memory.save(labels, f"/labels/{name}/{tile.name}")
    return name, memory.trip()


def stitch_image(
    fm: FileManager, name: str, tiles: list[Tile], store: str
) -> tuple[str, list[dict[str, Any]], Trip]:
    """Stitch the labels of an image, measure its objects, and save the labels in zarr."""
    memory = _Memory(fm)
    image = memory.load(f"/images/{name}")
    parts = [(tile, memory.load(f"/labels/{name}/{tile.name}")) for tile in tiles]
    labels = clean(stitch((image.shape[0], image.shape[1]), parts))
    memory.save(labels, f"/labels/{name}/whole")
    fm.save(labels, f"{store}/{name}", backend="zarr", overwrite=True)
    return name, measure(image, labels), memory.trip()
