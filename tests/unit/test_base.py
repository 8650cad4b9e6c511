"""Contract lines 8 to 10: what an author writes, and what comes of it by itself."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from polystore import (
    BatchLengthError,
    DataSink,
    DataSource,
    FileManager,
    InvalidPathError,
    MemoryBackend,
    PathExistsError,
    PathNotFoundError,
    ReadOnlyBackend,
    Stat,
    StorageBackend,
    StorageError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.base import accepts
from polystore.path_tree import PathTree
from polystore.stat import Details


class Note:
    """A value in a tree."""

    version = 1

    def __init__(self, value: Any) -> None:
        self.value = value

    def describe(self) -> Details:
        return {}


class Five(StorageBackend):
    """A backend whose author wrote the five abstract methods, over a flat dict."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def load(self, file_path: Any, /) -> Any:
        return self.values[file_path]

    def save(self, thing: Any, identifier: Any, /) -> None:
        self.values[identifier] = thing

    def is_file(self, path: Any, /) -> bool:
        return path in self.values

    def is_dir(self, path: Any, /) -> bool:
        return any(key.startswith(path.rstrip("/") + "/") for key in self.values)

    def list_dir(self, path: Any, /) -> list[str]:
        top = path.rstrip("/") + "/"
        below = [key[len(top) :] for key in self.values if key.startswith(top)]
        if not below:
            raise PathNotFoundError("no such directory", path=path)
        return sorted({name.partition("/")[0] for name in below})


class Trees(StorageBackend):
    """A backend with directories and links, whose author left copies and deletions to us."""

    def __init__(self) -> None:
        self.tree: PathTree[Note] = PathTree("trees")

    def load(self, path: Any, /) -> Any:
        return self.tree.get(path).value

    def save(self, data: Any, path: Any, /) -> None:
        self.tree.put([(path, Note(data))])

    def is_file(self, path: Any, /) -> bool:
        return self.tree.is_file(path)

    def is_dir(self, path: Any, /) -> bool:
        return self.tree.is_dir(path)

    def is_symlink(self, path: Any, /) -> bool:
        return self.tree.is_symlink(path)

    def list_dir(self, path: Any, /) -> list[str]:
        return self.tree.list_dir(path)

    def stat(self, path: Any, /) -> Stat:
        return self.tree.stat(path)

    def delete(self, path: Any, /) -> None:
        self.tree.delete(path)

    def ensure_directory(self, path: Any, /) -> str:
        return self.tree.ensure_directory(path)

    def create_symlink(self, source: Any, link: Any, /, *, overwrite: bool = False) -> None:
        self.tree.create_symlink(source, link, overwrite)


@pytest.fixture
def five() -> Five:
    backend = Five()
    backend.save_batch([1, 2, 3], ["/d/a", "/d/e/b", "/c"])
    return backend


@pytest.fixture
def trees() -> Trees:
    backend = Trees()
    backend.ensure_directory("/d/e")
    backend.save_batch([1, 2, 3], ["/d/a", "/d/e/b", "/kept"])
    backend.create_symlink("/kept", "/d/link")
    backend.create_symlink("/d", "/d/e/up")
    return backend


def test_the_abstract_methods_are_those_five() -> None:
    assert StorageBackend.__abstractmethods__ == {"load", "save", "is_file", "is_dir", "list_dir"}
    assert ReadOnlyBackend.__abstractmethods__ == {"load", "is_file", "is_dir", "list_dir"}
    assert DataSource.__abstractmethods__ | DataSink.__abstractmethods__ == (
        StorageBackend.__abstractmethods__
    )
    for method in ("save", "save_batch", "delete", "delete_all", "copy", "move", "create_symlink"):
        assert not hasattr(ReadOnlyBackend, method)


def test_the_questions_are_answered(five: Five) -> None:
    assert [five.exists(p) for p in ("/d", "/d/a", "/none")] == [True, True, False]
    assert not five.is_symlink("/d/a")
    assert five.stat("/d/a") == {"type": "file", "path": "/d/a", "exists": True}
    assert five.stat("/none") == {
        "type": "missing",
        "path": "/none",
        "exists": False,
    }
    assert five.stat("/d")["type"] == "directory"


def test_files_are_listed_shallow_first_and_selected(five: Five) -> None:
    assert five.list_files("/d") == ["/d/a"]
    assert five.list_files("/d/", recursive=True) == ["/d/a", "/d/e/b"]
    assert five.list_files("/d", "b", recursive=True) == ["/d/e/b"]
    with pytest.raises(VFSTypeError, match="'/d'"):
        five.list_files("/d", extensions=".txt")
    with pytest.raises(PathNotFoundError):
        five.list_files("/none")


def test_batches_are_checked_before_anything_is_written(five: Five) -> None:
    assert five.load_batch(["/c", "/d/a"]) == [3, 1]
    refused: list[tuple[Any, Any, type[StorageError]]] = [
        ([1], ["/x", "/y"], BatchLengthError),
        ([1, 2], ["/x", "/x"], PathExistsError),
        ([1, 2], ["/x", "/c"], PathExistsError),
        ([1, 2], ["/x", ""], InvalidPathError),
        ([1, 2], ["/x", 3], VFSTypeError),
        ((v for v in (1, 2)), ["/x", "/y"], VFSTypeError),
        ([1, 2], (p for p in ("/x", "/y")), VFSTypeError),
        ([1, 2], "xy", VFSTypeError),
        ([1, 2], {"/x", "/y"}, VFSTypeError),
        ({"/x": 1}, ["/x"], VFSTypeError),
    ]
    for values, paths, error in refused:
        with pytest.raises(error):
            five.save_batch(values, paths)
    assert not five.exists("/x")
    for paths in ("ab", b"ab", (p for p in ("/c",)), {"/c"}, 3):
        with pytest.raises(VFSTypeError, match="paths of a batch"):
            five.load_batch(paths)  # type: ignore[arg-type]
    five.save_batch({"/x": 1}.values(), {"/x": 1}.keys())  # type: ignore[arg-type]
    assert five.load("/x") == 1


@pytest.mark.parametrize("error", [StorageError("full"), OSError("full")])
def test_a_batch_that_fails_midway_says_what_was_written(error: Exception) -> None:
    class Failing(Five):
        def save(self, thing: Any, identifier: Any, /) -> None:
            if identifier == "/b":
                raise error
            super().save(thing, identifier)

    with pytest.raises(type(error)) as caught:
        Failing().save_batch([1, 2, 3], ["/a", "/b", "/c"])
    assert caught.value.__notes__ == ["1 of 3 paths were written: ['/a']"]
    if isinstance(error, StorageError):
        assert error.written == ("/a",)


def test_what_a_backend_does_not_offer_says_so(five: Five) -> None:
    for operation in (
        lambda: five.delete("/c"),
        lambda: five.ensure_directory("/c"),
        lambda: five.create_symlink("/d", "/c"),
    ):
        with pytest.raises(UnsupportedOperationError, match=r"Five does not support \w+: '/c'"):
            operation()


def test_a_tree_is_copied_with_its_links_as_links(trees: Trees) -> None:
    trees.copy("/d", "/new")
    assert trees.list_files("/new", recursive=True) == ["/new/a", "/new/link", "/new/e/b"]
    assert trees.stat("/new/link")["target"] == "/kept"
    assert trees.stat("/new/e/up")["target"] == "/d"
    trees.copy("/d/link", "/link")
    assert trees.is_symlink("/link")


def test_a_tree_is_copied_in_a_backend_that_creates_no_directories(five: Five) -> None:
    five.copy("/d", "/new")
    assert five.list_files("/new", recursive=True) == ["/new/a", "/new/e/b"]
    fm = FileManager({"five": five, "memory": MemoryBackend()})
    fm.copy("/d", "/d", "five", to_backend="memory")
    fm.copy("/d", "/again", "memory", to_backend="five")
    assert five.load_batch(["/again/a", "/again/e/b"]) == [1, 2]
    fm.ensure_directory("/d/empty", "memory")
    done = fm.copy("/d", "/skipped", "memory", to_backend="five", errors="skip")
    assert done == ["/skipped/a", "/skipped/e/b"]
    assert [(row["path"], row["error"]) for row in done.failures] == [
        ("/d/empty", "UnsupportedOperationError")
    ]


def test_a_tree_is_deleted_and_what_its_links_lead_to_is_not(trees: Trees) -> None:
    trees.delete_all("/d")
    assert trees.list_dir("/") == ["kept"]
    trees.create_symlink("/kept", "/link")
    trees.delete_all("/link")
    assert trees.load("/kept") == 3


def test_a_tree_moves_and_never_into_itself(trees: Trees) -> None:
    for destination in ("/d/e/new", "/d"):
        with pytest.raises((InvalidPathError, PathExistsError)):
            trees.move("/d", destination)
    with pytest.raises(PathNotFoundError):
        trees.copy("/none", "/new")
    with pytest.raises(PathExistsError):
        trees.copy("/d", "/kept")
    trees.move("/d", "/new")
    assert trees.load("/new/e/b") == 2
    assert not trees.exists("/d")


def test_a_tree_of_any_depth_is_copied_and_deleted(trees: Trees) -> None:
    trees.save(7, trees.ensure_directory("/deep" + "/x" * 1500) + "/a")
    trees.copy("/deep", "/deeper")
    assert trees.load("/deeper" + "/x" * 1500 + "/a") == 7
    assert len(trees.list_files("/deeper", recursive=True)) == 1
    trees.delete_all("/deeper")
    assert not trees.exists("/deeper")


# Line 10


class Documented(StorageBackend):
    """As a user writes it: names of their own, and any keyword arguments."""

    _written: dict[str, Any]

    def __init__(self) -> None:
        self._written = {}
        self.asked: list[dict[str, Any]] = []

    def load(self, file_path: Any, **kwargs: Any) -> Any:
        self.asked.append(kwargs)
        return self._written[str(file_path)]

    def save(self, data: Any, output_path: Any, **kwargs: Any) -> None:
        self.asked.append(kwargs)
        self._written[str(output_path)] = data

    def load_batch(self, file_paths: Any, **kwargs: Any) -> list[Any]:
        return [self.load(path, **kwargs) for path in file_paths]

    def save_batch(self, data_list: Any, output_paths: Any, **kwargs: Any) -> None:
        for data, path in zip(data_list, output_paths, strict=True):
            self.save(data, path, **kwargs)

    def list_files(self, directory: Any, **kwargs: Any) -> list[str]:  # type: ignore[override]
        self.asked.append(kwargs)
        return list(self._written)

    def exists(self, path: Any) -> bool:
        return str(path) in self._written

    is_file = exists

    def is_dir(self, path: Any) -> bool:
        return not self.exists(path)

    def list_dir(self, path: Any) -> list[str]:
        return sorted(self._written)


def test_a_documented_backend_works_unchanged_and_is_asked_for_no_more_than_it_knows() -> None:
    backend = Documented()
    fm = FileManager({"mine": backend})
    fm.save(1, PurePosixPath("a10"), backend="mine", colour="red")
    fm.save_batch([2, 3], ["a9", "b"], backend="mine")
    assert fm.load("a9", backend="mine", size=3) == 2
    assert fm.load_batch(["b", "a10"], backend="mine") == [3, 1]
    assert fm.list_files("x", backend="mine") == ["a9", "a10", "b"]
    assert fm.list_files("x", "mine", pattern="*", extensions={".a"}, recursive=True)
    assert (fm.exists("b", "mine"), fm.is_file("c", "mine"), fm.is_dir("c", "mine")) == (
        True,
        False,
        True,
    )
    assert backend.asked == [
        {"colour": "red"},
        {},
        {},
        {"size": 3},
        {},
        {},
        {},
        {"pattern": "*", "extensions": {".a"}, "recursive": True},
    ]


def test_what_a_method_accepts_is_told_from_its_signature() -> None:
    assert accepts(Trees, "save", "parents") is False
    assert accepts(Documented, "save", "parents") is False
    assert accepts(Five, "save_batch", "progress") is True
    assert accepts(Five, "none", "progress") is False
