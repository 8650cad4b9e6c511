"""Zarr hierarchies of independent writers, and what each writer meant by their arrays.

Run as a program, it writes them into a folder: ``python tests/corpus/hierarchies.py FOLDER``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from writers import Writer
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)

__all__ = ["HIERARCHIES", "Hierarchy"]

Arrays = dict[str, np.ndarray[Any, Any]]

RNG = np.random.default_rng(3)
FLOATS = RNG.normal(size=(13, 9))
WHOLE = RNG.integers(-9, 9, (13, 9)).astype("i4")
RECORDS = np.array([(1, 0.5), (2, -1.5)], [("a", "<i4"), ("b", "<f8")])
FILLS = {"nan": np.nan, "inf": np.inf, "minus-inf": -np.inf, "zero": 0, "odd": 7.5}


@dataclass(frozen=True)
class Hierarchy(Writer):
    """What a package writes as a zarr hierarchy, and how it reads one.

    Parameters
    ----------
    write : callable
        Writes one at a path; returns the arrays in it as they were meant.
    read : callable
        Returns all that the package finds at a path, by names.
    """

    write: Callable[[Path], Arrays]  # type: ignore[assignment]
    read: Callable[[Path], dict[str, Any]]


def by_zarr(zarr_format: Any, arrays: dict[str, dict[str, Any]]) -> Callable[[Path], Arrays]:
    """Return what writes arrays with options of zarr-python, and a group in the group."""

    def write(place: Path) -> Arrays:
        group = zarr.create_group(zarr.storage.LocalStore(place), zarr_format=zarr_format)
        meant: Arrays = {}
        for name, given in arrays.items():
            options = dict(given)
            meant[name] = values = options.pop("values", FLOATS)
            chunks = tuple(max(1, -(-side // 3)) for side in values.shape)
            options = {"chunks": chunks, "fill_value": None, **options}
            array = group.create_array(name, shape=values.shape, dtype=values.dtype, **options)
            array[...] = values
            array.attrs["unit"] = "µm"
        inner = group.create_group("deep/er", attributes={"k": [1, {"x": 1.5}], "name": "ä"})
        inner.create_array("in", shape=(4,), chunks=(3,), dtype="u2", fill_value=5)
        group.attrs["top"] = [None, True]
        zarr.consolidate_metadata(group.store, zarr_format=zarr_format)
        return meant | {"deep/er/in": np.full(4, 5, "u2")}

    return write


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"values": WHOLE},
    "bool": {"values": WHOLE > 0},
    "complex": {"values": FLOATS + 1j * FLOATS, "fill_value": complex(np.nan, 1)},
    "half": {"values": FLOATS.astype("f2")},
    "scalar": {"values": np.array(3.5)},
    "empty": {"values": np.zeros((0, 3), "i2")},
    "line": {"values": np.arange(7), "chunks": (3,)},
    "records": {"values": RECORDS},
    "times": {"values": np.arange(7).astype("M8[s]")},
    "texts": {"values": np.array(["abc", "ü", ""])},
    "bytes": {"values": np.array([b"abc", b"d", b""])},
}
FILLED: dict[str, dict[str, Any]] = {
    f"fill-{name}": {"values": np.where(FLOATS > 0, value, FLOATS), "fill_value": value}
    for name, value in FILLS.items()
}
OF_FORMAT_2: dict[str, dict[str, Any]] = {
    **KINDS,
    **FILLED,
    "fortran": {"order": "F"},
    "nested": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "dotted": {"chunk_key_encoding": {"name": "v2", "separator": "."}, "order": "F"},
    "delta": {"values": WHOLE, "filters": [numcodecs.Delta("i4")]},
    "scaled": {
        "values": np.round(FLOATS, 2),
        "filters": [numcodecs.FixedScaleOffset(0, 100, "f8", "i4")],
    },
    "shuffled": {"filters": [numcodecs.Shuffle(8)], "compressors": numcodecs.Zlib(3)},
    "stored": {"compressors": None},
    "blosc": {"compressors": numcodecs.Blosc("lz4")},
    "lzma": {"compressors": numcodecs.LZMA()},
    "big-endian": {"values": WHOLE.astype(">i4"), "fill_value": -1},
}
OF_FORMAT_3: dict[str, dict[str, Any]] = {
    **KINDS,
    **FILLED,
    "named": {"dimension_names": ["y", None]},
    "sharded": {"values": FLOATS[:12], "chunks": (2, 3), "shards": (6, 9)},
    "index-first": {
        "values": FLOATS[:12],
        "chunks": (2, 3),
        "shards": {"shape": (6, 9), "index_location": "start"},
        "compressors": [BloscCodec(cname="zstd")],
    },
    "turned": {"filters": [TransposeCodec(order=(1, 0))], "compressors": [GzipCodec(level=2)]},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "checked": {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    "old-keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "dotted-keys": {"chunk_key_encoding": {"name": "default", "separator": "."}},
}


def read_by_zarr(place: Path) -> dict[str, Any]:
    """Return all arrays as zarr finds them, by consolidated metadata where there are some."""
    members = zarr.open_group(place, mode="r").members(max_depth=None)
    return {name: np.asarray(node[...]) for name, node in members if isinstance(node, zarr.Array)}


def by_xarray(zarr_format: Any, *, consolidated: bool) -> Callable[[Path], Arrays]:
    def write(place: Path) -> Arrays:
        import pandas as pd
        import xarray as xr

        data = {
            "t": (("time", "y", "x"), RNG.normal(size=(4, 5, 6)), {"units": "K"}),
            "packed": (("y", "x"), np.round(RNG.normal(size=(5, 6)), 1)),
            "missing": (("x",), np.array([1.0, np.nan, 3, 4, 5, 6])),
            "number": (("x",), np.arange(6)),
            "mask": (("x",), np.arange(6) > 2),
            "label": (("x",), list("abcdef")),
        }
        axes = {"time": pd.date_range("2020-01-01", periods=4), "x": np.arange(6) * 0.5}
        packing = {"packed": {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -99}}
        xr.Dataset(data, axes, {"title": "ü"}).to_zarr(
            place, zarr_format=zarr_format, consolidated=consolidated, encoding=packing
        )
        return read_by_zarr(place)

    return write


def read_by_xarray(place: Path) -> dict[str, Any]:
    import xarray as xr

    return {str(name): found.values for name, found in xr.open_zarr(place).variables.items()}


def by_anndata(zarr_format: Any) -> Callable[[Path], Arrays]:
    def write(place: Path) -> Arrays:
        import pandas as pd

        anndata: Any = importlib.import_module("anndata")
        sparse: Any = importlib.import_module("scipy.sparse")
        anndata.settings.zarr_write_format = zarr_format
        cells = pd.DataFrame(
            {"kind": pd.Categorical(list("aabbccdd")), "n": np.arange(8), "s": list("12345678")},
            index=[f"c{i}" for i in range(8)],
        )
        genes = pd.DataFrame(index=[f"g{i}" for i in range(5)])
        data = anndata.AnnData(RNG.random((8, 5)).astype("f4"), obs=cells, var=genes)
        data.obsm["pca"] = RNG.random((8, 2))
        data.layers["counts"] = sparse.csr_matrix((data.X > 0.5).astype("i4"))
        data.uns["d"] = {"x": 1, "y": "text", "array": np.arange(3), "f": 2.5}
        data.write_zarr(place)
        zarr.consolidate_metadata(zarr.storage.LocalStore(place))
        return read_by_zarr(place)

    return write


def read_by_anndata(place: Path) -> dict[str, Any]:
    data: Any = importlib.import_module("anndata").read_zarr(place)
    return {
        "X": np.asarray(data.X),
        "obsm/pca": data.obsm["pca"],
        "obs/n": data.obs["n"].to_numpy(),
        "uns/d/array": data.uns["d"]["array"],
        "kinds": data.obs["kind"].astype(str).to_numpy(),
        "counts": data.layers["counts"].toarray(),
    }


def by_ome_zarr(version: str) -> Callable[[Path], Arrays]:
    def write(place: Path) -> Arrays:
        writer: Any = importlib.import_module("ome_zarr.writer")
        formats: Any = importlib.import_module("ome_zarr.format")
        chosen = {"0.4": formats.FormatV04, "0.5": formats.FormatV05}[version]()
        image = RNG.integers(0, 4000, (2, 64, 64)).astype("u2")
        store = zarr.storage.LocalStore(place)
        group = zarr.create_group(store, zarr_format=2 if version == "0.4" else 3)
        writer.write_image(image, group, axes="cyx", fmt=chosen)
        labels = (image[0] > 2000).astype("u1")
        writer.write_labels(labels, group, name="nuclei", axes="yx", fmt=chosen)
        return read_by_zarr(place)

    return write


def read_by_ome_zarr(place: Path) -> dict[str, Any]:
    io: Any = importlib.import_module("ome_zarr.io")
    reader: Any = importlib.import_module("ome_zarr.reader")
    nodes = list(reader.Reader(io.parse_url(str(place)))())
    return {
        f"{n}/{i}": np.asarray(x) for n, node in enumerate(nodes) for i, x in enumerate(node.data)
    }


def by_tensorstore(driver: str, arrays: dict[str, dict[str, Any]]) -> Callable[[Path], Arrays]:
    def write(place: Path) -> Arrays:
        meant: Arrays = {}
        for name, given in arrays.items():
            metadata = dict(given)
            meant[name] = values = metadata.pop("values", FLOATS)
            if driver == "zarr":
                metadata["dtype"] = values.dtype.str
            else:
                metadata["data_type"] = values.dtype.name
            opened = _tensorstore(driver, place / name, metadata, values.shape)
            opened.write(values).result()
        return meant

    return write


def read_by_tensorstore(driver: str) -> Callable[[Path], dict[str, Any]]:
    def read(place: Path) -> dict[str, Any]:
        name = ".zarray" if driver == "zarr" else "zarr.json"
        found = [path for path in place.rglob(name) if "shape" in json.loads(path.read_text())]
        return {
            path.parent.relative_to(place).as_posix(): _tensorstore(driver, path.parent)
            .read()
            .result()
            for path in found
        }

    return read


def _tensorstore(driver: str, place: Path, metadata: Any = None, shape: Any = None) -> Any:
    spec: dict[str, Any] = {"driver": driver, "kvstore": {"driver": "file", "path": str(place)}}
    options = {} if metadata is None else {"create": True, "shape": shape}
    if metadata is not None:
        spec["metadata"] = metadata
    return importlib.import_module("tensorstore").open(spec, **options).result()


TENSORSTORE_2: dict[str, dict[str, Any]] = {
    "plain": {"values": WHOLE, "chunks": [5, 4]},
    "fortran": {"chunks": [5, 4], "order": "F", "dimension_separator": "/", "fill_value": "NaN"},
    "stored": {"values": FLOATS.astype("f4"), "chunks": [13, 9], "compressor": None},
}
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD = {"name": "zstd", "configuration": {"level": 2}}
_SHARDS = {"chunk_shape": [2, 3], "codecs": [_BYTES, _ZSTD]}
TENSORSTORE_3: dict[str, dict[str, Any]] = {
    "plain": {"values": WHOLE, "dimension_names": ["y", "x"]},
    "sharded": {
        "values": FLOATS[:12],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 9]}},
        "codecs": [{"name": "sharding_indexed", "configuration": _SHARDS}],
        "fill_value": "NaN",
    },
    "turned": {
        "codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, _BYTES, _ZSTD]
    },
}

HIERARCHIES = [
    Hierarchy("zarr-2", "zarr", by_zarr(2, OF_FORMAT_2), read_by_zarr),
    Hierarchy("zarr-3", "zarr", by_zarr(3, OF_FORMAT_3), read_by_zarr),
    *(
        Hierarchy(
            f"xarray-{number}{'' if consolidated else '-plain'}",
            "xarray",
            by_xarray(number, consolidated=consolidated),
            read_by_xarray,
        )
        for number in (2, 3)
        for consolidated in (True, False)
    ),
    Hierarchy("anndata-2", "anndata", by_anndata(2), read_by_anndata),
    Hierarchy("anndata-3", "anndata", by_anndata(3), read_by_anndata),
    Hierarchy("ome-zarr-0.4", "ome_zarr", by_ome_zarr("0.4"), read_by_ome_zarr),
    Hierarchy("ome-zarr-0.5", "ome_zarr", by_ome_zarr("0.5"), read_by_ome_zarr),
    Hierarchy(
        "tensorstore-2",
        "tensorstore",
        by_tensorstore("zarr", TENSORSTORE_2),
        read_by_tensorstore("zarr"),
    ),
    Hierarchy(
        "tensorstore-3",
        "tensorstore",
        by_tensorstore("zarr3", TENSORSTORE_3),
        read_by_tensorstore("zarr3"),
    ),
]

if __name__ == "__main__":
    for hierarchy in HIERARCHIES:
        if hierarchy.is_installed():
            arrays = hierarchy.write(Path(sys.argv[1]) / f"{hierarchy.name}.zarr")
            sys.stdout.write(f"{hierarchy.name}: {len(arrays)} arrays\n")
