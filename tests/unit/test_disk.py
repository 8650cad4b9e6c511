"""Contract lines 12, 14, 21 to 28: what the operating system makes of a tree, and makes it into."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    DiskBackend,
    InvalidPathError,
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
    UnsupportedFormatError,
    ZarrBackend,
)
from polystore.filesystem.temporaries import PREFIX

VALUE = np.arange(3)


@pytest.fixture(params=["unrooted disk", "rooted disk", "unrooted zarr", "rooted zarr"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a backend that works in a directory."""
    rooting, _, kind = request.param.partition(" ")
    cls: Any = DiskBackend if kind == "disk" else ZarrBackend
    monkeypatch.chdir(tmp_path)
    return cls(tmp_path) if rooting == "rooted" else cls()


def visible(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "zarr.json")


# Roots


@pytest.mark.parametrize("cls", [DiskBackend, ZarrBackend])
def test_nothing_outside_a_root_is_reached(cls: Any, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    cls().save(np.arange(3), outside / "secret.npy", parents=True)
    backend = cls(inside)
    (inside / "link").symlink_to(outside)
    (inside / "file.npy").symlink_to(outside / "secret.npy")
    backend.save(np.arange(2), "mine.npy")
    for path in ("link/secret.npy", "file.npy"):
        with pytest.raises(InvalidPathError, match="root"):
            backend.load(path)
        with pytest.raises(InvalidPathError):
            backend.save(np.arange(1), path, overwrite=True)
    with pytest.raises(InvalidPathError):
        backend.list_dir("link")
    with pytest.raises(InvalidPathError):
        backend.create_symlink("../outside", "new")
    assert not backend.exists(str(outside / "secret.npy"))
    with pytest.raises(InvalidPathError):
        backend.copy("mine.npy", "link/stolen.npy")
    backend.delete_all("link")
    assert cls().load(outside / "secret.npy").tolist() == [0, 1, 2]
    assert cls().list_dir(outside) == ["secret.npy"]


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(PathExistsError, match=r"a' \(backend disk\)"):
        DiskBackend(tmp_path / "a")


# Links and slashes


@pytest.mark.parametrize("end", ["", "/", "//", "/.", "/./"])
def test_what_ends_with_a_slash_is_the_link_and_not_what_it_leads_to(place: Any, end: str) -> None:
    place.save(VALUE, "kept/a.npy", parents=True)
    place.create_symlink("kept/", "link" + end)
    assert place.is_symlink("link" + end)
    assert place.stat("link" + end)["type"] == "symlink"
    place.move("link" + end, "moved" + end)
    place.delete_all("moved" + end)
    assert place.list_dir("." + end) == ["kept"]
    assert place.load("kept/a.npy").tolist() == [0, 1, 2]


def test_a_tree_that_is_named_through_a_link_is_not_deleted_from_under_it(place: Any) -> None:
    place.save(VALUE, "kept/deep/a.npy", parents=True)
    place.create_symlink("kept/deep", "link")
    with pytest.raises(StorageError):
        place.delete_all("link/..")
    assert place.load("kept/deep/a.npy").tolist() == [0, 1, 2]


def test_a_save_into_a_circle_of_links_leaves_the_links(place: Any, tmp_path: Path) -> None:
    (tmp_path / "one.npy").symlink_to(tmp_path / "two.npy")
    (tmp_path / "two.npy").symlink_to(tmp_path / "one.npy")
    uses: tuple[Callable[[], Any], ...] = (
        lambda: place.save(VALUE, "one.npy", overwrite=True),
        lambda: place.save(VALUE, "one.npy/a.npy", parents=True),
        lambda: place.ensure_directory("one.npy"),
        lambda: place.load("one.npy"),
        lambda: place.list_dir("one.npy"),
    )
    for use in uses:
        with pytest.raises(StorageResolutionError, match="circle"):
            use()
    assert not place.exists("one.npy")
    assert place.stat("one.npy")["type"] == "symlink"
    assert (tmp_path / "one.npy").is_symlink()


def test_a_link_to_a_link_is_followed_and_an_overwritten_one_leads_elsewhere(place: Any) -> None:
    place.save(VALUE, "a.npy")
    place.create_symlink("a.npy", "one.npy")
    place.create_symlink("one.npy", "two.npy")
    place.save(VALUE[:2], "two.npy", overwrite=True)
    assert place.load("a.npy").tolist() == [0, 1]
    place.save(VALUE, "b.npy")
    place.create_symlink("b.npy", "one.npy", overwrite=True)
    assert place.load("two.npy").tolist() == [0, 1, 2]
    assert place.list_dir(".") == ["a.npy", "b.npy", "one.npy", "two.npy"]


def test_a_link_never_replaces_a_directory_that_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskBackend(tmp_path)
    disk.save(VALUE, "a.npy")
    disk.create_symlink("a.npy", "link.npy")
    symlink = os.symlink

    def replaced_meanwhile(*arguments: Any, **options: Any) -> None:
        symlink(*arguments, **options)
        (tmp_path / "link.npy").unlink()
        disk.save(VALUE[:1], "link.npy/b.npy", parents=True)

    monkeypatch.setattr(os, "symlink", replaced_meanwhile)
    with pytest.raises(PathExistsError):
        disk.create_symlink("a.npy", "link.npy", overwrite=True)
    assert disk.load("link.npy/b.npy").tolist() == [0]
    assert visible(tmp_path) == ["a.npy", "link.npy"]


# What is neither file nor directory


def test_pipes_and_sockets_never_hang_and_can_be_deleted(place: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("sock.npy")
    listening.close()
    for path in ("pipe.npy", "sock.npy"):
        assert place.exists(path)
        assert not place.is_file(path)
        assert not place.is_dir(path)
        assert (place.stat(path)["type"], place.stat(path)["exists"]) == ("file", True)
        uses: list[Callable[[], Any]] = [
            partial(place.load, path),
            partial(place.load_batch, [path]),
        ]
        for use in uses:
            with pytest.raises(UnsupportedFormatError, match=rf"pipe, a socket.*{path}"):
                use()
        with pytest.raises(PathExistsError):
            place.save(VALUE, path)
        with pytest.raises(PathNotDirectoryError):
            place.list_dir(path)
        with pytest.raises(StorageWriteError, match=f"'{path}' is neither file"):
            place.copy(path, "copy")
    assert place.list_dir(".") == ["pipe.npy", "sock.npy"]
    assert place.list_files(".") == []
    place.delete("pipe.npy")
    place.delete_all("sock.npy")
    assert place.list_dir(".") == []


def test_a_tree_with_a_pipe_is_copied_whole_or_not_at_all(place: Any, tmp_path: Path) -> None:
    place.save(VALUE, "d/a.npy", parents=True)
    os.mkfifo(tmp_path / "d/pipe")
    with pytest.raises(StorageWriteError, match="'pipe' is neither file"):
        place.copy("d", "new")
    assert visible(tmp_path) == ["d"]
    place.delete_all("d")
    assert visible(tmp_path) == []


# Names


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)])
def test_a_path_that_is_too_long_is_invalid_and_not_there(tmp_path: Path, name: str) -> None:
    disk = DiskBackend()
    path = f"{tmp_path}/{name}.npy"
    uses: tuple[Callable[[], Any], ...] = (
        lambda: disk.load(path),
        lambda: disk.list_dir(path),
        lambda: disk.save(VALUE, path, parents=True),
        lambda: disk.save_batch([VALUE], [path], parents=True),
        lambda: disk.ensure_directory(path),
        lambda: disk.delete_all(path),
    )
    for use in uses:
        with pytest.raises(InvalidPathError, match="too long"):
            use()
    assert not disk.exists(path)
    assert disk.stat(path)["type"] == "missing"


def test_names_that_are_no_utf8_come_and_go(place: Any, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.npy")
    place.save(VALUE, name)
    assert place.list_dir(".") == [name]
    [listed] = place.list_files(".")
    assert place.load(listed).tolist() == [0, 1, 2]
    with pytest.raises(PathExistsError, match="udcff"):
        place.save(VALUE, name)
    for use in (place.exists, place.load, place.stat, place.is_symlink, place.delete_all):
        with pytest.raises(InvalidPathError, match="encoded"):
            use("\ud800.npy")


def test_a_directory_entry_is_a_path(tmp_path: Path) -> None:
    disk = DiskBackend()
    disk.save(VALUE, tmp_path / "a.npy")
    [entry] = os.scandir(tmp_path)
    assert disk.load(entry).tolist() == disk.load_batch([entry])[0].tolist() == [0, 1, 2]
    with pytest.raises(PathExistsError) as caught:
        disk.save(VALUE, entry)
    assert caught.value.path == str(tmp_path / "a.npy")


@pytest.mark.timeout(120)
def test_a_tree_of_any_depth_is_saved_listed_copied_and_deleted(tmp_path: Path) -> None:
    for disk, depth in ((DiskBackend(), 1000), (DiskBackend(tmp_path / "root"), 2100)):
        top = str(tmp_path / "deep") if depth == 1000 else "/deep"
        bottom = top + "/x" * depth
        disk.save(VALUE, f"{bottom}/a.npy", parents=True)
        assert disk.load(f"{bottom}/a.npy").tolist() == [0, 1, 2]
        disk.copy(top, f"{top}er")
        assert disk.exists(f"{top}er" + "/x" * depth + "/a.npy")
        disk.delete_all(f"{top}er")
        disk.move(top, f"{top}est")
        disk.delete_all(f"{top}est")
        assert not disk.exists(f"{top}est")


# Modes, times, and the loss of power


def test_a_new_file_honours_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    old = os.umask(0o027)
    try:
        disk.save(b"x", "d/a.bin", parents=True)
        assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "d/a.bin").stat().st_mode & 0o777 == 0o640
        (tmp_path / "d/a.bin").chmod(0o600)
        disk.save(b"y", "d/a.bin", overwrite=True, durable=True)
        assert (tmp_path / "d/a.bin").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_a_copy_keeps_modes_and_times_also_of_directories(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    disk.save(b"x", "d/e/a.bin", parents=True)
    for name, mode, when in (("d/e/a.bin", 0o640, 5), ("d/e", 0o700, 6), ("d", 0o750, 7)):
        (tmp_path / name).chmod(mode)
        os.utime(tmp_path / name, (when, when))
    disk.copy("d", "new")
    for name in ("", "/e", "/e/a.bin"):
        old, new = (tmp_path / f"d{name}").stat(), (tmp_path / f"new{name}").stat()
        assert (new.st_mode, new.st_mtime) == (old.st_mode, old.st_mtime)


def test_stat_tells_when_a_file_was_changed(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    disk.save(VALUE, "a.npy")
    os.utime(tmp_path / "a.npy", (1.5, 1234567890.25))
    assert disk.stat("a.npy")["modified"] == 1234567890.25


def test_a_durable_save_syncs_the_file_and_each_directory_it_is_found_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    DiskBackend(tmp_path).save(b"x", "new/deep/a.bin", parents=True, durable=True)
    assert {str(tmp_path), str(tmp_path / "new"), str(tmp_path / "new/deep")} <= synced
    assert any(PREFIX in file for file in synced)
    synced.clear()
    DiskBackend(tmp_path).save(b"x", "b.bin")
    assert synced == set()


# Others at the same time


def test_threads_that_overwrite_one_file_leave_one_of_their_values(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    threads = [
        threading.Thread(
            target=disk.save, args=(np.full(1000, i), "a.npy"), kwargs={"overwrite": True}
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(disk.load("a.npy").tolist())) == 1
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_directory_that_goes_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskBackend(tmp_path)
    disk.save_batch([VALUE, VALUE], ["d/gone/a.npy", "d/kept/b.npy"], parents=True)
    scandir = os.scandir

    def deleting(directory: str) -> Any:
        found = scandir(directory)
        if disk.exists("d/gone"):
            disk.delete_all("d/gone")
        return found

    monkeypatch.setattr(os, "scandir", deleting)
    assert disk.list_files("d", recursive=True) == ["/d/kept/b.npy"]


@pytest.mark.parametrize("rooted", [False, True])
def test_an_array_is_never_seen_half_deleted(tmp_path: Path, rooted: bool) -> None:
    place, top = (ZarrBackend(tmp_path), "") if rooted else (ZarrBackend(), f"{tmp_path}/")
    full = np.ones((400, 40), np.uint8)
    loaded = threading.Semaphore(0)
    torn: list[Any] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with suppress(PathNotFoundError):
                value = place.load(f"{top}d/a")
                if not value.all():
                    torn.append(value)
                loaded.release()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(10):
            place.save(full, f"{top}d/a", chunks=(20, 40), parents=True)
            assert loaded.acquire(timeout=60)
            if number % 2:
                place.delete(f"{top}d/a")
            else:
                place.delete_all(f"{top}d")
    finally:
        done.set()
        reader.join()
    assert not torn
