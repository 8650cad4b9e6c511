"""Measure values that come and go: a plate that streams through a small memory, and recipes."""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import Peak, Table, start_ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from skimage import data, filters, measure

from polystore import FileManager
from polystore_ray import Input, RayBackendRegistry

MIB = 2**20
SIDE = 1024
WELLS = [f"{row}{column:02}" for row in "ABCDEFGH" for column in range(1, 13)]
IMAGE = SIDE * SIDE * 2  # bytes; the labels take as many
DATA = 2 * IMAGE * len(WELLS)
ROUNDS = 7
LOST = 1000

TABLE = Table("streaming", ROUNDS)


def make_plate(folder: Path) -> None:
    """Write parts of photographs, a file for each well."""
    photographs = [np.asarray(image) for image in (data.camera(), data.coins(), data.moon())]
    random = np.random.default_rng(0)
    for number, well in enumerate(WELLS):
        image = np.resize(photographs[number % 3], (SIDE, SIDE)).astype(np.uint16)
        np.save(folder / f"{well}.npy", image + random.integers(0, 4, dtype=np.uint16))


def segment(image: Any) -> Any:
    """Number the bright objects."""
    smooth = filters.gaussian(image.astype(np.float32), 2)
    return measure.label(smooth > filters.threshold_otsu(smooth)).astype(np.uint16)


@ray.remote(num_cpus=0)
def acquire(fm: FileManager, folder: Path) -> None:
    """Save each image as it arrives; its file is its fallback."""
    for well in WELLS:
        file = folder / f"{well}.npy"
        image = fm.load(file, backend="disk")
        where = f"/arrived/{well}"
        fm.save(image, where, backend="memory", evictable=True, fallback=("disk", file))


@ray.remote(num_cpus=1)
def segment_all(fm: FileManager) -> None:
    """Segment what arrives, until nothing does for a while."""
    memory = fm.registry["memory"]
    while claim := memory.claim("/arrived/*", wait=2.0):
        name = claim.path.rpartition("/")[2]
        labels = segment(memory.load(claim.path))
        raw = f"/raw/{name}"
        claim.done(to=raw)
        recipe = segment, (Input(raw),)
        memory.save(labels, f"/labels/{name}", evictable=True, recipe=recipe)


@ray.remote(num_cpus=0)
def measure_all(fm: FileManager) -> dict[str, int]:
    """Count the objects of each well."""
    memory = fm.registry["memory"]
    counts: dict[str, int] = {}
    while len(counts) < len(WELLS):
        claim = memory.claim("/labels/*", wait=60.0)
        well = claim.path.rpartition("/")[2]
        counts[well] = int(memory.load(claim.path).max())
        claim.done(to=f"/measured/{well}")
    return counts


def stream(folder: Path, max_bytes: int, number: int) -> tuple[float, dict[str, int], int, int]:
    """Return the seconds, the table, the most bytes and the evictions of one run."""
    registry = RayBackendRegistry(f"stream{number}", max_bytes=max_bytes, eviction="lru")
    fm, memory = FileManager(registry), registry["memory"]
    for directory in ("arrived", "raw", "labels", "measured"):
        memory.ensure_directory(f"/{directory}")
    start = time.perf_counter()
    with Peak(lambda: registry.status().bytes, every=0.05) as peak:
        stages = [acquire.remote(fm, folder), segment_all.remote(fm), segment_all.remote(fm)]
        counts = ray.get(measure_all.remote(fm))
        took = time.perf_counter() - start
        ray.get(stages)
    evictions = registry.status().evictions
    registry.shutdown()
    return took, counts, peak.most, evictions


def compare(folder: Path) -> None:
    """Run with enough memory and with a third of it, in turn."""
    sizes = {"enough": 2 * DATA, "a third": DATA // 3}
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    most, evictions = 0, 0
    wanted = {well: int(segment(np.load(folder / f"{well}.npy")).max()) for well in WELLS}
    for number in range(ROUNDS + 1):  # the first starts the workers
        for name, max_bytes in sizes.items():
            took, counts, peak, evicted = stream(folder, max_bytes, 2 * number + len(name) % 2)
            assert counts == wanted, "the table differs"
            if number:
                seconds[name].append(took)
            if name == "a third":
                most, evictions = max(most, peak), evicted
                assert peak <= max_bytes, f"{peak} bytes are more than {max_bytes}"
    enough, third = (statistics.median(each) for each in seconds.values())
    work = f"a plate of {DATA // MIB} MiB streams through {DATA // 3 // MIB} MiB"
    TABLE.add(work, third, "through enough", enough, "<= 1.3")
    TABLE.add_amount("  the most bytes that the store held", f"{most // MIB} MiB", "<= max_bytes")
    TABLE.add_amount("  values that were evicted in the last run", f"{evictions}")


def made(number: int, log: str) -> Any:
    """Return a value of 1 MiB, and note that it was made."""
    with (Path(log) / str(number)).open("a") as file:
        file.write(".")
    return np.full(MIB, number % 251, np.uint8)


def save_all(registry: RayBackendRegistry, log: str) -> None:
    memory = registry["memory"]
    for number in range(LOST):
        value = np.full(MIB, number % 251, np.uint8)
        memory.save(value, f"/{number}", recipe=(made, (number, log)))


def remake(log: Path) -> None:
    """Lose a node with 1,000 values, and load them."""
    size: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 1536 * MIB}
    soon = {"health_check_period_ms": 500}
    head = {**size, "include_dashboard": False, "_system_config": soon}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        late = cluster.add_node(**size)
        cluster.wait_for_nodes()
        registry = RayBackendRegistry("lost", lifetime="detached")
        registry["memory"].exists("/")
        there = NodeAffinitySchedulingStrategy(late.node_id, soft=False)
        saving: Any = ray.remote(num_cpus=0, max_calls=1)(save_all)
        ray.get(saving.options(scheduling_strategy=there).remote(registry, str(log)))
        cluster.remove_node(late, allow_graceful=False)
        while registry.status().lost < LOST:
            time.sleep(0.5)
        start = time.perf_counter()
        values = registry["memory"].load_batch([f"/{number}" for number in range(LOST)])
        took = time.perf_counter() - start
        assert all((value == number % 251).all() for number, value in enumerate(values))
        once = sum(file.read_text() == "." for file in log.iterdir())
        TABLE.add_amount(
            f"{LOST:,} values of 1 MiB, lost with a node, come back in", f"{took:.1f} s"
        )
        TABLE.add_amount("  of them made once", f"{once}", "all")
        del values
        registry.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="polystore-stream-"))
    try:
        make_plate(folder)
        start_ray(1024 * MIB)
        compare(folder)
        ray.shutdown()
        log = folder / "made"
        log.mkdir()
        remake(log)
    finally:
        shutil.rmtree(folder)
    TABLE.write()


if __name__ == "__main__":
    main()
