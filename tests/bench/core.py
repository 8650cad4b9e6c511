"""Compare the backends of one process with what they are made of: medians, as ratios."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from measuring import ROUNDS, Table, medians
from skimage import data

from polystore import DiskBackend, MemoryBackend, ZarrBackend

MIB = 2**20
FILES = 2000
TABLE = Table("core")


@contextmanager
def directory() -> Iterator[Path]:
    """Give a new directory on the disk, and remove it."""
    path = Path(tempfile.mkdtemp(prefix="polystore-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def noise(size: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)


def photograph(size: int) -> Any:
    """Return real image data of about this many bytes: one photograph, many times."""
    image = data.retina()
    return np.concatenate([image] * max(1, size // image.nbytes))


def np_save(array: Any, path: Path) -> None:
    temporary = path.with_name(f"tmp-{path.name}")
    np.save(temporary, array)
    temporary.replace(path)


def large_npy(top: Path) -> None:
    array, disk = noise(256 * MIB), DiskBackend()
    ours, theirs = top / "ours.npy", top / "theirs.npy"
    found = medians(
        {
            "np.save": lambda _: np_save(array, theirs),
            "save": lambda _: disk.save(array, ours, overwrite=True),
        }
    )
    TABLE.add("disk: save .npy, 256 MiB", found["save"], "np.save", found["np.save"], "<= 1.1")
    found = medians({"np.load": lambda _: np.load(theirs), "load": lambda _: disk.load(ours)})
    TABLE.add("disk: load .npy, 256 MiB", found["load"], "np.load", found["np.load"], "<= 1.1")


def region_npy(top: Path) -> None:
    disk, path = DiskBackend(), top / "large.npy"
    disk.save(noise(1024 * MIB).reshape(1024, MIB), path)
    found = medians(
        {"all": lambda _: disk.load(path), "part": lambda i: disk.load(path, region=100 * i)}
    )
    TABLE.add(
        "disk: region of 1 MiB out of 1 GiB", found["part"], "all of it", found["all"], "< 0.02"
    )


def many_npy(top: Path) -> None:
    disk, arrays = DiskBackend(), [noise(1024) for _ in range(FILES)]

    def paths(kind: str, i: int) -> list[Path]:
        folder = top / f"{kind}{i}"
        folder.mkdir(exist_ok=True)
        return [folder / f"{number}.npy" for number in range(FILES)]

    def np_loop(i: int) -> None:
        for array, path in zip(arrays, paths("theirs", i), strict=True):
            np_save(array, path)

    found = medians(
        {
            "np.save": np_loop,
            "save_batch": lambda i: disk.save_batch(arrays, paths("ours", i)),
        }
    )
    TABLE.add(
        "disk: save 2,000 .npy", found["save_batch"], "np.save loop", found["np.save"], "<= 1.2"
    )
    found = medians(
        {
            "np.load": lambda i: [np.load(path) for path in paths("theirs", i)],
            "load_batch": lambda i: disk.load_batch(paths("ours", i)),
        }
    )
    TABLE.add(
        "disk: load 2,000 .npy", found["load_batch"], "np.load loop", found["np.load"], "<= 1.2"
    )


def large_zarr(top: Path) -> None:
    image, ours = photograph(256 * MIB), ZarrBackend()
    ours.save(image, top / "a")
    like: Any = ours.open(top / "a")

    def bare_save(i: int) -> None:
        array = zarr.create_array(
            top / f"bare{i}", shape=image.shape, dtype=image.dtype, chunks=like.chunks
        )
        array[...] = image

    found = medians({"bare": bare_save, "save": lambda i: ours.save(image, top / f"ours{i}")})
    TABLE.add(
        "zarr: save 256 MiB of photographs", found["save"], "bare zarr", found["bare"], "<= 1.1"
    )
    found = medians(
        {
            "bare": lambda i: zarr.open_array(top / f"bare{i}", mode="r")[...],
            "load": lambda i: ours.load(top / f"ours{i}"),
        }
    )
    TABLE.add(
        "zarr: load 256 MiB of photographs", found["load"], "bare zarr", found["bare"], "<= 1.1"
    )


def _load(memory: MemoryBackend, path: str, _: int) -> Any:
    return memory.load(path)


def memory_values() -> None:
    memory, plain = MemoryBackend(), {"/a": noise(1024)}
    work: dict[str, Callable[[int], Any]] = {"dict and view": lambda _: plain["/a"].view()}
    for size in (1024, MIB, 256 * MIB):
        memory.save(noise(size), f"/{size}")
        work[f"load {size}"] = partial(_load, memory, f"/{size}")
    found = medians(work, 2000)
    for name, seconds in found.items():
        TABLE.add(
            f"memory: {name} bytes", seconds, "dict and view", found["dict and view"], "< 10 us"
        )
    array = noise(256 * MIB)
    found = medians(
        {
            "np.copy": lambda _: np.copy(array),
            "save": lambda _: memory.save(array, "/saved", overwrite=True),
        }
    )
    TABLE.add("memory: save 256 MiB", found["save"], "np.copy", found["np.copy"], "<= 1.15")


def filled(directories: int, files: int) -> MemoryBackend:
    memory = MemoryBackend()
    for number in range(directories):
        paths = [f"/d{number}/f{i}" for i in range(files)]
        memory.save_batch([b""] * files, paths, parents=True)
    return memory


def memory_trees() -> None:
    small, large = filled(50, 20), filled(50_000, 20)
    found = medians(
        {"small": lambda _: small.list_dir("/d7"), "large": lambda _: large.list_dir("/d7")}, 2000
    )
    TABLE.add(
        "list 20 names among 1,000,000 files", found["large"], "1,000", found["small"], "<= 1.5"
    )
    wide = filled(1, 100_000)
    wide.ensure_directory("/moved")
    wide.move("/d0", "/moved/0")
    found = medians(
        {
            "list": lambda i: wide.list_dir(f"/moved/{i}"),
            "move": lambda i: wide.move(f"/moved/{i}", f"/moved/{i + 1}"),
        }
    )
    TABLE.add("list_dir of 100,000 names", found["list"], "limit", 0.15, "< 1")
    TABLE.add("move of a tree of 100,000", found["move"], "limit", 0.5, "< 1")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = filled(1, 100_000)
    cost = (tracemalloc.get_traced_memory()[0] - before) / 100_000
    tracemalloc.stop()
    TABLE.add_amount("memory: a stored entry costs beside its value", f"{cost:.0f} bytes", "<= 400")
    kept.close()


def _imported(name: str) -> float:
    """Return the seconds that importing a package takes in a new process."""
    code = (
        f"import time; start = time.perf_counter(); import {name}; "
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def imports() -> None:
    names = ("numpy", "polystore")
    rounds = [[_imported(name) for name in names] for _ in range(ROUNDS)]
    numpy, polystore = (statistics.median(times) for times in zip(*rounds, strict=True))
    TABLE.add("import polystore", polystore, "import numpy", numpy, "< 2")


def main() -> None:
    imports()
    for work in (large_npy, region_npy, many_npy, large_zarr):
        with directory() as top:
            work(top)
    memory_values()
    memory_trees()
    TABLE.write()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
