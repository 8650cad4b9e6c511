"""``.npy`` and ``.npz`` files: of every version and of others, hostile ones, and parts of them."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import CorruptDataError, DiskBackend, StorageError, UnsupportedFormatError
from polystore.formats import npy_array

HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }\n"


@pytest.fixture
def disk(tmp_path: Path) -> DiskBackend:
    return DiskBackend(tmp_path)


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header.encode("latin1") + data


TABLES = {
    "names outside Latin-1": np.zeros(2, [("日本", "f4"), ("é", "i4")]),
    "a header beyond 10,000 bytes": np.ones(2, [(f"pose/{n}", "f4", (3,)) for n in range(900)]),
    "a header beyond 64 KiB": np.ones(2, [(f"a column called {n}", "f4") for n in range(3000)]),
    "both": np.ones(2, [(f"面积{n}", "f4") for n in range(4000)]),
    "padding": np.zeros(2, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
    "nothing": np.zeros(3, np.dtype([])),
    "metadata of a dtype": np.zeros(2, np.dtype("f4", metadata={"unit": "m"})),
}


@pytest.mark.parametrize("case", TABLES)
def test_every_table_comes_back_here_and_in_numpy(
    disk: DiskBackend, tmp_path: Path, case: str
) -> None:
    table = TABLES[case]
    disk.save(table, "a.npy")
    disk.save({"a": table}, "a.npz")
    parts = disk.load("a.npy", region=slice(0, 1)), npy_array((tmp_path / "a.npy").read_bytes())
    of_numpy = np.load(tmp_path / "a.npy", max_header_size=2**20)
    for found in (disk.load("a.npy"), disk.load("a.npz")["a"], *parts, of_numpy):
        assert found.dtype == table.dtype
        np.testing.assert_array_equal(found, table[: len(found)])


@pytest.mark.parametrize(
    "fields", [[(f"a column called {n}", "f4") for n in range(40_000)]], ids=["too many names"]
)
def test_what_would_not_be_read_is_not_written(disk: DiskBackend, fields: Any) -> None:
    with pytest.raises(UnsupportedFormatError, match="fields"):
        disk.save(np.zeros(1, fields), "a.npy")
    assert not disk.exists("a.npy")


HOSTILE = {
    "minus": npy("-" * 9900 + "1\n"),
    "brackets": npy("[" * 9000 + "]"),
    "attributes": npy("a." * 4000 + "b"),
    "a long integer": npy(HEADER % ("'<f4'", "(" + "9" * 4400 + ",)")),
    "bool sides": npy(HEADER % ("'<f4'", "(True,)"), b"1234"),
    "negative sides": npy(HEADER % ("'<f4'", "(-2, -2)"), b"1" * 16),
    "values without bytes": npy(HEADER % ("'V0'", f"({2**40},)")),
    "objects in objects": npy(HEADER % ("[('a', [('b', '|O')])]", "(1,)"), b"A" * 8),
    "an unknown version": npy(HEADER % ("'<f4'", "(1,)"), b"1234", (9, 9)),
    "a long header": npy("-" * (2**20 + 1), version=(2, 0)),
    "a header that is not there": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_damage_and_breaks_no_question(
    disk: DiskBackend, tmp_path: Path, case: str
) -> None:
    (tmp_path / "a.npy").write_bytes(HOSTILE[case])
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", HOSTILE[case])
    for name, region in itertools.product(("a.npy", "a.npz"), (None, (slice(0, 1),))):
        with pytest.raises(StorageError):
            disk.load(name, region=region)
    with pytest.raises(CorruptDataError):
        npy_array(HOSTILE[case])
    assert disk.stat("a.npy")["size"] == len(HOSTILE[case])


ARRAYS = {
    "C": np.arange(7 * 9 * 11, dtype="i2").reshape(7, 9, 11),
    "Fortran": np.asfortranarray(np.arange(7 * 9 * 11.0).reshape(7, 9, 11)),
    "records": np.zeros((7, 9, 11), [("x", "f4"), ("y", "U3")]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_region_is_what_numpy_selects(disk: DiskBackend, kind: str) -> None:
    array = ARRAYS[kind]
    disk.save(array, "a.npy")
    one = [-1, 3, slice(None), slice(None, None, -2), slice(5, 2), slice(1, None, 3)]
    regions: list[Any] = [
        *itertools.product(one, repeat=3),
        (..., 1),
        ...,
        (),
        (2,),
        (1, 2, 3, ...),
    ]
    for region in regions:
        found, expected = disk.load("a.npy", region=region), array[region]
        assert type(found) is type(expected), region
        np.testing.assert_array_equal(found, expected)


def test_a_file_that_is_cut_off_meanwhile_kills_no_reader(
    disk: DiskBackend, tmp_path: Path
) -> None:
    # A mapped file would end the process with SIGBUS.
    path, end = tmp_path / "a.npy", threading.Event()
    disk.save(np.ones((512, 1024)), "a.npy")
    whole = path.read_bytes()

    def cut() -> None:
        while not end.is_set():
            os.truncate(path, 4096)
            with path.open("r+b") as file:
                file.write(whole)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(200):
            with contextlib.suppress(CorruptDataError):
                assert (disk.load("a.npy", region=(slice(None), slice(0, 1000))) == 1).all()
    finally:
        end.set()
        thread.join()


def archive_of(tmp_path: Path, **members: Any) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("cells/", b"")
        for name, content in members.items():
            file = io.BytesIO()
            np.save(file, content) if isinstance(content, np.ndarray) else file.write(content)
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), file.getvalue())


def test_what_else_is_in_an_archive_is_left_out(disk: DiskBackend, tmp_path: Path) -> None:
    archive_of(
        tmp_path,
        cells__x_dot_npy=np.arange(3),
        bare=np.arange(2),
        README_dot_txt=b"the data of plate 1",
        __MACOSX__cells__=b"",
        cells___dot__x_dot_npy=np.arange(1),
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("__MACOSX/cells/._x.npy", b"\x00\x05\x16\x07")
        archive.writestr("notes.txt", b"compressed otherwise", zipfile.ZIP_BZIP2)
    loaded = disk.load("a.npz")
    assert loaded["cells/x"].tolist() == [0, 1, 2]
    assert loaded["bare"].tolist() == [0, 1]
    assert not any("txt" in name or "MACOSX" in name for name in loaded)


def test_a_member_that_should_be_an_array_is_not_left_out(
    disk: DiskBackend, tmp_path: Path
) -> None:
    archive_of(tmp_path, x_dot_npy=b"damaged")
    with pytest.raises(CorruptDataError):
        disk.load("a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_array_behind_a_decoder_without_bounds_is_refused(
    disk: DiskBackend, tmp_path: Path, method: int
) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(10**6))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", file.getvalue(), method)
    with pytest.raises(UnsupportedFormatError, match="savez_compressed"):
        disk.load("a.npz")
