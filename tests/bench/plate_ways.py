"""Process a plate in five ways, which differ in where the values between the steps are.

Each way reads the plate, corrects, segments and measures it in tasks that may run on any node, and
saves the labels and a table.
"""

from __future__ import annotations

import csv
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import tifffile
import zarr
from memory import REDIS
from skimage import filters, measure, morphology

from polystore import FileManager
from polystore_ray import RayBackendRegistry

CHANNELS = 4
SIDE = 256  # pixels
SOCKET = str(REDIS)
Table = list[dict[str, Any]]
Way = Callable[[Path, Any, Path], None]
"""Gets the directory of the plate, the light of each place, and the directory for the results."""


# What every way has: functions of one well, an array (channel, y, x)


def correct(image: Any, flat: Any) -> Any:
    """Divide by the light of each place."""
    return (image / flat).clip(0, 65535).astype(np.uint16)


def segment(image: Any) -> Any:
    """Number the bright objects of each channel."""
    return np.stack([_objects(channel) for channel in image])


def _objects(channel: Any) -> Any:
    smooth = filters.gaussian(channel.astype(np.float32), 2)
    mask = morphology.remove_small_objects(smooth > filters.threshold_otsu(smooth), max_size=30)
    return measure.label(mask).astype(np.uint16)


def table_of(well: str, image: Any, labels: Any) -> Table:
    """Return a row for each channel of a well."""
    return [
        {
            "well": well,
            "channel": number,
            "objects": int(found.max()),
            "mean": round(float(channel[found > 0].mean()), 2) if found.any() else 0.0,
        }
        for number, (channel, found) in enumerate(zip(image, labels, strict=True))
    ]


def write_csv(tables: list[Table], path: Path) -> None:
    """Write the tables of all wells into one file, as code without a library does."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, tables[0][0])
        writer.writeheader()
        for table in tables:
            writer.writerows(table)


def create_labels(path: Path, wells: int) -> Any:
    """Create the array of the results, as code without a library does."""
    shape = (wells, CHANNELS, SIDE, SIDE)
    return zarr.create_array(path, shape=shape, chunks=(1, *shape[1:]), dtype=np.uint16)


# The five ways


def polystore(plate: Path, flat: Any, out: Path) -> None:
    fm = FileManager(RayBackendRegistry("plate"))
    fm.copy(plate, "/raw", "disk", to_backend="memory")
    fm.map(partial(correct, flat=flat), "/raw", "memory", to="/corrected")
    fm.map(segment, "/corrected", "memory", to="/labels")
    names = fm.list_dir("/labels", "memory")

    @ray.remote
    def measured(name: str) -> Table:
        image, labels = fm.load_batch([f"/corrected/{name}", f"/labels/{name}"], "memory")
        return table_of(name.removesuffix(".tif"), image, labels)

    tables = ray.get([measured.remote(name) for name in names])
    labels = [f"/labels/{name}" for name in names]
    fm.stack(labels, out / "labels", "memory", to_backend="zarr", chunks=(1, CHANNELS, SIDE, SIDE))
    fm.save([row for table in tables for row in table], out / "table.csv", "disk")


def ray_references(plate: Path, flat: Any, out: Path) -> None:
    files = sorted(plate.iterdir())
    flat = ray.put(flat)
    raw = [ray.remote(tifffile.imread).remote(file) for file in files]
    corrected = [ray.remote(correct).remote(image, flat) for image in raw]
    labels = [ray.remote(segment).remote(image) for image in corrected]
    tables = [
        ray.remote(table_of).remote(file.stem, image, found)
        for file, image, found in zip(files, corrected, labels, strict=True)
    ]
    array = create_labels(out / "labels", len(files))

    @ray.remote
    def write(number: int, found: Any) -> None:
        array[number] = found

    ray.get([write.remote(number, found) for number, found in enumerate(labels)])
    write_csv(ray.get(tables), out / "table.csv")


def folder_of_npy(plate: Path, flat: Any, out: Path) -> None:
    folder = out / "between"
    for name in ("raw", "corrected", "labels"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "flat.npy", flat)
    wells = sorted(file.stem for file in plate.iterdir())
    array = create_labels(out / "labels", len(wells))

    @ray.remote
    def load(well: str) -> None:
        np.save(folder / "raw" / f"{well}.npy", tifffile.imread(plate / f"{well}.tif"))

    @ray.remote
    def corrected(well: str) -> None:
        image = np.load(folder / "raw" / f"{well}.npy")
        result = correct(image, np.load(folder / "flat.npy"))
        np.save(folder / "corrected" / f"{well}.npy", result)

    @ray.remote
    def segmented(well: str) -> None:
        image = np.load(folder / "corrected" / f"{well}.npy")
        np.save(folder / "labels" / f"{well}.npy", segment(image))

    @ray.remote
    def measured(number: int, well: str) -> Table:
        image = np.load(folder / "corrected" / f"{well}.npy")
        labels = np.load(folder / "labels" / f"{well}.npy")
        array[number] = labels
        return table_of(well, image, labels)

    for step in (load, corrected, segmented):
        ray.get([step.remote(well) for well in wells])
    tables = ray.get([measured.remote(number, well) for number, well in enumerate(wells)])
    write_csv(tables, out / "table.csv")
    shutil.rmtree(folder)


def redis(plate: Path, flat: Any, out: Path) -> None:
    from redis import Redis

    def put(key: str, value: Any) -> None:
        Redis(unix_socket_path=SOCKET).set(key, pickle.dumps(value, protocol=5))

    def get(key: str) -> Any:
        found: Any = Redis(unix_socket_path=SOCKET).get(key)
        return pickle.loads(found)

    put("flat", flat)
    wells = sorted(file.stem for file in plate.iterdir())
    array = create_labels(out / "labels", len(wells))

    @ray.remote
    def load(well: str) -> None:
        put(f"raw:{well}", tifffile.imread(plate / f"{well}.tif"))

    @ray.remote
    def corrected(well: str) -> None:
        put(f"corrected:{well}", correct(get(f"raw:{well}"), get("flat")))

    @ray.remote
    def segmented(well: str) -> None:
        put(f"labels:{well}", segment(get(f"corrected:{well}")))

    @ray.remote
    def measured(number: int, well: str) -> Table:
        labels = get(f"labels:{well}")
        array[number] = labels
        return table_of(well, get(f"corrected:{well}"), labels)

    for step in (load, corrected, segmented):
        ray.get([step.remote(well) for well in wells])
    tables = ray.get([measured.remote(number, well) for number, well in enumerate(wells)])
    write_csv(tables, out / "table.csv")
    Redis(unix_socket_path=SOCKET).flushall()


def dict_in_an_actor(plate: Path, flat: Any, out: Path) -> None:
    @ray.remote(num_cpus=0)
    class Values:
        def __init__(self) -> None:
            self.values: dict[str, Any] = {}

        def put(self, key: str, value: Any) -> None:
            self.values[key] = value

        def get(self, key: str) -> Any:
            return self.values[key]

    values = Values.remote()  # type: ignore[attr-defined] # which the decorator adds

    def put(key: str, value: Any) -> None:
        ray.get(values.put.remote(key, value))

    def get(key: str) -> Any:
        return ray.get(values.get.remote(key))

    put("flat", flat)
    wells = sorted(file.stem for file in plate.iterdir())
    array = create_labels(out / "labels", len(wells))

    @ray.remote
    def load(well: str) -> None:
        put(f"raw:{well}", tifffile.imread(plate / f"{well}.tif"))

    @ray.remote
    def corrected(well: str) -> None:
        put(f"corrected:{well}", correct(get(f"raw:{well}"), get("flat")))

    @ray.remote
    def segmented(well: str) -> None:
        put(f"labels:{well}", segment(get(f"corrected:{well}")))

    @ray.remote
    def measured(number: int, well: str) -> Table:
        labels = get(f"labels:{well}")
        array[number] = labels
        return table_of(well, get(f"corrected:{well}"), labels)

    for step in (load, corrected, segmented):
        ray.get([step.remote(well) for well in wells])
    tables = ray.get([measured.remote(number, well) for number, well in enumerate(wells)])
    write_csv(tables, out / "table.csv")
    ray.kill(values)


WAYS: dict[str, Way] = {
    "this store": polystore,
    "Ray references": ray_references,
    "a folder of .npy": folder_of_npy,
    "Redis": redis,
    "a dict in an actor": dict_in_an_actor,
}
