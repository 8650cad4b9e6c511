"""Contract line 12, against somebody who exchanges directories for links meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, InvalidPathError, StorageError, ZarrBackend
from polystore.filesystem.temporaries import exchange

SECRET = np.full(50, 42, dtype=np.uint8)
SECONDS, ENOUGH = 1.5, 20


@pytest.fixture(params=[DiskBackend, ZarrBackend])
def cls(request: Any) -> Any:
    return request.param


@pytest.fixture
def outside(cls: Any, tmp_path: Path) -> Path:
    """Return a directory with a secret that nobody may read, change or add to."""
    outside = tmp_path / "outside"
    cls().save_batch([SECRET, SECRET], [outside / "a.npy", outside / "deep/a.npy"], parents=True)
    return outside


@pytest.fixture
def root(cls: Any, outside: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a root in which ``d`` is all the time exchanged for a link that leads out."""
    root = tmp_path / "root"
    cls(root).save(np.zeros(50, np.uint8), "d/a.npy", parents=True)
    cls(root).save(np.zeros(50, np.uint8), "d/deep/a.npy", parents=True)
    (root / "link").symlink_to(outside)
    (root / "file.npy").symlink_to(outside / "a.npy")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            with suppress(FileNotFoundError):
                assert exchange(str(root / "d"), str(root / "link"))

    swapper = threading.Thread(target=swap)
    swapper.start()
    yield root
    done.set()
    swapper.join()


def everything(top: Path) -> list[tuple[str, int, int]]:
    """Return what is in a tree, with what would show a change."""
    found = sorted(top.rglob("*"))
    return [(str(f), f.stat().st_mtime_ns, f.stat().st_mode) for f in (top, *found)]


def test_no_operation_leaves_the_root(cls: Any, root: Path, outside: Path) -> None:
    before = everything(outside)
    backend = cls(root)
    counts = {"inside": 0, "refused": 0}

    def attempt(operation: Any, *arguments: Any, **options: Any) -> Any:
        try:
            result = operation(*arguments, **options)
        except InvalidPathError:
            counts["refused"] += 1
            return None
        except StorageError:
            return None
        counts["inside"] += 1
        return result

    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end or min(counts.values()) <= ENOUGH:
        number += 1
        for path in ("d/a.npy", "d/deep/a.npy"):
            loaded = attempt(backend.load, path)
            assert loaded is None or not loaded.any()
            part = attempt(backend.load, path, region=(slice(2),))
            assert part is None or not part.any()
            attempt(backend.save, np.zeros(50, np.uint8), path, overwrite=True)
            attempt(backend.save, 0, path, region=0)
        attempt(backend.save, SECRET, f"d/new{number}.npy")
        attempt(backend.save, SECRET, f"d/made/new{number}.npy", parents=True)
        attempt(backend.delete, f"d/new{number}.npy")
        attempt(backend.ensure_directory, f"d/e{number}/f")
        attempt(backend.copy, "d/deep", f"d/copied{number}")
        attempt(backend.copy, "d/a.npy", f"copied{number}.npy")
        attempt(backend.move, f"d/copied{number}", f"d/moved{number}")
        attempt(backend.delete_all, f"d/moved{number}")
        attempt(backend.create_symlink, "d/a.npy", f"d/link{number}.npy")
        names = attempt(backend.list_dir, "d") or []
        assert "a.npy" in names or not names
        for copied in backend.list_files("/"):
            if copied.startswith("/copied"):
                assert not backend.load(copied).any()
                backend.delete(copied)
    after = everything(outside)
    assert after == before, set(after) ^ set(before)


def test_links_that_stay_inside_are_followed(cls: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    backend = cls(root)
    backend.save(SECRET, "d/a.npy", parents=True)
    os.symlink("d", root / "relative")
    os.symlink(root / "d", root / "absolute")
    os.symlink("../absolute/../d/a.npy", root / "d/up.npy")
    for path in ("relative/a.npy", "absolute/a.npy", "d/up.npy", "relative/up.npy"):
        assert (backend.load(path) == 42).all()
    backend.save(SECRET, "absolute/b.npy")
    assert backend.list_dir("d") == ["a.npy", "b.npy", "up.npy"]
    assert backend.stat("d/up.npy")["target"] in ("/d/a.npy", "/absolute/../d/a.npy")
