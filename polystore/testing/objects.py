"""The promises of backends that hold Python objects: snapshots of values, arrays as views."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest

from polystore.testing.kit import BackendKit

__all__ = ["Objects"]

LARGE = 50_000  # values, so that an array of them is beyond what travels inside a call

ARRAYS: dict[str, Any] = {
    "C order": np.arange(LARGE, dtype=np.float64).reshape(-1, 10),
    "small": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "Fortran order": np.asfortranarray(np.arange(LARGE).reshape(-1, 10)),
    "strided": np.arange(2 * LARGE)[::2],
    "0-d": np.array(3.5),
    "zero-size": np.empty((0, 3), np.int8),
    "structured": np.zeros(LARGE, [("a", "i4"), ("b", "U3")]),
    "datetime": np.arange(LARGE).astype("M8[s]"),
    "big-endian": np.arange(LARGE, dtype=">i4"),
    "text": np.array(["a", "bcd"]),
    "objects": np.array([{"a": 1}, None, "x"], dtype=object),
}
VALUES: list[Any] = [
    None,
    True,
    "text",
    b"\x00" * LARGE * 2,
    {"nested": [1, (2, {3})]},
    Fraction(1, 3),
    datetime(2026, 1, 2, tzinfo=UTC),
    {"array": np.arange(LARGE), "of": "parts"},
]


class Objects(BackendKit):
    """Any value that pickles, and arrays of every kind."""

    suffix: ClassVar[str] = ""

    @pytest.mark.parametrize("kind", ARRAYS)
    def test_an_array_comes_back_read_only_and_as_it_was(
        self, backend: Any, root: str, kind: str
    ) -> None:
        array = ARRAYS[kind]
        backend.save(array, f"{root}/a")
        loaded = backend.load(f"{root}/a")
        np.testing.assert_array_equal(loaded, array)
        assert type(loaded) is np.ndarray
        assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
        assert not loaded.flags.writeable
        if array.flags.f_contiguous:
            assert loaded.flags.f_contiguous

    def test_an_array_is_a_view_of_the_stored_bytes(self, backend: Any, root: str) -> None:
        for kind in ("C order", "Fortran order", "strided", "structured", "datetime"):
            backend.save(ARRAYS[kind], f"{root}/a", overwrite=True)
            one, other = backend.load(f"{root}/a"), backend.load(f"{root}/a")
            assert one.__array_interface__["data"] == other.__array_interface__["data"], kind

    def test_a_masked_array_is_a_read_only_copy(self, backend: Any, root: str) -> None:
        array = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
        backend.save(array, f"{root}/a")
        loaded = backend.load(f"{root}/a")
        assert isinstance(loaded, np.ma.MaskedArray)
        assert loaded.tolist() == [1, None, 3]
        assert not loaded.flags.writeable

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_any_value_comes_back_equal_and_of_its_type(
        self, backend: Any, root: str, value: Any
    ) -> None:
        backend.save(value, f"{root}/a")
        loaded = backend.load(f"{root}/a")
        assert type(loaded) is type(value)
        np.testing.assert_equal(loaded, value)

    def test_no_two_callers_share_a_mutable_object(self, backend: Any, root: str) -> None:
        value = {"list": [1]}
        backend.save(value, f"{root}/a")
        value["list"].append(2)
        backend.load(f"{root}/a")["list"].append(3)
        assert backend.load(f"{root}/a") == {"list": [1]}

    def test_a_bytearray_stays_one_and_can_be_changed(self, backend: Any, root: str) -> None:
        backend.save(bytearray(b"abc"), f"{root}/a")
        loaded = backend.load(f"{root}/a")
        loaded[0] = 0
        assert type(loaded) is bytearray
        assert backend.load(f"{root}/a") == bytearray(b"abc")

    def test_a_reader_keeps_what_it_loaded(self, backend: Any, root: str) -> None:
        backend.save(np.zeros(LARGE), f"{root}/a")
        kept = backend.load(f"{root}/a")
        backend.save(np.ones(LARGE), f"{root}/a", overwrite=True)
        backend.delete(f"{root}/a")
        assert not kept.any()

    def test_stat_tells_size_shape_and_dtype_and_the_version_grows(
        self, backend: Any, root: str
    ) -> None:
        backend.save(np.zeros((3, 4), np.uint8), f"{root}/a")
        facts = backend.stat(f"{root}/a")
        assert (facts["shape"], facts["dtype"]) == ((3, 4), "uint8")
        assert facts["size"] >= 12
        backend.save(1, f"{root}/a", overwrite=True)
        assert backend.stat(f"{root}/a")["version"] > facts["version"]
