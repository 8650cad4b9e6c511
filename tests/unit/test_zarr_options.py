"""Options by which zarr arrays are made: errors name them, none is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from zarr.codecs import GzipCodec

from polystore import StorageError, UnsupportedFormatError, VFSTypeError, ZarrBackend

ROWS = np.zeros((4, 4), "u1")


@pytest.fixture(params=["directory", "store"])
def top(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}" if request.param == "store" else str(tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunks", (2,)),
        ("chunks", (0, 2)),
        ("chunks", "x"),
        ("shards", (3,)),
        ("compressors", ["no codec"]),
        ("filters", 5),
        ("fill_value", 300),
        ("attributes", {"a": np.int64(3)}),
        ("attributes", 5),
        ("dimension_names", ["y"]),
        ("dimension_names", [1, 2]),
    ],
)
def test_the_error_names_the_option_that_does_not_fit(
    top: str, zarr_format: Any, name: str, value: Any
) -> None:
    backend = ZarrBackend(top, zarr_format=zarr_format)
    options: dict[str, Any] = {"attributes": {"unit": "um"}, name: value}
    with pytest.raises(StorageError, match=f"{name}=") as error:
        backend.save(ROWS, "/deep/x", parents=True, **options)
    assert isinstance(error.value, UnsupportedFormatError | VFSTypeError)
    assert not backend.exists("/deep/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("shards", (4, 4)), ("compressors", [GzipCodec()]), ("dimension_names", ["y", None])],
)
def test_what_format_2_has_not_is_refused_by_name(top: str, name: str, value: Any) -> None:
    backend = ZarrBackend(top, zarr_format=2)
    with pytest.raises(UnsupportedFormatError, match=f"{name}="):
        backend.save(ROWS, "/x", **{name: value})


def test_options_of_a_new_array_are_refused_with_a_region(top: str) -> None:
    backend = ZarrBackend(top)
    backend.save(ROWS, "/x")
    with pytest.raises(UnsupportedFormatError, match=r"chunks=, attributes=.*region="):
        backend.save(ROWS[0], "/x", region=0, chunks=(2, 2), attributes={"unit": "um"})


def test_an_array_that_is_not_of_numbers_is_refused_by_its_dtype(top: str) -> None:
    backend = ZarrBackend(top)
    with pytest.raises(UnsupportedFormatError, match=r"not dtype datetime64\[s\]"):
        backend.save(np.zeros(3, "M8[s]"), "/times")
    backend.save(np.zeros(3, "M8[s]"), "/times.npy")
    assert backend.load("/times.npy").dtype == "M8[s]"


def test_files_beside_arrays_take_the_options_of_their_format(top: str, tmp_path: Path) -> None:
    place = tmp_path / "made.tif"
    with tifffile.TiffWriter(place) as file:
        file.write(ROWS, photometric="minisblack")
        file.write(np.ones((2, 3), "u2"), photometric="minisblack")
    backend = ZarrBackend(top)
    backend.save(place.read_bytes(), "/a.tif", suffix=".bin")
    assert backend.load("/a.tif", suffix=".bin") == place.read_bytes()
    assert backend.load("/a.tif", series=1).tolist() == [[1] * 3] * 2
    assert backend.load_batch(["/a.tif"], series=1, region=0)[0].tolist() == [1] * 3
    with pytest.raises(VFSTypeError, match="series=0 to series=1"):
        backend.load("/a.tif")
