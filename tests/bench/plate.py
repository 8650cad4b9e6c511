"""Compare five ways to process a plate: wall time, peak memory and lines of code."""

from __future__ import annotations

import argparse
import csv
import hashlib
import inspect
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import tifffile
import zarr
from measuring import Peak, start_ray, write_table
from memory import redis_server
from plate_ways import CHANNELS, SIDE, WAYS, Way, segment
from skimage import data

MIB = 2**20
WELLS = [f"{row}{column:02}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
ROUNDS = 1


def lines_of(way: Way) -> int:
    """Return the lines of a function's body, without empty ones."""
    _, *body = textwrap.dedent(inspect.getsource(way)).splitlines()
    return sum(bool(line.strip()) for line in body)


def make_plate(folder: Path, wells: list[str]) -> Any:
    """Write parts of photographs in uneven light, a TIFF file for each well; return the light."""
    photographs = [np.asarray(image) for image in (data.camera(), data.coins(), data.moon())]
    photographs += list(np.moveaxis(data.immunohistochemistry(), -1, 0))
    photographs += list(np.moveaxis(data.retina()[200:1200, 200:1200], -1, 0))
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    light = np.exp(-(x**2 + y**2) / 3).astype(np.float32)
    flat = np.stack([light] * CHANNELS)
    for number, well in enumerate(wells):
        parts = []
        for channel in range(CHANNELS):
            image = photographs[(number + channel) % len(photographs)]
            top, left = (int(random.integers(0, side - SIDE + 1)) for side in image.shape)
            parts.append(image[top : top + SIDE, left : left + SIDE])
        raw = (np.stack(parts) * flat * 64).astype(np.uint16)
        tifffile.imwrite(folder / f"{well}.tif", raw, photometric="minisblack")
    return flat


def memory() -> Peak:
    """Return what watches the memory of this process and its children, shared memory once."""
    before = _taken()
    return Peak(lambda: _taken() - before, every=0.2)


def _taken() -> int:
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024


@dataclass(frozen=True)
class Run:
    """What one run of one way took."""

    seconds: float
    memory: int
    digest: str


def run(way: Way, plate: Path, flat: Any, wells: int) -> Run:
    """Run one way in a Ray of its own, and look at what it saved."""
    start_ray(2048 * MIB)
    out = Path(tempfile.mkdtemp(prefix="polystore-plate-"))
    try:
        ray.get([_warm.remote() for _ in range(8)])
        with memory() as peak:
            start = time.perf_counter()
            way(plate, flat, out)
            seconds = time.perf_counter() - start
        labels = zarr.open_array(out / "labels", mode="r")
        assert labels.shape == (wells, CHANNELS, SIDE, SIDE), labels.shape
        digest = hashlib.sha256(np.asarray(labels[:]).tobytes())
        with (out / "table.csv").open(encoding="utf-8", newline="") as table:
            digest.update(repr([*csv.reader(table)]).encode())
        return Run(seconds, peak.most, digest.hexdigest())
    finally:
        shutil.rmtree(out)
        ray.shutdown()


@ray.remote
def _warm() -> None:
    """Import what the tasks need, so that no way pays for it."""
    import polystore_ray  # noqa: F401

    segment(np.zeros((1, 64, 64), np.uint16))
    time.sleep(0.2)  # so that each worker runs one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wells", type=int, default=len(WELLS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    wells = WELLS[: options.wells]
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    plate = Path(tempfile.mkdtemp(prefix="polystore-plate-"))
    try:
        flat = make_plate(plate, wells)
        with redis_server() as server:
            for _ in range(options.rounds):
                for name, way in WAYS.items():
                    if name != "Redis" or server is not None:
                        runs[name].append(run(way, plate, flat, len(wells)))
    finally:
        shutil.rmtree(plate)
    assert len({each.digest for found in runs.values() for each in found}) == 1, "results differ"
    rows = []
    for name, found in runs.items():
        if found:
            seconds = statistics.median(each.seconds for each in found)
            memory = statistics.median(each.memory for each in found)
            rows.append((name, f"{seconds:.1f} s", f"{memory / MIB:.0f} MiB", lines_of(WAYS[name])))
    header = ("between the steps", "wall time", "peak memory", "lines of code")
    note = f"the median of {options.rounds}, in turn" if options.rounds > 1 else "one run"
    if len(wells) == len(WELLS):
        write_table("plate", header, rows, each=note)
    for row in rows:
        sys.stdout.write("\t".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
