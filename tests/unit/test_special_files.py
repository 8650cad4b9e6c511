"""Pipes, devices and what is larger than metadata allow: nothing hangs, and nothing is replaced."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    CorruptDataError,
    DiskBackend,
    FileLockTimeoutError,
    InvalidPathError,
    StorageError,
    UnsupportedFormatError,
    ZarrBackend,
)
from polystore.atomic import atomic_update_json, atomic_write
from polystore.filesystem import locks

METADATA = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|u1", "order": "C"}
METADATA |= {"compressor": None, "filters": None, "fill_value": 0}


@pytest.fixture(params=["rooted", "unrooted"])
def store(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZarrBackend:
    monkeypatch.chdir(tmp_path)
    return ZarrBackend(tmp_path) if request.param == "rooted" else ZarrBackend()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, sparse, endless])
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs", "0"])
def test_what_is_no_file_where_zarr_keeps_one_neither_hangs_nor_fills_memory(
    store: ZarrBackend, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    store.save(np.arange(4), "good")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/.zarray").write_text(json.dumps(METADATA))
    (tmp_path / "x" / name).unlink(missing_ok=True)
    make(tmp_path / "x" / name)
    assert store.is_file("x") != store.is_dir("x")
    assert store.exists("x")
    assert store.stat("x")["exists"]
    assert any(path.endswith("good") for path in store.list_files(".", recursive=True))
    with pytest.raises(StorageError):
        store.load("x")
    store.delete_all("x")


@pytest.mark.parametrize("cls", [DiskBackend, ZarrBackend])
def test_a_pipe_is_not_replaced(cls: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    (tmp_path / "link.npy").symlink_to("a.npy")
    for path in ("a.npy", "link.npy"):
        with pytest.raises(UnsupportedFormatError, match="pipe"):
            cls(tmp_path).save(np.arange(2), path, overwrite=True)
        with pytest.raises(UnsupportedFormatError, match="pipe"), atomic_write(tmp_path / path):
            pass
        with pytest.raises(UnsupportedFormatError, match="pipe"):
            atomic_update_json(tmp_path / path, lambda value: value)
    assert stat.S_ISFIFO(os.lstat(tmp_path / "a.npy").st_mode)


def test_a_chunk_larger_than_the_metadata_allow_is_damage(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(np.arange(4), "a")
    sparse(tmp_path / "a/c/0")
    with pytest.raises(CorruptDataError, match="at most"):
        store.load("a")


def test_a_link_says_nothing_of_what_lies_outside(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path / "root")
    ZarrBackend().save(np.arange(4), tmp_path / "secret")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/.zarray").write_text("{}")
    for name, file in {"zarr.json": "secret/zarr.json", ".zarray": "old/.zarray"}.items():
        for target in (tmp_path / file, tmp_path / "missing"):
            (tmp_path / "root/x").mkdir()
            (tmp_path / "root/x" / name).symlink_to(target)
            assert not store.is_file("x")
            store.delete_all("x")


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/.", "./{}//.", "x/../{}"])
@pytest.mark.parametrize("name", ["zarr.json", ".zgroup", ".zarray"])
def test_the_names_of_zarr_are_refused_however_they_are_spelt(
    store: ZarrBackend, tmp_path: Path, spelling: str, name: str
) -> None:
    store.save(np.arange(4), "g/a", parents=True)
    store.ensure_directory("g/x")
    group = (tmp_path / "g/zarr.json").read_bytes()
    path = f"g/{spelling.format(name)}"
    os.symlink(name, tmp_path / "g/link")
    uses: tuple[Callable[[], Any], ...] = (
        lambda: store.save({"node_type": "array"}, path, overwrite=True),
        lambda: store.save(np.arange(2), path, overwrite=True, parents=True),
        lambda: store.save({"node_type": "array"}, "g/link", overwrite=True),
        lambda: store.create_symlink("g/a", path),
        lambda: store.copy("g/a", path),
        lambda: store.move("g/a", path),
        lambda: store.ensure_directory(path),
        lambda: store.delete(path),
        lambda: store.delete_all(path),
        lambda: store.move(path, "elsewhere"),
    )
    for use in uses:
        with pytest.raises(StorageError):
            use()
    with pytest.raises(InvalidPathError):
        store.delete(f"g/{name}/.") if name == "zarr.json" else store.ensure_directory(f"g/{name}")
    assert (tmp_path / "g/zarr.json").read_bytes() == group
    assert store.list_dir("g") in (["a", "link", "x"], ["a", "x"])


def test_a_reader_who_holds_a_lock_stops_no_writer_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TIMEOUT", 0.2)
    disk = DiskBackend(tmp_path)
    disk.save(np.arange(4), "a.npy")
    with (tmp_path / "a.npy").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(FileLockTimeoutError, match=r"a\.npy"):
            disk.save(1, "a.npy", region=0)
    disk.save(1, "a.npy", region=0)
