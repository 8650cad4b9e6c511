"""Contract lines 29 to 32: the file manager."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import (
    BackendNotFoundError,
    BackendRegistry,
    DiskBackend,
    FileManager,
    MemoryBackend,
    PathExistsError,
    PathNotFoundError,
    ReadOnlyBackend,
    StorageBackend,
    StorageError,
    StorageResolutionError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.progress import Lines
from polystore_ray import RayBackendRegistry


class Plain(StorageBackend):
    """A custom backend as the documentation's examples write it: no keyword, foreign errors."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def load(self, file_path: Any, **kwargs: Any) -> Any:
        return self.values[file_path]

    def save(self, data: Any, identifier: Any, **kwargs: Any) -> None:
        assert not kwargs
        self.values[identifier] = data

    def is_file(self, path: Any) -> bool:
        return path in self.values

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return sorted(self.values)


class Archive(ReadOnlyBackend):
    def load(self, path: Any) -> Any:
        return f"value of {path}"

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


@pytest.fixture
def fm() -> FileManager:
    registry = {"Memory": MemoryBackend(), "plain": Plain(), "archive": Archive()}
    return FileManager(registry)


def test_a_plain_dict_serves_as_registry_and_keys_compare_without_case(fm: FileManager) -> None:
    class Key(Enum):
        MEMORY = "MEMORY"

    fm.save(1, "/a", backend="memory")
    assert fm.load("/a", backend=Key.MEMORY) == 1


OPERATIONS = {
    name: inspect.signature(method).parameters
    for name, method in vars(FileManager).items()
    if not name.startswith("_") and not inspect.iscoroutinefunction(method)
}
ARGUMENTS: dict[str, Any] = {
    "path": "/a",
    "source": "/a",
    "destination": "/b",
    "target": "/b",
    "link": "/b",
    "filename": "a",
    "data": 1,
    "values": [1],
    "paths": ["/a"],
    "shape": (1,),
    "function": len,
    "count": 1,
}


def call(fm: FileManager, operation: str, backend: Any, **options: Any) -> Any:
    names = list(OPERATIONS[operation])[1:]
    given = {name: ARGUMENTS[name] for name in names if name in ARGUMENTS}
    return getattr(fm, operation)(**given, backend=backend, **options)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_to_be_told_its_backend(fm: FileManager, operation: str) -> None:
    assert OPERATIONS[operation]["backend"].default is inspect.Parameter.empty
    with pytest.raises(BackendNotFoundError, match=r"'mnemory'.*Memory, plain"):
        call(fm, operation, "mnemory")
    for key in (None, 17):
        with pytest.raises(VFSTypeError, match="key"):
            call(fm, operation, key)


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if name.startswith("s") and name != "stack"]
)
def test_a_keyword_that_is_mistyped_is_not_swallowed(
    fm: FileManager, tmp_path: Path, operation: str
) -> None:
    fm.registry["disk"] = DiskBackend(tmp_path)  # type: ignore[index]
    for backend in ("memory", "disk"):
        with pytest.raises(TypeError, match="overwrit"):
            call(fm, operation, backend, overwrit=True)
    with pytest.raises(
        VFSTypeError,
        match=r"DiskBackend.load takes no regoin= \(did you mean 'region'\?\); its options are .*"
        r"series, suffix, writable: '/a' \(backend disk\)",
    ):
        fm.load("/a", backend="disk", regoin=0)
    assert os.listdir(tmp_path) == []


def test_no_other_backend_is_made_to_find_one() -> None:
    class Lazy(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            if key == "Broken":
                raise AssertionError("it was not asked for")
            return super().__getitem__(key)

    fm = FileManager(Lazy({"Broken": None, "Memory": MemoryBackend()}))
    fm.save(1, "/a", backend="memory")
    assert fm.load("/a", backend="MEMORY") == 1


def test_saves_make_parents_and_lists_are_in_natural_order(fm: FileManager) -> None:
    names = ["img10", "img2", "r5\u00b20.txt", "img1"]
    fm.save_batch(list(range(4)), [f"/d/{name}" for name in names], backend="memory")
    assert fm.list_dir("/d", backend="memory") == ["img1", "img2", "img10", "r5\u00b20.txt"]
    assert fm.list_files("/d", backend="memory", pattern="img*") == [
        "/d/img1",
        "/d/img2",
        "/d/img10",
    ]


def test_parents_can_be_declined(fm: FileManager) -> None:
    with pytest.raises(PathNotFoundError):
        fm.save(1, "/d/a", backend="memory", parents=False)


def test_a_backend_without_the_keyword_is_not_given_it(fm: FileManager) -> None:
    fm.save(1, "a", backend="plain")
    fm.save_batch([2, 3], ["b", "c"], backend="plain")
    assert fm.load_batch(["c", "a"], backend="plain") == [3, 1]


def test_a_foreign_exception_is_wrapped_with_its_cause_and_text(fm: FileManager) -> None:
    with pytest.raises(StorageResolutionError) as caught:
        fm.load("none", backend="plain")
    assert isinstance(caught.value.__cause__, KeyError)
    assert str(caught.value) == "the backend raised KeyError: 'none': 'none' (backend plain)"


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_is_no_failure_of_a_backend_passes_as_it_is(error: BaseException) -> None:
    class Failing(Plain):
        def load(self, file_path: Any, **kwargs: Any) -> Any:
            raise error

    with pytest.raises(type(error)) as caught:
        FileManager({"plain": Failing()}).load("a", backend="plain")
    assert caught.value is error


def test_a_backends_own_error_passes_untouched(fm: FileManager) -> None:
    fm.save(1, "/a", backend="memory")
    with pytest.raises(PathExistsError) as caught:
        fm.save(1, "/a", backend="memory")
    assert caught.value.__cause__ is None


def test_a_read_only_backend_says_that_it_is_one(fm: FileManager) -> None:
    assert fm.load("a", backend="archive") == "value of a"
    for operation in OPERATIONS:
        if operation not in {name for name in dir(ReadOnlyBackend) if name != "copy"} and (
            hasattr(StorageBackend, operation)
        ):
            with pytest.raises(
                UnsupportedOperationError, match=r"can only be read.*\(backend archive\)"
            ):
                call(fm, operation, "archive")


def test_copy_and_move_make_the_parent_once_the_source_is_known(fm: FileManager) -> None:
    fm.save(1, "/a", backend="memory")
    with pytest.raises(PathNotFoundError):
        fm.copy("/none", "/new/b", backend="memory")
    assert not fm.exists("/new", backend="memory")
    fm.copy("/a", "/new/b", backend="memory")
    fm.move("/a", "/newer/c", backend="memory")
    assert fm.list_files("/", backend="memory", recursive=True) == ["/new/b", "/newer/c"]


def test_a_copy_needs_no_directory_where_there_are_none(fm: FileManager) -> None:
    fm.save(1, "a", backend="plain")
    fm.copy("a", Path("d/e/b"), backend="plain")
    assert fm.load_batch(["a", "d/e/b"], backend="plain") == [1, 1]


def test_paths_may_be_path_objects(fm: FileManager) -> None:
    fm.save(1, Path("/d/a"), backend="memory")
    fm.copy(Path("/d/a"), Path("/new/b"), backend="memory")
    fm.move(Path("/new"), Path("/newer/deep"), backend="memory")
    assert fm.collect_dirs_and_files(Path("/newer"), "memory") == (
        ["/newer", "/newer/deep"],
        ["/newer/deep/b"],
    )
    assert fm.mirror_directory_with_symlinks(Path("/newer"), Path("/m"), "memory") == 1
    with pytest.raises(PathNotFoundError, match=r"'/none' \(backend memory\)"):
        fm.copy(Path("/none"), Path("/x"), backend="memory")


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
@pytest.mark.parametrize("local", [False, True])
def test_ensure_directory_returns_a_path_object_for_one(
    backend: str, tmp_path: Path, *, local: bool
) -> None:
    registry = RayBackendRegistry("made", local=True) if local else BackendRegistry.isolated()
    for call in (
        registry[backend].ensure_directory,
        partial(FileManager(registry).ensure_directory, backend=backend),
    ):
        assert call(tmp_path / "d") == tmp_path / "d"
        assert call(f"{tmp_path}/d") == f"{tmp_path}/d"


def test_pickles_wherever_its_registry_does(tmp_path: Path) -> None:
    fm = pickle.loads(pickle.dumps(FileManager({"disk": DiskBackend(tmp_path)})))
    fm.save(np.arange(3), "a.npy", backend="disk")
    assert (tmp_path / "a.npy").exists()
    with pytest.raises(UnsupportedOperationError):
        pickle.dumps(FileManager(BackendRegistry()))


@pytest.mark.parametrize("cls", [DiskBackend, ZarrBackend])
def test_a_batch_that_fails_midway_names_what_was_written(tmp_path: Path, cls: Any) -> None:
    fm = FileManager({"files": cls(tmp_path)})
    values = [np.arange(2), object(), np.arange(3)]
    with pytest.raises(StorageError) as caught:
        fm.save_batch(values, ["d/a.npy", "new/b.npy", "d/c.npy"], backend="files")
    assert caught.value.written == ("d/a.npy",)
    assert "1 of 3" in caught.value.__notes__[0]
    assert fm.list_files("/", backend="files", recursive=True) == ["/d/a.npy"]
    assert fm.list_dir("/", backend="files") == ["d"]


# Line 31


def test_images_are_listed_by_their_endings(fm: FileManager) -> None:
    for name in ("a2.TIF", "a10.png", "notes.txt", "deep/a1.jpeg"):
        fm.save(1, f"/d/{name}", backend="memory")
    assert fm.list_image_files("/d", "memory") == ["/d/a2.TIF", "/d/a10.png"]
    assert fm.list_image_files("/d", "memory", recursive=True)[-1] == "/d/deep/a1.jpeg"
    assert fm.list_image_files("/d", "memory", extensions={".txt"}) == ["/d/notes.txt"]


def test_the_shallowest_file_of_a_name_is_found(fm: FileManager) -> None:
    for path in ("/d/b/x[1]", "/d/a/deep/x[1]", "/d/c/x1"):
        fm.save(1, path, backend="memory")
    assert fm.find_file_recursive("/d", "x[1]", backend="memory") == "/d/b/x[1]"
    assert fm.find_file_recursive("/d", "none", backend="memory") is None


def test_directories_and_files_are_collected_once_base_first(fm: FileManager) -> None:
    for path in ("/d/z/f2", "/d/z/f10", "/d/a/b/f1", "/d/f"):
        fm.save(1, path, backend="memory")
    fm.create_symlink("/d/a", "/d/z/link", backend="memory")
    for top in ("/d", "/d/"):
        assert fm.collect_dirs_and_files(top, "memory") == (
            ["/d", "/d/a", "/d/z", "/d/a/b", "/d/z/link"],
            ["/d/f", "/d/z/f2", "/d/z/f10", "/d/a/b/f1"],
        )
    assert fm.collect_dirs_and_files("/d", "memory", recursive=False) == (
        ["/d", "/d/a", "/d/z"],
        ["/d/f"],
    )


def test_a_mirror_has_directories_and_a_link_for_each_file(fm: FileManager) -> None:
    for path in ("/d/f", "/d/a/g", "/d/a/b/h"):
        fm.save(path, path, backend="memory")
    fm.create_symlink("/d/a", "/d/link", backend="memory")
    assert fm.mirror_directory_with_symlinks("/d", "/m", "memory") == 4
    assert fm.load("/m/a/b/h", "memory") == "/d/a/b/h"
    assert fm.is_symlink("/m/a/b/h", "memory")
    assert not fm.is_symlink("/m/a/b", "memory")
    assert fm.is_symlink("/m/link", "memory")
    assert fm.mirror_directory_with_symlinks("/d", "/flat", "memory", recursive=False) == 1
    assert fm.list_dir("/flat", "memory") == ["f"]
    with pytest.raises(PathExistsError):
        fm.mirror_directory_with_symlinks("/d", "/m", "memory")
    assert fm.mirror_directory_with_symlinks("/d", "/m", "memory", overwrite=True) == 4


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_a_tree_goes_into_another_backend(tmp_path: Path, operation: str) -> None:
    fm = FileManager({"memory": MemoryBackend(), "disk": DiskBackend(tmp_path)})
    for name in ("a.npy", "deep/b.npy"):
        fm.save(np.arange(3), f"/d/{name}", backend="memory")
    fm.ensure_directory("/d/empty", backend="memory")
    fm.create_symlink("/d/a.npy", "/d/link.npy", backend="memory")
    getattr(fm, operation)("/d/", "/new/d", "memory", to_backend="DISK")
    assert fm.collect_dirs_and_files("/new", "disk") == (
        ["/new", "/new/d", "/new/d/deep", "/new/d/empty"],
        ["/new/d/a.npy", "/new/d/link.npy", "/new/d/deep/b.npy"],
    )
    assert not fm.is_symlink("/new/d/link.npy", "disk")
    assert fm.exists("/d", "memory") == (operation == "copy")
    fm.ensure_directory("/d", backend="memory")
    with pytest.raises(PathExistsError, match="disk"):
        fm.copy("/d", "/new/d", "memory", to_backend="disk")


def test_a_tree_that_cannot_arrive_whole_keeps_its_source(tmp_path: Path) -> None:
    fm = FileManager({"memory": MemoryBackend(), "disk": DiskBackend(tmp_path)})
    fm.save_batch([np.arange(3), "no array"], ["/d/a.npy", "/d/b.npy"], backend="memory")
    with pytest.raises(StorageError, match=r"/new/b\.npy") as caught:
        fm.move("/d", "/new", "memory", to_backend="disk")
    assert caught.value.written == ("/new/a.npy",)
    assert fm.list_dir("/d", "memory") == ["a.npy", "b.npy"]


def test_a_link_to_a_directory_cannot_go_into_another_backend(tmp_path: Path) -> None:
    fm = FileManager({"memory": MemoryBackend(), "disk": DiskBackend(tmp_path)})
    fm.save(1, "/d/a/f.json", backend="memory")
    fm.create_symlink("/d", "/d/a/up", backend="memory")
    with pytest.raises(UnsupportedOperationError, match="/d/a/up"):
        fm.copy("/d", "/new", "memory", to_backend="disk")
    assert not fm.exists("/new", "disk")


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_nothing_is_dropped_on_the_way_into_another_backend(tmp_path: Path, operation: str) -> None:
    fm = FileManager({"memory": MemoryBackend(), "disk": DiskBackend(tmp_path)})
    fm.save_batch([1, 2], ["/d/a.json", "/d/b.json"], backend="disk")
    fm.create_symlink("/d/a.json", "/d/dangling.json", backend="disk")
    fm.delete("/d/a.json", backend="disk")
    with pytest.raises(UnsupportedOperationError, match=r"/d/dangling\.json"):
        getattr(fm, operation)("/d", "/new", "disk", to_backend="memory")
    assert not fm.exists("/new", "memory")
    assert fm.list_dir("/d", "disk") == ["b.json", "dangling.json"]


# Progress


@pytest.mark.parametrize("backend", ["memory", "plain", "disk"])
def test_a_batch_tells_how_far_it_is(tmp_path: Path, backend: str) -> None:
    fm = FileManager({"memory": MemoryBackend(), "plain": Plain(), "disk": DiskBackend(tmp_path)})
    paths = ["/a.json", "/b.json", "/c.json"]
    told: list[tuple[int, int]] = []
    fm.save_batch([1, 2, 3], paths, backend, progress=lambda *counts: told.append(counts))
    fm.load_batch(paths, backend, progress=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_progress_true_shows_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    MemoryBackend().save_batch([1, 2], ["a", "b"], progress=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "\r" in shown


def test_progress_true_writes_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    MemoryBackend().save_batch([1, 2], ["a", "b"], progress=True)
    assert capsys.readouterr().err == "saving: 2/2\n"
    monkeypatch.setattr(Lines, "every", 0)
    MemoryBackend().save_batch([1, 2], ["a", "b"], progress=True)
    assert capsys.readouterr().err == "saving: 1/2\nsaving: 2/2\n"


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_the_last_values_are_kept(backend: str, tmp_path: Path) -> None:
    fm = FileManager(BackendRegistry.isolated())
    top = str(tmp_path / "run") if backend != "memory" else "/run"
    suffix = "" if backend == "zarr" else ".npy"
    names = [name + suffix for name in ("10", "9", "best", "11")]
    for name in names:
        fm.save(np.zeros(2), f"{top}/{name}", backend=backend)
        time.sleep(0.02)  # a file system may tell times apart only so far
    if backend != "zarr":
        fm.create_symlink(f"{top}/11.npy", f"{top}/latest.npy", backend=backend)
    assert fm.keep_last(top, 2, backend) == [f"{top}/{name}" for name in names[:2]]
    assert fm.keep_last(top, 2, backend) == []
    assert fm.keep_last(top, 1, backend, pattern="1*") == []
    assert set(names[2:]) <= set(fm.list_dir(top, backend))
    with pytest.raises(VFSTypeError, match="count"):
        fm.keep_last(top, 0, backend)
