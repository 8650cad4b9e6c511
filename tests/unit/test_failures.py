"""Contract lines 14, 21 and 34: what a full disk, a lack of permission and of descriptors do."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    DirectoryNotEmptyError,
    DiskBackend,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
    ZarrBackend,
)

VALUE = np.arange(3)


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("cls", [DiskBackend, ZarrBackend])
def test_a_save_that_fails_takes_the_parents_it_made_with_it(
    tmp_path: Path, cls: Any, rooted: bool
) -> None:
    backend, top = (cls(tmp_path), "") if rooted else (cls(), str(tmp_path))
    backend.ensure_directory(f"{top}/there")
    for path in ("new/deep/a.npy", "there/new/a.npy"):
        with pytest.raises(StorageError):
            backend.save(object(), f"{top}/{path}", parents=True)
    assert backend.list_dir(top or "/") == ["there"]
    assert backend.list_dir(f"{top}/there") == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let writes fail as they do on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NOISE = np.random.default_rng(0).integers(0, 255, (600, 600), dtype=np.uint8)
TEXT = "x" * 300_000
VALUES: dict[str, tuple[Any, Any]] = {  # small ones, and what has no room
    "a.npy": (NOISE[:5], NOISE),
    "a.npz": ({"a": NOISE[:5]}, {"a": NOISE}),
    "a.json": ("x", TEXT),
    "a.csv": ([["x", 1]], [[TEXT, 1]]),
    "a.txt": ("x", TEXT),
    "a.bin": (b"x", TEXT.encode()),
    "a.tif": (NOISE[:5], NOISE),
    "a.png": (NOISE[:5], NOISE),
    "a.jpg": (NOISE[:5], NOISE),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_the_old_value_or_nothing(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    disk = DiskBackend(tmp_path)
    small, large = VALUES[name]
    if overwrite:
        disk.save(small, name)
        before = (tmp_path / name).read_bytes()
    with files_of_at_most(65_536), pytest.raises(StorageWriteError) as caught:
        disk.save(large, name, overwrite=overwrite)
    assert f"'{name}' (backend disk)" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == ([name] if overwrite else [])
    if overwrite:
        assert (tmp_path / name).read_bytes() == before


def test_a_copy_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    disk.save_batch([NOISE, NOISE[:5]], ["d/a.npy", "d/b.npy"], parents=True)
    with files_of_at_most(65_536), pytest.raises(StorageWriteError, match="/new'"):
        disk.copy("d", "/new")
    assert os.listdir(tmp_path) == ["d"]


# What one may not do


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a directory that everybody may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to everything, where tests have it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("rooted", [False, True])
def test_what_may_not_be_read_is_not_there_or_says_so(shared: Path, rooted: bool) -> None:
    disk = DiskBackend(shared) if rooted else DiskBackend()
    top = "" if rooted else str(shared)
    disk.save(VALUE, f"{top}/closed/a.npy", parents=True)
    disk.save(VALUE, f"{top}/mine.npy")
    (shared / "mine.npy").chmod(0)
    (shared / "closed").chmod(0)
    try:
        with as_nobody():
            path = f"{top}/closed/a.npy"
            assert not disk.exists(path)
            assert not disk.is_symlink(path)
            assert disk.stat(path)["type"] == "missing"
            assert disk.stat(f"{top}/mine.npy")["type"] == "file"
            uses: tuple[Callable[[], Any], ...] = (
                lambda: disk.load(path),
                lambda: disk.load(f"{top}/mine.npy"),
                lambda: disk.list_dir(f"{top}/closed"),
                lambda: disk.list_files(top or "/", recursive=True),
            )
            for use in uses:
                with pytest.raises(StorageResolutionError, match="Permission denied") as caught:
                    use()
                assert type(caught.value) is StorageResolutionError
                assert caught.value.path in (path, f"{top}/mine.npy", f"{top}/closed")
    finally:
        (shared / "closed").chmod(0o755)


@pytest.mark.parametrize("cls", [DiskBackend, ZarrBackend])
@pytest.mark.parametrize("rooted", [False, True])
def test_a_read_only_directory_says_what_was_refused(shared: Path, cls: Any, rooted: bool) -> None:
    backend = cls(shared) if rooted else cls()
    top = "" if rooted else str(shared)
    backend.save(VALUE, f"{top}/d/a.npy", parents=True)
    (shared / "d").chmod(0o555)
    with as_nobody():
        uses: tuple[Callable[[], Any], ...] = (
            lambda: backend.save(VALUE, f"{top}/d/b.npy"),
            lambda: backend.save(VALUE, f"{top}/d/a.npy", overwrite=True),
            lambda: backend.save(VALUE, f"{top}/d/e/b.npy", parents=True),
            lambda: backend.ensure_directory(f"{top}/d/e"),
            lambda: backend.delete(f"{top}/d/a.npy"),
            lambda: backend.delete_all(f"{top}/d"),
            lambda: backend.move(f"{top}/d/a.npy", f"{top}/d/b.npy"),
            lambda: backend.create_symlink(f"{top}/d/a.npy", f"{top}/d/l.npy"),
        )
        for use in uses:
            with pytest.raises(StorageWriteError, match="Permission denied") as caught:
                use()
            assert str(caught.value.path).startswith(f"{top}/d")
        assert backend.load(f"{top}/d/a.npy").tolist() == [0, 1, 2]
        assert backend.list_dir(f"{top}/d") == ["a.npy"]


def test_no_file_is_damaged_only_because_it_could_not_be_opened(tmp_path: Path) -> None:
    disk = DiskBackend()
    path = tmp_path / "a.npy"
    disk.save(VALUE, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StorageResolutionError, match="Too many open files") as caught:
            disk.load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EMFILE


def test_a_deletion_that_fails_midway_puts_back_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskBackend(tmp_path)
    disk.save_batch([VALUE, VALUE], ["d/a.npy", "d/b.npy"], parents=True)
    unlink = os.unlink

    def failing(path: str, **options: Any) -> None:
        if path == "b.npy":
            raise PermissionError(errno.EPERM, "refused", path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", failing)
    with pytest.raises(StorageWriteError, match="'d'"):
        disk.delete_all("d")
    assert disk.exists("d/b.npy")
    with pytest.raises(DirectoryNotEmptyError, match="delete_all"):
        disk.delete("d")
