"""Trees deeper than calls can nest, and links that lead out of a root: the rest is found."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, FileManager, ZarrBackend
from polystore_ray.cli import files
from polystore_ray.cli.places import Place

DEPTH = 1100


@pytest.fixture(params=[DiskBackend, ZarrBackend])
def backend(request: Any, tmp_path: Path) -> Any:
    return request.param(tmp_path)


@pytest.fixture
def deep(backend: Any, tmp_path: Path) -> Any:
    """Return a backend with a file that lies deep, made by one step after another."""
    directory = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    file = os.open("a.bin", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
    os.write(file, b"deep")
    os.close(file)
    os.close(directory)
    yield backend
    backend.delete_all("/d")


def test_a_deep_tree_is_walked_copied_and_deleted_in_a_time_that_grows_with_it(deep: Any) -> None:
    start = time.monotonic()
    [found] = deep.list_files("/", recursive=True)
    assert found == "/d" * DEPTH + "/a.bin"
    directories, found_files, others = deep.walk("/")
    assert (len(directories), found_files, others) == (DEPTH + 1, [found], [])
    deep.copy("/d", "/copy")
    deep.delete_all("/copy")
    assert time.monotonic() - start < 120


def test_what_is_made_and_linked_deep_takes_a_time_that_grows_with_the_depth(backend: Any) -> None:
    start = time.process_time()
    deep = "/d" * DEPTH
    backend.save(np.zeros(3), f"{deep}/a.npy", parents=True)
    backend.save(np.ones(3), f"{deep}/a.npy", overwrite=True)
    backend.ensure_directory(f"{deep}/e/f")
    backend.create_symlink(f"{deep}/a.npy", "/link.npy")
    assert backend.load("/link.npy").sum() == 3
    backend.delete(f"{deep}/a.npy")
    backend.delete_all("/d")
    assert time.process_time() - start < 4


def test_the_command_line_shows_a_tree_deeper_than_calls_nest() -> None:
    class Straight:
        """A file manager of one path."""

        def list_dir(self, path: str, backend: object) -> list[str]:
            return ["a.bin"] if path.count("/d") == DEPTH else ["d"]

        def is_dir(self, path: str, backend: object) -> bool:
            return not path.endswith("a.bin")

        def is_symlink(self, path: str, backend: object) -> bool:
            return False

        def stat(self, path: str, backend: object) -> dict[str, int]:
            return {"size": 4}

    fm: Any = Straight()
    place = Place("disk", "/")
    assert set(files._sums(fm, place).values()) == {4}
    assert len(list(files._lines(fm, place, "", None))) == DEPTH + 1
    assert len(list(files._lines(fm, place, "", 3))) == 3
    assert files._branch(fm, place, 2, set()) == {"d": {"d": {}}}


def test_a_link_that_leads_out_of_a_root_is_left_out_and_the_rest_is_found(
    backend: Any, tmp_path: Path
) -> None:
    fm = FileManager({"files": backend})
    backend.save(np.arange(3), "/s/d/a.npy", parents=True)
    for name, target in {"dir": "/etc", "file": "/etc/passwd", "loop": "loop"}.items():
        (tmp_path / "s" / name).symlink_to(target)
    left_out = {"/s/dir", "/s/file", "/s/loop"}
    directories, found, others = backend.walk("/s")
    assert (directories, found, set(others)) == (["/s", "/s/d"], ["/s/d/a.npy"], left_out)
    assert fm.collect_dirs_and_files("/s", "files") == (["/s", "/s/d"], ["/s/d/a.npy"])
    assert fm.mirror_directory_with_symlinks("/s", "/mirror", "files") == 1
    fm.copy("/s", "/copy", "files")
    assert backend.load("/copy/d/a.npy").tolist() == [0, 1, 2]
    assert fm.find_file_recursive("/s", "a.npy", "files") == "/s/d/a.npy"
