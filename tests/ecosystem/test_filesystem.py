"""The fsspec filesystem: fsspec's own suites, and what uses it."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.tests import abstract

from polystore import BackendRegistry, FileManager
from polystore.exceptions import (
    BackendNotFoundError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    UnsupportedFormatError,
)
from polystore_ray import RayBackendRegistry, StoreUnavailableError
from polystore_ray.filesystem import PolystoreFileSystem

Memory = Any


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    local = True
    backend = "memory"

    @pytest.fixture
    def fs(self, registry: RayBackendRegistry) -> PolystoreFileSystem:
        return PolystoreFileSystem(registry._store, local=self.local)

    @pytest.fixture
    def fs_path(self, tmp_path: Path, place: str) -> str:
        return f"{self.backend}{tmp_path if self.backend == 'disk' else place}/there"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *names: "/".join(names)


class TestSuites(
    Fixtures,
    abstract.AbstractCopyTests,  # type: ignore[misc]
    abstract.AbstractGetTests,  # type: ignore[misc]
    abstract.AbstractPutTests,  # type: ignore[misc]
    abstract.AbstractOpenTests,  # type: ignore[misc]
    abstract.AbstractPipeTests,  # type: ignore[misc]
):
    pass


class TestSuitesOnDisk(TestSuites):
    backend = "disk"


class TestSuitesOnACluster(TestSuites):
    local = False


class TestFiles(Fixtures):
    """Values of the memory as files."""

    @pytest.fixture
    def memory(self, fs: PolystoreFileSystem) -> Memory:
        return fs._registry["memory"]

    @pytest.mark.parametrize("path", ["/a.npy", "/a.tif", "/a.png", "/a.TIFF"])
    def test_an_array_is_what_its_suffix_says(
        self, fs: PolystoreFileSystem, memory: Memory, path: str, tmp_path: Path
    ) -> None:
        image = np.arange(12, dtype=np.uint8).reshape(3, 4)
        memory.save(image, path)
        fs.get_file(f"memory{path}", str(tmp_path / path[1:]))
        disk = FileManager(BackendRegistry())
        np.testing.assert_array_equal(disk.load(tmp_path / path[1:], backend="disk"), image)
        assert fs.size(f"memory{path}") == (tmp_path / path[1:]).stat().st_size

    def test_an_npy_file_is_an_array(self, fs: PolystoreFileSystem, memory: Memory) -> None:
        for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(5)):
            with fs.open("memory/x/a.npy", "wb") as file:
                np.save(file, array)
            np.testing.assert_array_equal(memory.load("/x/a.npy"), array)
            with fs.open("memory/x/a.npy") as file:
                np.testing.assert_array_equal(np.load(io.BytesIO(file.read())), array)

    @pytest.mark.parametrize("suffix", ["", ".parquet", ".npy", ".json", ".txt", ".tif", ".zip"])
    def test_what_is_written_is_read(self, fs: PolystoreFileSystem, suffix: str) -> None:
        for data in (b"", b"\x93NUMPY\1\0nonsense", bytes(range(256)) * 1000):
            fs.pipe_file(f"memory/a{suffix}", data)
            assert fs.cat_file(f"memory/a{suffix}") == data
            assert fs.size(f"memory/a{suffix}") == len(data)
            assert fs.cat_file(f"memory/a{suffix}", 2, -3) == data[2:-3]

    def test_an_npy_file_that_numpy_would_write_otherwise_keeps_its_bytes(
        self, fs: PolystoreFileSystem
    ) -> None:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.arange(3), version=(2, 0))
        fs.pipe_file("memory/a.npy", file.getvalue())
        assert fs.cat_file("memory/a.npy") == file.getvalue()

    def test_an_object_array_is_never_unpickled(self, fs: PolystoreFileSystem) -> None:
        file = io.BytesIO()
        np.save(file, np.array([{}], object), allow_pickle=True)
        fs.pipe_file("memory/a.npy", file.getvalue())
        assert fs.cat_file("memory/a.npy") == file.getvalue()

    def test_bytes_are_bytes_and_other_values_as_their_suffix_says(
        self, fs: PolystoreFileSystem, memory: Memory
    ) -> None:
        memory.save_batch([b"abc", {"a": 1}, "text"], ["/a.npy", "/b.json", "/c.txt"])
        assert fs.cat_file("memory/a.npy") == b"abc"
        assert fs.cat_file("memory/b.json") == b'{\n  "a": 1\n}'
        assert fs.cat_file("memory/c.txt") == b"text"
        assert [fs.size(f"memory/{name}") for name in ("a.npy", "b.json", "c.txt")] == [3, 12, 4]

    @pytest.mark.parametrize(
        ("value", "start"),
        [
            (np.zeros((2, 2)), b"\x93NUMPY"),
            (np.zeros(2, [("a", "i4")]), b"\x93NUMPY"),
            (np.array([None]), b"\x80\x05"),
            ({"cells": 3}, b'{\n  "cells"'),
            ("text", b"text"),
            ({1, 2}, b"\x80\x05"),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("name", ["A01", "a.unknown"])
    def test_a_value_without_a_format_is_a_file_too(
        self, fs: PolystoreFileSystem, memory: Memory, name: str, value: Any, start: bytes
    ) -> None:
        memory.save(value, f"/{name}")
        assert fs.cat_file(f"memory/{name}").startswith(start)
        assert fs.info(f"memory/{name}")["type"] == "file"
        assert fs.du("memory") == fs.size(f"memory/{name}") > 0

    def test_one_odd_value_spoils_nothing_else(
        self, fs: PolystoreFileSystem, memory: Memory, tmp_path: Path
    ) -> None:
        values = [np.zeros(3), {"a": 1}, np.zeros((2, 2), "c8")]
        memory.save_batch(values, ["/x/a", "/x/b", "/x/c.png"], parents=True)
        assert fs.du("memory/x") == 152 + 12 + 32  # of the last its stored size
        with pytest.raises(UnsupportedFormatError, match=r"1 of the values.*c\.png"):
            fs.get("memory/x", str(tmp_path / "x"), recursive=True)
        assert sorted(os.listdir(tmp_path / "x")) == ["a", "b"]

    def test_a_question_runs_nothing_of_a_value(
        self, fs: PolystoreFileSystem, memory: Memory
    ) -> None:
        memory.save_batch([Opened(), {"a": Opened()}], ["/a", "/b.json"])
        for name in ("a", "b.json"):
            assert fs.info(f"memory/{name}")["size"] > 0
        assert fs.du("memory") > 0
        assert Opened.times == 0
        fs.cat_file("memory/a")
        assert Opened.times == 1

    @pytest.mark.parametrize("path", ["a/../../b", "..", "../disk/etc"])
    def test_no_path_leads_up(self, fs: PolystoreFileSystem, path: str) -> None:
        for call in (fs.cat_file, fs.exists, fs.rm_file, fs.ls):
            with pytest.raises(InvalidPathError, match=r"\.\."):
                call(f"memory/{path}")
        with pytest.raises(InvalidPathError, match=r"\.\."):
            fs.get_mapper("memory/x")[path] = b""

    def test_the_root_of_the_memory_can_be_emptied(
        self, fs: PolystoreFileSystem, memory: Memory
    ) -> None:
        for empty in (
            lambda: fs.rm("memory", recursive=True),
            lambda: fs.rm("memory/", recursive=True),
            lambda: fs.get_mapper("memory").clear(),
        ):
            memory.save_batch([1, 2], ["/x/y/a", "/b"], parents=True)
            empty()
            assert fs.ls("memory") == []
        with pytest.raises(InvalidPathError, match="machine"):
            fs.rm("disk", recursive=True)

    def test_a_transaction_takes_all_that_is_written(self, fs: PolystoreFileSystem) -> None:
        with pytest.raises(ZeroDivisionError):
            _fail_after(fs, lambda: fs.pipe_file("memory/a", b"a"))
        with pytest.raises(ZeroDivisionError):
            _fail_after(fs, lambda: fs.get_mapper("memory").update({"b": b"b"}))
        with pytest.raises(ZeroDivisionError):
            _fail_after(fs, lambda: fs.touch("memory/c"))
        assert fs.ls("memory") == []
        with fs.transaction:
            fs.pipe({"memory/a": b"a", "memory/b": b"b"})
            assert fs.ls("memory") == []
        assert fs.find("memory") == ["memory/a", "memory/b"]

    @pytest.mark.parametrize("backend", ["memory", "disk"])
    def test_nothing_is_made_below_a_file(
        self, fs: PolystoreFileSystem, backend: str, tmp_path: Path
    ) -> None:
        path = f"{backend}{tmp_path}/file"
        fs.pipe_file(path, b"a")
        for error in (NotADirectoryError, FileExistsError):
            for make in (fs.mkdir, fs.makedirs, fs.touch):
                with pytest.raises(error, match="is a file"):
                    make(f"{path}/a")
                with pytest.raises(error, match="is a file"):
                    make(f"{path}/a/b")
        for make in (fs.mkdir, fs.makedirs):
            with pytest.raises(FileExistsError):
                make(path)
        assert fs.cat_file(path) == b"a"

    def test_a_touched_file_keeps_what_it_holds_if_told_so(self, fs: PolystoreFileSystem) -> None:
        fs.pipe_file("memory/a", b"abc")
        fs.touch("memory/a", truncate=False)
        assert fs.cat_file("memory/a") == b"abc"
        fs.touch("memory/b", truncate=False)
        fs.touch("memory/a")
        assert fs.cat(["memory/a", "memory/b"]) == {"memory/a": b"", "memory/b": b""}

    def test_an_open_file_stays_as_it_was(self, fs: PolystoreFileSystem) -> None:
        fs.pipe_file("memory/a", b"first")
        with fs.open("memory/a") as file:
            fs.pipe_file("memory/a", b"second")
            assert file.read() == b"first"
            file.seek(-2, 2)
            assert file.read(1) == b"s"

    def test_a_file_is_published_whole_and_not_after_an_error(
        self, fs: PolystoreFileSystem
    ) -> None:
        with fs.open("memory/a", "wb") as file:
            file.write(b"abc")
            assert not fs.exists("memory/a")
        with pytest.raises(ZeroDivisionError):
            _write_half(fs, "memory/a")
        assert fs.cat_file("memory/a") == b"abc"
        with fs.open("memory/a", "ab") as file:
            file.write(b"def")
        assert fs.cat_file("memory/a") == b"abcdef"
        with fs.open("memory/b.txt", "w", encoding="utf-8") as text:
            text.write("ä")
        assert fs.read_text("memory/b.txt", encoding="utf-8") == "ä"

    def test_of_two_exclusive_writers_one_wins(self, fs: PolystoreFileSystem) -> None:
        first, second = fs.open("memory/a", "xb"), fs.open("memory/a", "xb")
        first.write(b"first")
        first.close()
        with pytest.raises(PathExistsError):
            second.close()
        assert fs.cat_file("memory/a") == b"first"

    def test_a_transaction_is_kept_or_not(self, fs: PolystoreFileSystem) -> None:
        with fs.transaction:
            with fs.open("memory/a", "wb") as file:
                file.write(b"a")
            assert not fs.exists("memory/a")
        assert fs.cat_file("memory/a") == b"a"
        with pytest.raises(ZeroDivisionError):
            _fail_in_a_transaction(fs, "memory/b")
        assert not fs.exists("memory/b")

    def test_the_root_lists_the_backends(self, fs: PolystoreFileSystem) -> None:
        assert {"memory", "disk", "zarr"} <= set(fs.ls("", detail=False))
        assert fs.isdir("")
        assert fs.info("")["type"] == "directory"
        with pytest.raises(InvalidPathError, match="polystore://memory"):
            fs.cat_file("polystore://")
        with pytest.raises(BackendNotFoundError, match="memroy"):
            fs.exists("memroy/a")

    def test_lists_and_deletes(self, fs: PolystoreFileSystem, memory: Memory) -> None:
        memory.save_batch([b"a", np.zeros(3)], ["/x/y/a", "/x/b.npy"], parents=True)
        assert fs.find("memory/x") == ["memory/x/b.npy", "memory/x/y/a"]
        assert fs.glob("memory/x/*.npy") == ["memory/x/b.npy"]
        assert fs.du("memory/x") == 1 + 128 + 24
        assert fs.ls("memory/x/b.npy")[0]["shape"] == (3,)
        assert fs.modified("memory/x/b.npy").tzinfo is not None
        with pytest.raises(PathIsDirectoryError):
            fs.open("memory/x", "wb")
        with pytest.raises(FileNotFoundError):
            fs.rm("memory/missing")
        fs.rm("memory/x", recursive=True)
        assert fs.ls("memory") == []

    def test_a_tree_moves_and_copies(self, fs: PolystoreFileSystem, tmp_path: Path) -> None:
        fs.pipe({"memory/x/a": b"a", "memory/x/y/b": b"b"})
        fs.mv("memory/x", "memory/z/x", recursive=True)
        assert fs.find("memory") == ["memory/z/x/a", "memory/z/x/y/b"]
        fs.mv("memory/z/x/a", "memory/z/x/y/b")
        assert fs.find("memory") == ["memory/z/x/y/b"]
        assert fs.cat_file("memory/z/x/y/b") == b"a"
        fs.cp("memory/z", f"disk{tmp_path}/z", recursive=True)
        assert (tmp_path / "z/x/y/b").read_bytes() == b"a"

    def test_any_file_of_a_disk_is_its_bytes(self, fs: PolystoreFileSystem, tmp_path: Path) -> None:
        place = f"disk{tmp_path}/a.parquet"
        fs.pipe_file(place, b"no format has this suffix")
        assert (tmp_path / "a.parquet").read_bytes() == fs.cat_file(place)
        assert fs.info(place)["size"] == len(fs.cat_file(place))

    def test_it_pickles_but_a_local_store_does_not_travel(self, fs: PolystoreFileSystem) -> None:
        fs.pipe_file("memory/a", b"a")
        pickled = pickle.dumps(fs)
        assert pickle.loads(pickled).cat_file("memory/a") == b"a"
        elsewhere = f"import pickle; pickle.loads({pickled!r}).cat_file('memory/a')"
        run = [sys.executable, "-c", elsewhere]
        said = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120).stderr
        assert "UnsupportedOperationError" in said
        assert "local" in said

    def test_a_url_leads_to_it(self, fs: PolystoreFileSystem) -> None:
        options = {"store": fs._registry._store, "local": True}
        with fsspec.open("polystore://memory/a.txt", "wb", **options) as file:
            file.write(b"abc")
        assert fs.cat_file("memory/a.txt") == b"abc"


def test_an_address_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    fs = PolystoreFileSystem("nowhere", local=False, address="127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1"):
        fs.exists("memory/a")


class Opened:
    """Counts how often one of it was unpickled."""

    times = 0

    def __reduce__(self) -> Any:
        return _open, ()


def _open() -> Opened:
    Opened.times += 1
    return Opened()


def _write_half(fs: PolystoreFileSystem, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(b"half")
        raise ZeroDivisionError


def _fail_after(fs: PolystoreFileSystem, write: Callable[[], Any]) -> None:
    with fs.transaction:
        write()
        raise ZeroDivisionError


def _fail_in_a_transaction(fs: PolystoreFileSystem, path: str) -> None:
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"whole")
        raise ZeroDivisionError
