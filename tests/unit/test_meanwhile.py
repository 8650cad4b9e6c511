"""Others act between two steps of an operation, once each, at the worst time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DirectoryNotEmptyError, DiskBackend, PathExistsError, PathNotFoundError
from polystore.filesystem import changes
from polystore.filesystem import tree_operations as trees
from polystore.filesystem.dir_fd import Handle
from polystore.filesystem.values import FileValues
from polystore.formats import format as format_module
from polystore.zarr import ZarrBackend
from polystore.zarr.local.values import ArrayValues

OLD, NEW = np.full((40, 40), 1, np.uint8), np.full((60, 40), 2, np.uint8)

Meanwhile = Callable[[Any, str, Callable[[], object]], None]


FILES = pytest.mark.parametrize("store", ["disk", "rooted disk"], indirect=True)


@pytest.fixture(params=["disk", "rooted disk", "zarr", "rooted zarr"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a backend whose paths lie in a directory of its own."""
    cls: Any = ZarrBackend if "zarr" in request.param else DiskBackend
    if "rooted" in request.param:
        return cls(tmp_path)
    monkeypatch.chdir(tmp_path)
    return cls()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meanwhile]:
    """Return a function that lets another act right before the first call of a function."""
    waiting: list[str] = []

    def arrange(module: Any, name: str, act: Callable[[], object]) -> None:
        real = getattr(module, name)
        waiting.append(name)

        def disturbed(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(module, name, real)
            waiting.remove(name)
            act()
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, disturbed)

    yield arrange
    assert not waiting


def test_a_save_makes_parents_again_that_are_deleted(store: Any, meanwhile: Meanwhile) -> None:
    store.ensure_directory("d")
    meanwhile(changes, "keep_mode", lambda: store.delete_all("d"))
    store.save(NEW, "d/e/a.npy", parents=True, overwrite=True)
    assert (store.load("d/e/a.npy") == NEW).all()
    assert store.list_files("d", recursive=True) == [f"{store.ensure_directory('d')}/e/a.npy"]


def test_a_save_without_parents_says_that_its_parent_is_gone(
    store: Any, meanwhile: Meanwhile
) -> None:
    store.ensure_directory("d")
    meanwhile(changes, "keep_mode", lambda: store.delete_all("d"))
    with pytest.raises(PathNotFoundError, match=r"d/a\.npy"):
        store.save(NEW, "d/a.npy", overwrite=True)
    assert not store.exists("d")


def test_an_overwriting_save_takes_the_place_of_what_another_saves(
    store: Any, meanwhile: Meanwhile
) -> None:
    meanwhile(changes, "keep_mode", lambda: store.save(OLD, "a.npy"))
    store.save(NEW, "a.npy", overwrite=True)
    assert (store.load("a.npy") == NEW).all()


def test_an_overwriting_save_takes_the_place_of_what_another_deletes(
    store: Any, meanwhile: Meanwhile
) -> None:
    store.save(OLD, "a.npy")
    meanwhile(changes, "keep_mode", lambda: store.delete("a.npy"))
    store.save(NEW, "a.npy", overwrite=True)
    assert (store.load("a.npy") == NEW).all()


def test_a_link_takes_the_place_of_one_that_another_makes(store: Any, meanwhile: Meanwhile) -> None:
    store.save(OLD, "old.npy")
    store.save(NEW, "new.npy")
    meanwhile(changes, "replace_checked", lambda: store.create_symlink("old.npy", "link.npy"))
    store.create_symlink("new.npy", "link.npy", overwrite=True)
    assert (store.load("link.npy") == NEW).all()


def test_a_directory_is_none_where_another_saves_a_value(store: Any, meanwhile: Meanwhile) -> None:
    kind = FileValues if isinstance(store, DiskBackend) else ArrayValues
    meanwhile(kind, "make_directory", lambda: store.save(OLD, "a.npy", overwrite=True))
    with pytest.raises(PathExistsError, match="file"):
        store.ensure_directory("a.npy")
    assert store.is_file("a.npy")


def test_what_is_saved_into_a_directory_that_was_empty_keeps_it(
    store: Any, meanwhile: Meanwhile
) -> None:
    store.ensure_directory("d")
    meanwhile(os, "rmdir", lambda: store.save(NEW, "d/a.npy"))
    with pytest.raises(DirectoryNotEmptyError):
        store.delete("d")
    assert (store.load("d/a.npy") == NEW).all()
    store.delete("d/a.npy")
    store.delete("d")
    assert not store.exists("d")


@pytest.mark.parametrize("store", ["zarr", "rooted zarr"], indirect=True)
def test_a_group_that_took_the_place_of_an_array_is_not_deleted_as_one(
    store: Any, meanwhile: Meanwhile
) -> None:
    store.save(OLD, "a")

    def act() -> None:
        store.delete("a")
        store.save(NEW, "a/b", parents=True)

    meanwhile(os, "replace", act)
    with pytest.raises(DirectoryNotEmptyError):
        store.delete("a")
    assert (store.load("a/b") == NEW).all()


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_copy_is_whole_when_a_part_of_its_source_goes(
    store: Any, meanwhile: Meanwhile, change: str
) -> None:
    store.save(OLD, "d/a.npy", parents=True)
    store.save(OLD, "d/b.npy")

    def act() -> None:
        for name in ("d/a.npy", "d/b.npy"):
            if change == "replaced":
                store.save(NEW, name, overwrite=True)
            else:
                store.delete(name)

    meanwhile(trees, "_copy_file", act)
    store.copy("d", "new")
    for name in store.list_dir("new"):
        assert np.unique(store.load(f"new/{name}")).size == 1
    assert store.list_dir("new") == store.list_dir("d")


def test_delete_all_takes_what_others_delete_and_save_in_the_tree(
    store: Any, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    store.save(OLD, "d/e/a.npy", parents=True)

    def act() -> None:
        [hidden] = (path for path in tmp_path.rglob("a.npy") if "/d/e/" not in str(path))
        with Handle.at(str(hidden.parent.parent)) as above:
            trees.delete_tree(above.location(hidden.parent.name))

    meanwhile(changes, "delete_tree", act)
    store.delete_all("d")
    assert store.list_dir(".") == []
    assert [name for name in os.listdir(tmp_path) if name != "zarr.json"] == []


@FILES
def test_a_region_goes_into_the_array_that_another_saves(store: Any, meanwhile: Meanwhile) -> None:
    store.save(OLD, "a.npy")
    meanwhile(format_module, "put_region", lambda: store.save(NEW, "a.npy", overwrite=True))
    store.save(9, "a.npy", region=0)
    found = store.load("a.npy")
    assert found.shape == NEW.shape
    assert (found[0] == 9).all()
    assert (found[1:] == NEW[1:]).all()


@FILES
def test_a_region_of_what_another_deletes_makes_nothing(store: Any, meanwhile: Meanwhile) -> None:
    store.save(OLD, "a.npy")
    meanwhile(format_module, "put_region", lambda: store.delete("a.npy"))
    with pytest.raises(PathNotFoundError):
        store.save(9, "a.npy", region=0)
    assert not store.exists("a.npy")
