"""Files that are written through fsspec: whole or not at all, whatever is wrapped around them."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from upath import UPath

from polystore import MemoryBackend
from polystore.exceptions import VersionConflictError
from polystore_ray import RayBackendRegistry
from polystore_ray.filesystem import PolystoreFileSystem

GOOD = b"good"
MODES = ["w", "wt", "wb", "w+b", "r+b", "r+", "a", "ab", "a+b"]
COMPRESSIONS = ["gzip", "bz2", "xz", "zip"]


class MidwayError(Exception):
    pass


class Unwritable:
    def __str__(self) -> str:
        raise MidwayError


@pytest.fixture
def fs(registry: RayBackendRegistry) -> PolystoreFileSystem:
    return PolystoreFileSystem(registry._store, local=True)


@pytest.fixture
def options(registry: RayBackendRegistry) -> dict[str, Any]:
    return {"store": registry._store, "local": True}


def _fail() -> None:
    raise MidwayError


def _half(file: Any, mode: str) -> None:
    file.write(b"half" if "b" in mode else "half")
    raise MidwayError


def _with_open(fs: Any, mode: str, **how: Any) -> None:
    with fs.open("memory/a", mode, **how) as file:
        _half(file, mode)


def _with_fsspec(options: dict[str, Any], mode: str, **how: Any) -> None:
    with fsspec.open("polystore://memory/a", mode, **how, **options) as file:
        _half(file, mode)


class TestAfterAnError:
    """The good file of before is still there."""

    @pytest.fixture(autouse=True)
    def _good(self, fs: PolystoreFileSystem) -> Any:
        fs.pipe_file("memory/a", GOOD)
        yield
        gc.collect()
        assert fs.cat_file("memory/a") == GOOD

    @pytest.mark.parametrize("mode", MODES)
    def test_of_a_with_block(
        self, fs: PolystoreFileSystem, options: dict[str, Any], mode: str
    ) -> None:
        with pytest.raises(MidwayError):
            _with_open(fs, mode)
        with pytest.raises(MidwayError):
            _with_fsspec(options, mode)
        with (
            pytest.raises(MidwayError),
            UPath("polystore://memory/a", **options).open(mode) as file,
        ):
            _half(file, mode)

    @pytest.mark.parametrize("mode", ["w", "wb"])
    @pytest.mark.parametrize("compression", COMPRESSIONS)
    def test_of_a_compressed_file(
        self, fs: PolystoreFileSystem, options: dict[str, Any], mode: str, compression: str
    ) -> None:
        with pytest.raises(MidwayError):
            _with_open(fs, mode, compression=compression)
        with pytest.raises(MidwayError):
            _with_fsspec(options, mode, compression=compression)

    @pytest.mark.parametrize("compression", [None, "gzip", "zip"])
    def test_of_pandas(self, options: dict[str, Any], compression: Any) -> None:
        frame = pd.DataFrame({"a": [*range(20_000), Unwritable()]})
        with pytest.raises(MidwayError):
            frame.to_csv("polystore://memory/a", compression=compression, storage_options=options)

    def test_of_a_parquet_writer(self, fs: PolystoreFileSystem) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"a": [1]})

        def write() -> None:
            with pq.ParquetWriter("memory/a", table.schema, filesystem=fs) as writer:
                writer.write_table(table)
                raise MidwayError

        with pytest.raises(MidwayError):
            write()

    @pytest.mark.parametrize("wrap", ["closing", "stack", "finally"])
    def test_of_what_closes_without_a_word(self, fs: PolystoreFileSystem, wrap: str) -> None:
        def write() -> None:
            with contextlib.ExitStack() as stack:
                if wrap == "closing":
                    file = stack.enter_context(contextlib.closing(fs.open("memory/a", "w")))
                elif wrap == "stack":
                    file = stack.enter_context(fs.open("memory/a", "w"))
                else:
                    file = fs.open("memory/a", "w")
                    stack.callback(file.close)
                _half(file, "w")

        with pytest.raises(MidwayError):
            write()

    @pytest.mark.parametrize("is_kept", [False, True])
    def test_of_an_archive(self, fs: PolystoreFileSystem, is_kept: bool) -> None:
        kept = []

        def write(wrap: Callable[[Any], Any]) -> None:
            file = fs.open("memory/a", "wb")
            if is_kept:
                kept.append(file)
            with wrap(file):
                del file
                raise MidwayError

        for wrap in (
            lambda file: zipfile.ZipFile(file, "w"),
            lambda file: gzip.GzipFile(fileobj=file, mode="wb"),
        ):
            with pytest.raises(MidwayError):
                write(wrap)
            kept.clear()

    def test_that_was_caught_in_a_transaction(self, fs: PolystoreFileSystem) -> None:
        with fs.transaction, contextlib.suppress(MidwayError):
            _with_open(fs, "w")


class TestOfAClosedOrUnclosedFile:
    """What no error has cut short is saved."""

    def test_an_error_that_is_handled_already_is_none(self, fs: PolystoreFileSystem) -> None:
        try:
            _fail()
        except MidwayError:
            with fs.open("memory/report", "w") as file:
                file.write("report")
        assert fs.cat_file("memory/report") == b"report"

    def test_a_with_block_that_ends_well_in_a_handler_does(self, fs: PolystoreFileSystem) -> None:
        file = fs.open("memory/a", "wb")
        try:
            _fail()
        except MidwayError:
            with file:
                file.write(b"a")
        assert fs.cat_file("memory/a") == b"a"

    def test_the_end_of_an_iteration_is_no_error(self, fs: PolystoreFileSystem) -> None:
        file, lines = fs.open("memory/a", "w"), iter(["a", "b"])
        while True:
            try:
                file.write(next(lines))
            except StopIteration:
                file.close()
                break
        assert fs.cat_file("memory/a") == b"ab"

    @pytest.mark.parametrize("compression", ["gzip", "bz2", "xz"])
    @pytest.mark.parametrize("mode", ["w", "wb"])
    def test_a_compressed_file_is_there_once_it_is_closed(
        self, fs: PolystoreFileSystem, mode: str, compression: str
    ) -> None:
        with fs.open("memory/a", mode, compression=compression) as file:
            file.write("text" if mode == "w" else b"text")
        with fs.open("memory/a", compression=compression) as file:
            assert file.read() == b"text"

    @pytest.mark.parametrize(
        "write",
        [
            lambda file: file.write(b"data"),
            lambda file: np.savez(file, a=np.arange(3)),
            lambda file: zipfile.ZipFile(file, "w").close(),
            lambda file: tarfile.open(fileobj=file, mode="w").close(),
            lambda file: gzip.GzipFile(fileobj=file, mode="w").close(),
            lambda file: io.TextIOWrapper(file).detach(),
        ],
        ids=["plain", "savez", "zip", "tar", "gzip", "text"],
    )
    def test_what_nobody_closes_is_saved_with_a_warning(
        self, fs: PolystoreFileSystem, write: Callable[[Any], Any]
    ) -> None:
        with pytest.warns(ResourceWarning, match="memory/a .* was not closed"):
            write(fs.open("memory/a", "wb"))
        assert fs.exists("memory/a")

    def test_text_that_nobody_closes_is_whole(self, fs: PolystoreFileSystem) -> None:
        with pytest.warns(ResourceWarning, match="not closed"):
            fs.open("memory/a", "w").write("text")
        assert fs.cat_file("memory/a") == b"text"

    @pytest.mark.parametrize("is_cut_short", [False, True])
    def test_what_is_open_when_the_interpreter_ends(
        self, tmp_path: Path, is_cut_short: bool
    ) -> None:
        script = f"""
            from polystore_ray.filesystem import PolystoreFileSystem
            fs = PolystoreFileSystem("ends", local=True)
            path = "disk{tmp_path}/a"
            file = fs.open(path, "wb")
            file.write(b"data")
            assert not {is_cut_short}
        """
        run = [sys.executable, "-W", "always", "-c", textwrap.dedent(script)]
        said = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120).stderr
        assert (tmp_path / "a").exists() is not is_cut_short, said
        assert ("cut short" if is_cut_short else "ResourceWarning") in said

    def test_an_archive_of_fsspec_is_read_once_it_is_closed(
        self, options: dict[str, Any], fs: PolystoreFileSystem
    ) -> None:
        url: dict[str, Any] = {"fo": "polystore://memory/a.zip", "target_options": options}
        archive = fsspec.filesystem("zip", mode="w", **url)
        archive.pipe("a", b"1")
        archive.close()
        assert fsspec.filesystem("zip", **url).cat("a") == b"1"
        del archive
        gc.collect()
        more = fsspec.filesystem("zip", mode="a", **url)
        more.pipe("b", b"2")
        more.close()
        del more
        gc.collect()
        assert fsspec.filesystem("zip", **url).find("") == ["a", "b"]


class TestModes:
    def test_of_reading_and_writing(self, fs: PolystoreFileSystem) -> None:
        with fs.open("memory/a", "w+b") as file:
            file.write(b"abc")
            file.seek(0)
            assert file.read() == b"abc"
        with fs.open("memory/a", "r+b") as file:
            assert file.read(1) == b"a"
            file.write(b"X")
        with fs.open("memory/a", "a+b") as file:
            assert file.tell() == 3
            file.seek(0)
            file.writelines([b"d", b"e"])
            file.seek(0)
            assert file.read() == b"aXcde"
            with pytest.raises(io.UnsupportedOperation, match="append"):
                file.truncate(1)
        with fs.open("memory/a", "r+b") as file:
            file.truncate(2)
        assert fs.cat_file("memory/a") == b"aX"
        with pytest.raises(FileNotFoundError):
            fs.open("memory/missing", "r+b")
        with pytest.raises(ValueError, match=r"w\+b"):
            fs.open("memory/a", "wb+")
        with fs.open("memory/a", "wb") as file:
            assert not file.readable()

    def test_no_append_is_lost(self, fs: PolystoreFileSystem) -> None:
        def append(number: int) -> None:
            with fs.open("memory/log", "ab") as file:
                file.write(b"%03d\n" % number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(append, range(100)))
        lines = fs.cat_file("memory/log").split()
        assert sorted(map(int, lines)) == [*range(100)]

    @pytest.mark.parametrize("backend", ["memory", "disk"])
    def test_files_that_were_opened_before_append_too(
        self, fs: PolystoreFileSystem, backend: str, tmp_path: Path
    ) -> None:
        path = f"{backend}{tmp_path}/log"
        first, second = fs.open(path, "ab"), fs.open(path, "a")
        first.write(b"first ")
        second.write("second")
        first.close()
        second.close()
        assert fs.cat_file(path) == b"first second"

    def test_a_change_is_refused_if_another_came_first(self, fs: PolystoreFileSystem) -> None:
        fs.pipe_file("memory/a", b"abc")
        file = fs.open("memory/a", "r+b")
        file.write(b"X")
        fs.pipe_file("memory/a", b"other")
        with pytest.raises(VersionConflictError):
            file.close()
        assert fs.cat_file("memory/a") == b"other"

    def test_what_was_only_read_is_not_saved_again(
        self, fs: PolystoreFileSystem, registry: RayBackendRegistry
    ) -> None:
        registry["memory"].save({"a": 1}, "/a.json")
        with fs.open("memory/a.json", "r+b") as file:
            file.read()
        assert registry["memory"].load("/a.json") == {"a": 1}


class TestNames:
    """A path that exists is no pattern."""

    NAMES = ("p[1]", "a*", "q?", "**", "[!x]")

    @pytest.fixture(autouse=True)
    def _names(self, fs: PolystoreFileSystem) -> None:
        fs.pipe(
            {f"memory/n/{name}": name.encode() for name in (*self.NAMES, "p1", "ab", "qx", "y")}
        )

    @pytest.mark.parametrize("name", NAMES)
    def test_as_files(self, fs: PolystoreFileSystem, name: str, tmp_path: Path) -> None:
        before = set(fs.find("memory/n"))
        path = f"memory/n/{name}"
        fs.cp(path, "memory/copy")
        fs.get(path, str(tmp_path / name))
        fs.put(str(tmp_path / name), f"memory/put/{name}")
        fs.mv(path, "memory/moved")
        for copy in ("memory/copy", "memory/moved", f"memory/put/{name}"):
            assert fs.cat_file(copy) == name.encode()
        assert (tmp_path / name).read_bytes() == name.encode()
        fs.mv("memory/copy", path)
        fs.mv(path, "memory/moved")  # over a file
        fs.cp("memory/moved", path)
        fs.rm(path)
        assert before - set(fs.find("memory/n")) == {path}

    @pytest.mark.parametrize("name", NAMES)
    def test_as_directories(self, fs: PolystoreFileSystem, name: str, tmp_path: Path) -> None:
        fs.pipe({f"memory/d/{other}/x/f": other.encode() for other in self.NAMES})
        path = f"memory/d/{name}"
        fs.cp(path, "memory/copy", recursive=True)
        fs.get(path, str(tmp_path / name), recursive=True)
        fs.put(str(tmp_path / name), "memory/put", recursive=True)
        assert fs.cat_file("memory/copy/x/f") == fs.cat_file("memory/put/x/f") == name.encode()
        fs.rm(path, recursive=True)
        assert len(fs.ls("memory/d")) == len(self.NAMES) - 1

    @pytest.mark.parametrize("name", NAMES)
    def test_as_paths(self, fs: PolystoreFileSystem, options: dict[str, Any], name: str) -> None:
        before = set(fs.find("memory/n"))
        path = UPath("polystore://memory/n", **options) / name
        path.rename(UPath("polystore://memory/n/renamed", **options))
        (path.parent / "renamed").rename(path)
        path.unlink()
        assert before - set(fs.find("memory/n")) == {f"memory/n/{name}"}
        path.mkdir()
        (path / "f.npy").write_bytes(b"")
        assert [*path.glob("*.npy")] == [*path.rglob("*.npy")] == [path / "f.npy"]
        path.rmdir(recursive=True)
        assert len(fs.ls("memory/n")) == len(before) - 1

    def test_a_pattern_of_nothing_literal_is_a_pattern(self, fs: PolystoreFileSystem) -> None:
        fs.rm("memory/n/[pq][1x]")
        assert fs.find("memory/n") == [
            f"memory/n/{name}" for name in sorted([*self.NAMES, "ab", "y"])
        ]

    def test_for_stacks_and_datasets(self) -> None:
        from polystore_ray.interop.globbing import matching

        memory = MemoryBackend()
        paths = [f"/n/{name}" for name in self.NAMES]
        memory.save_batch([1] * len(paths), paths, parents=True)
        memory.save_batch([1, 1], ["/d[2]/a.npy", "/d2/b.npy"], parents=True)
        for path in (*paths, "/d[2]/a.npy"):
            assert matching(memory, path) == [path]
        assert matching(memory, "/d[2]/*.npy") == ["/d[2]/a.npy"]
