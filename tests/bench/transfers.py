"""What it costs to move many values from backend to backend, and to write one array by many."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import Table, start_ray
from skimage import io

from polystore import DiskBackend, FileManager, ZarrBackend
from polystore.formats import format_of
from polystore_ray import RayBackendRegistry
from polystore_ray.demo.images import photographs

MIB = 2**20
FILES = 10_000
SIDE = 128
ROUNDS = 3
WRITERS = 16
TABLE = Table("transfers", ROUNDS)


def cut(top: Path) -> list[Path]:
    """Cut the photographs into as many files, each in one of three formats."""
    images = [_opaque(io.imread(path)) for path in photographs()]
    random = np.random.default_rng(0)
    tiles, paths = [], []
    for number in range(FILES):
        image = images[number % len(images)]
        above, before = (int(random.integers(0, side - SIDE)) for side in image.shape[:2])
        tiles.append(image[above : above + SIDE, before : before + SIDE, ...])
        paths.append(top / f"{number % 10}" / f"{number}{('.png', '.jpg', '.tif')[number % 3]}")
    DiskBackend().save_batch(tiles, paths, parents=True)
    return paths


def _opaque(image: Any) -> Any:
    """Return an image that each of the formats holds."""
    image = image[..., :3] if image.ndim == 3 else image
    return image.astype(np.uint8) * 255 if image.dtype == bool else image


def in_turn(
    work: dict[str, Callable[[int], object]], after: Callable[[int], object] = lambda _: None
) -> dict[str, float]:
    """Return the median seconds of each, measured in turn; after each turn room is made."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(ROUNDS):
        for name, call in work.items():
            start = time.perf_counter()
            call(round_)
            times[name].append(time.perf_counter() - start)
        after(round_)
    return {name: statistics.median(found) for name, found in times.items()}


def resident() -> int:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bare(paths: list[Path]) -> list[Any]:
    """Load files with their formats alone, with all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: format_of(path).load(str(path), None), paths))


def disk_to_memory(fm: FileManager, paths: list[Path], top: Path) -> None:
    targets = [f"/warm/{number}" for number in range(30)]
    fm.copy(paths[:30], targets, "disk", to_backend="memory")
    before = resident()
    fm.copy(top, "/first", "disk", to_backend="memory")
    grown = resident() - before
    size = sum(
        array.nbytes for array in fm.load_batch([f"/first/0/{n}.png" for n in (0, 30)], "memory")
    )
    fm.delete_all("/first", "memory")

    def hosts(round_: int) -> None:
        fm.copy(top, f"/{round_}", "disk", to_backend="memory")

    found = in_turn(
        {"bare": lambda _: bare(paths), "hosts": hosts},
        after=lambda round_: fm.delete_all(f"/{round_}", "memory"),
    )
    what = f"disk to memory: {len(paths):,} photographs"
    TABLE.add(what, found["hosts"], "bare formats, all cores", found["bare"], "<= 1.25")
    TABLE.add_amount("of these, a second", f"{len(paths) / found['hosts']:.0f}")
    held = f"{grown / MIB:.0f} MiB of {len(paths) * size // 2 / MIB:.0f}"
    TABLE.add_amount("what the caller's memory grows by", held, "bounded")


def memory_to_zarr(fm: FileManager, top: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 99, (512, 512), np.uint16) for n in range(256)]
    paths = [f"/images/{number}" for number in range(len(images))]
    fm.save_batch(images, paths, "memory")
    options: dict[str, Any] = {"chunks": (1, 512, 512), "shards": (16, 512, 512)}

    def one_process(round_: int) -> None:
        stacked = np.stack(fm.load_batch(paths, "memory"))
        ZarrBackend().save(stacked, top / f"one{round_}", parents=True, **options)

    def tasks(round_: int) -> None:
        fm.stack(paths, top / f"tasks{round_}", "memory", to_backend="zarr", **options)

    tasks(-1)
    found = in_turn({"one": one_process, "tasks": tasks})
    what = f"memory to zarr: stack of {sum(image.nbytes for image in images) // MIB} MiB"
    TABLE.add(what, found["tasks"], "np.stack and one save", found["one"])


def regions(fm: FileManager, top: Path) -> None:
    """Write rows that fit no shard, by many tasks and by one after another."""
    side = 2048
    values = np.random.default_rng(0).integers(0, 99, (side, side), np.uint16)
    bands = np.array_split(np.arange(side), WRITERS)
    parts = [slice(int(band[0]), int(band[-1]) + 1) for band in bands]
    fm.save(np.zeros_like(values), top / "regions", "zarr", chunks=(100, 256), shards=(300, 1024))

    @ray.remote
    def write(part: slice) -> None:
        fm.save(values[part], top / "regions", "zarr", region=part)

    def one_process(_: int) -> None:
        for part in parts:
            ZarrBackend().save(values[part], top / "regions", region=part)

    def tasks(_: int) -> None:
        ray.get([write.remote(part) for part in parts])

    tasks(0)
    found = in_turn({"one": one_process, "tasks": tasks})
    assert np.array_equal(fm.load(top / "regions", "zarr"), values)
    what = f"zarr: {WRITERS} tasks write regions of {values.nbytes // MIB} MiB"
    TABLE.add(what, found["tasks"], "one process, no tasks", found["one"])


def main() -> None:
    start_ray(2048 * MIB)
    registry = RayBackendRegistry("transfers")
    fm = FileManager(registry)
    top = Path(tempfile.mkdtemp(prefix="polystore-bench-"))
    try:
        paths = cut(top / "files")
        disk_to_memory(fm, paths, top / "files")
        memory_to_zarr(fm, top)
        regions(fm, top)
    finally:
        shutil.rmtree(top)
    registry.shutdown()
    ray.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
