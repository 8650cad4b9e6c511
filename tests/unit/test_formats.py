"""Contract lines 17, 19 and 20: what files hold, and what damage does."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    CorruptDataError,
    DiskBackend,
    ImageLoadError,
    ImageSaveError,
    StorageError,
    UnsupportedFormatError,
)
from polystore.formats import npy_array, npy_size
from polystore.zarr.local.tree import LocalZarr

RNG = np.random.default_rng(0)


def pixels(*shape: int, dtype: Any = np.uint8) -> Any:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


ROUND_TRIPS: list[tuple[str, Any]] = [
    ("a.npy", np.asfortranarray(RNG.random((3, 4)))),
    ("a.npy", np.array(2.5)),
    ("a.npy", np.zeros(3, [("x", "i4"), ("when", "M8[s]")])),
    ("a.npz", {"image": pixels(3, 4), "file": np.arange(2)}),
    ("a.json", {"é": [1, 2.5, None, True, {"nested": []}]}),
    ("a.csv", [{"well": "007", "n": 3, "mean": 1.5, "ok": True, "none": None, "t": 'a,"b"\n'}]),
    ("a.csv", [{"name": "12", "other": ""}, {"name": "True", "other": "nan"}]),
    ("a.csv", [["a", 1], ["b", 0.1 + 0.2]]),
    ("a.csv", []),
    ("a.txt", "Zürich\r\n日本\n"),
    ("a.bin", b"\x00\xff"),
    ("A.TIF", pixels(5, 6)),
    ("a.tiff", pixels(5, 6, 3)),
    ("a.ome.tif", pixels(2, 5, 6, dtype=np.uint16)),
    ("a.tif", RNG.random((4, 5), dtype=np.float32)),
    ("a.tif", RNG.random((1, 5, 1))),
    ("a.png", pixels(5, 6)),
    ("a.png", pixels(5, 6, 4)),
    ("a.png", pixels(5, 6, dtype=np.uint16)),
    ("a.png", pixels(5, 6) > 128),
    ("a.jpg", np.full((8, 8, 3), 100, np.uint8)),
]


@pytest.fixture
def disk(tmp_path: Path) -> DiskBackend:
    return DiskBackend(tmp_path)


@pytest.mark.parametrize(("name", "value"), ROUND_TRIPS)
def test_a_value_comes_back_as_it_was(disk: DiskBackend, name: str, value: Any) -> None:
    disk.save(value, name)
    loaded = disk.load(name)
    assert type(loaded) is type(value)
    if isinstance(value, dict) and name.endswith("npz"):
        assert {key: array.tolist() for key, array in loaded.items()} == {
            key: array.tolist() for key, array in value.items()
        }
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(loaded, value)
        assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
    else:
        assert loaded == value
        assert repr(loaded) == repr(value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("a.npy", np.array([{}], dtype=object), UnsupportedFormatError),
        ("a.npy", [1, 2], UnsupportedFormatError),
        ("a.npz", {"a": np.array([None])}, UnsupportedFormatError),
        ("a.json", {1, 2}, UnsupportedFormatError),
        ("a.csv", [{"a": 1}, {"b": 2}], UnsupportedFormatError),
        ("a.csv", [{"a": [1]}], UnsupportedFormatError),
        ("a.csv", [["1", "2"]], UnsupportedFormatError),
        ("a.txt", b"bytes", UnsupportedFormatError),
        ("a.bin", "text", UnsupportedFormatError),
        ("a.png", RNG.random((3, 3)), ImageSaveError),
        ("a.png", pixels(3, 3, 7), ImageSaveError),
        ("a.jpg", pixels(3, 3, dtype=np.uint16), ImageSaveError),
        ("a.tif", np.empty((0, 3)), ImageSaveError),
        ("a.tif", np.array(["text"]), ImageSaveError),
        ("a.unknown", b"", UnsupportedFormatError),
        ("suffixless", b"", UnsupportedFormatError),
    ],
)
def test_what_would_not_come_back_is_refused_and_leaves_nothing(
    disk: DiskBackend, tmp_path: Path, name: str, value: Any, error: type[StorageError]
) -> None:
    with pytest.raises(error) as caught:
        disk.save(value, name)
    assert f"'{name}' (backend disk)" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_unknown_suffix_names_the_known_ones(disk: DiskBackend) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"\.csv.*\.npy.*\.tif"):
        disk.save(1, "a.xyz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.json", "a.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("keep", [0, 5, 0.6])
def test_a_truncated_file_is_corrupt_and_named(
    disk: DiskBackend, tmp_path: Path, name: str, keep: float
) -> None:
    value = {"a": np.arange(99)} if name == "a.npz" else pixels(64, 64)
    disk.save([1] * 99 if name == "a.json" else value, name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(CorruptDataError, match=rf"'{name}' \(backend disk\)") as caught:
        disk.load(name)
    assert isinstance(caught.value, ImageLoadError) == (name[1:] in (".tif", ".png", ".jpg"))


def test_a_header_that_claims_more_than_there_is_takes_no_memory(
    disk: DiskBackend, tmp_path: Path
) -> None:
    disk.save(np.arange(3), "a.npy")
    data = (tmp_path / "a.npy").read_bytes().replace(b"(3,), ", b"(9999999999999,), ", 1)
    (tmp_path / "a.npy").write_bytes(data)
    for region in (None, (0,)):
        with pytest.raises(CorruptDataError):
            disk.load("a.npy", region=region)


def test_pickles_in_files_are_never_loaded(disk: DiskBackend, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1]))
    (tmp_path / "c.npz").write_bytes(pickle.dumps([1]))
    for name in ("a.npy", "b.npy", "c.npz"):
        with pytest.raises(CorruptDataError):
            disk.load(name)


def test_a_csv_of_others_keeps_codes_that_look_like_numbers(
    disk: DiskBackend, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("\ufeffwell,code,n\nA01,007,3\nA02,1e3,\n", encoding="utf-8")
    assert disk.load("a.csv") == [["well", "code", "n"], ["A01", "007", 3], ["A02", "1e3", None]]


def test_stat_tells_shape_and_dtype_from_the_header(disk: DiskBackend) -> None:
    disk.save(np.zeros((2, 3), np.uint8), "a.npy")
    facts = disk.stat("a.npy")
    assert (facts["shape"], facts["dtype"], facts["size"]) == ((2, 3), "uint8", 134)


def test_the_suffix_can_be_another_than_the_paths(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    disk.save(b"no format has this suffix", "/a.parquet", suffix=".bin")
    assert disk.load("/a.parquet", suffix=".BIN") == b"no format has this suffix"
    disk.save(np.arange(3), "/b.npy")
    assert disk.load("/b.npy", suffix=".bin") == (tmp_path / "b.npy").read_bytes()
    with pytest.raises(UnsupportedFormatError):
        disk.load("/b.npy", suffix=".parquet")


def test_an_array_of_zarr_is_no_file(tmp_path: Path) -> None:
    zarr = LocalZarr(tmp_path)
    zarr.save(np.arange(3), "/a")
    zarr.save(b"bytes", "/b.parquet", suffix=".bin")
    assert zarr.load("/b.parquet", suffix=".bin") == b"bytes"
    with pytest.raises(UnsupportedFormatError, match=r"no \.bin file"):
        zarr.load("/a", suffix=".bin")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.asfortranarray(RNG.random((3, 4))),
        np.array(2.5),
        np.zeros((0, 7), "M8[s]"),
        np.array(["ä", "bcd"]),
        np.arange(5, dtype=">i2"),
    ],
)
def test_the_size_of_an_npy_file_is_known_beforehand(array: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    data = (tmp_path / "a.npy").read_bytes()
    assert npy_size(array.shape, str(array.dtype)) == len(data)
    found = npy_array(data)
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable
    assert found.flags.f_contiguous == array.flags.f_contiguous


def test_the_size_of_what_only_its_dtype_describes_is_not() -> None:
    assert npy_size((3,), str(np.dtype([("x", "i4")]))) is None


@pytest.mark.parametrize("cut", [0, 5, 20, 130])
def test_a_cut_npy_is_damaged(cut: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(CorruptDataError):
        npy_array((tmp_path / "a.npy").read_bytes()[:cut])
