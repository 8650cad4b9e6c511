from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageResolutionError,
    VersionConflictError,
)
from polystore.path_tree import PathTree
from polystore.stat import Details


@dataclass(frozen=True)
class Note:
    text: str
    version: int = 1

    def describe(self) -> Details:
        return {"size": len(self.text)}


@pytest.fixture
def tree() -> PathTree[Note]:
    tree: PathTree[Note] = PathTree("memory")
    tree.put([("/a/x", Note("ax")), ("/a/b/y", Note("aby"))], parents=True)
    return tree


def test_get_returns_the_entry_by_any_spelling_of_its_path(tree: PathTree[Note]) -> None:
    assert [tree.get(p).text for p in ("a/x", "/a//x", "/a/./b/../x/")] == ["ax"] * 3


def test_get_tells_missing_from_directory(tree: PathTree[Note]) -> None:
    with pytest.raises(PathNotFoundError, match=r"'/a/z' \(backend memory\)"):
        tree.get("/a/z")
    with pytest.raises(PathIsDirectoryError):
        tree.get("/a")


def test_put_refuses_an_existing_path_and_returns_what_it_replaced(tree: PathTree[Note]) -> None:
    with pytest.raises(PathExistsError, match="overwrite=True"):
        tree.put([("/a/x", Note("new"))])
    assert tree.put([("/a/x", Note("new"))], overwrite=True) == [Note("ax")]
    assert tree.get("/a/x") == Note("new")


def test_put_never_replaces_a_directory(tree: PathTree[Note]) -> None:
    with pytest.raises(PathExistsError):
        tree.put([("/a/b", Note("n"))])
    with pytest.raises(PathIsDirectoryError):
        tree.put([("/a/b", Note("n"))], overwrite=True)


def test_put_needs_a_parent_that_is_a_directory(tree: PathTree[Note]) -> None:
    with pytest.raises(PathNotFoundError, match="parents=True"):
        tree.put([("/new/x", Note("n"))])
    with pytest.raises(PathNotDirectoryError):
        tree.put([("/a/x/y", Note("n"))], parents=True)


@pytest.mark.parametrize(
    "paths",
    [
        ("/n/1", "/a/x"),  # the second exists
        ("/n/1", "n//1"),  # one path twice
        ("/n/1", "/n/1/2"),  # the second lies in the first
        ("/n/1/2", "/n/1"),
        ("/n/1", "/a/x/2"),  # the second lies in a file
    ],
)
def test_a_batch_that_cannot_be_put_whole_changes_nothing(
    tree: PathTree[Note], paths: tuple[str, str]
) -> None:
    with pytest.raises(StorageResolutionError):
        tree.put([(path, Note("n")) for path in paths], parents=True)
    assert tree.list_files("/", recursive=True) == ["/a/x", "/a/b/y"]
    assert tree.list_dir("/") == ["a"]


def test_a_batch_may_share_a_new_parent(tree: PathTree[Note]) -> None:
    tree.put([("/n/m/1", Note("1")), ("/n/m/2", Note("2")), ("/n/3", Note("3"))], parents=True)
    assert tree.list_files("/n", recursive=True) == ["/n/3", "/n/m/1", "/n/m/2"]


def test_a_batch_through_two_links_finds_that_both_paths_are_one(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a", "/l1")
    tree.create_symlink("/a", "/l2")
    with pytest.raises(PathExistsError, match="twice"):
        tree.put([("/l1/new", Note("1")), ("/l2/new", Note("2"))])


def test_the_root_always_exists_and_stays() -> None:
    tree: PathTree[Note] = PathTree("memory")
    assert tree.is_dir("/")
    assert tree.list_dir("/") == []
    for operation in (tree.delete, tree.delete_all):
        with pytest.raises(InvalidPathError):
            operation("/")
    with pytest.raises(InvalidPathError):
        tree.move("/", "/elsewhere")


def test_delete_takes_a_file_and_an_empty_directory_only(tree: PathTree[Note]) -> None:
    with pytest.raises(DirectoryNotEmptyError):
        tree.delete("/a/b")
    assert tree.delete("/a/b/y") == [Note("aby")]
    assert tree.delete("/a/b") == []
    with pytest.raises(PathNotFoundError):
        tree.delete("/a/b")


def test_delete_all_returns_what_it_dropped_and_leaves_links_targets(tree: PathTree[Note]) -> None:
    tree.put([("/kept", Note("k"))])
    tree.create_symlink("/kept", "/a/link")
    assert {note.text for note in tree.delete_all("/a")} == {"ax", "aby"}
    assert tree.get("/kept") == Note("k")


def test_links_lead_to_files_and_directories(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/b", "/dir")
    tree.create_symlink("/dir/y", "/file")
    assert tree.get("/dir/y") == tree.get("/file") == Note("aby")
    assert tree.is_symlink("/dir")
    assert tree.is_dir("/dir")
    assert tree.stat("/file") == {
        "type": "symlink",
        "path": "/file",
        "target": "/dir/y",
        "exists": True,
        "size": 3,
    }
    tree.put([("/dir/z", Note("z"))])
    assert tree.get("/a/b/z") == Note("z")
    assert tree.list_files("/", recursive=True) == ["/file", "/a/x", "/a/b/y", "/a/b/z"]


def test_a_dangling_link_does_not_exist_but_can_be_deleted(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/link")
    tree.delete("/a/x")
    assert not tree.exists("/link")
    assert tree.is_symlink("/link")
    with pytest.raises(PathNotFoundError):
        tree.get("/link")
    tree.delete("/link")
    assert not tree.is_symlink("/link")


def test_save_through_a_dangling_link_makes_its_target_again(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/link")
    tree.delete("/a/x")
    tree.put([("/link", Note("again"))])
    assert tree.get("/a/x") == Note("again")


def test_a_link_needs_a_source_and_a_free_path(tree: PathTree[Note]) -> None:
    with pytest.raises(PathNotFoundError):
        tree.create_symlink("/nowhere", "/link")
    with pytest.raises(PathExistsError):
        tree.create_symlink("/a/x", "/a/b", overwrite=True)
    tree.create_symlink("/a", "/link")
    with pytest.raises(PathExistsError):
        tree.create_symlink("/a/b", "/link")
    tree.create_symlink("/a/b", "/link", overwrite=True)
    assert tree.list_dir("/link") == ["y"]


def test_a_link_to_itself_is_refused(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/one")
    tree.create_symlink("/one", "/two")
    with pytest.raises(StorageResolutionError, match="itself"):
        tree.create_symlink("/two", "/one", overwrite=True)
    assert tree.get("/one") == Note("ax")


def test_a_circle_of_links_raises_and_does_not_exist(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/one")
    tree.create_symlink("/one", "/two")
    tree.delete("/a/x")
    tree.delete("/one")
    tree.put([("/a/x", Note("ax"))])
    tree.create_symlink("/a", "/d")
    tree.create_symlink("/d", "/a/up")
    assert tree.get("/a/up/up/up/x") == Note("ax")
    tree.put([("/keep", Note("k"))])
    tree.create_symlink("/keep", "/l1")
    tree.create_symlink("/l1", "/l2")
    tree.delete("/keep")
    tree.move("/l2", "/keep")
    with pytest.raises(StorageResolutionError, match="circle") as caught:
        tree.get("/keep")
    assert type(pickle.loads(pickle.dumps(caught.value))) is StorageResolutionError
    assert not tree.exists("/keep")
    assert tree.is_symlink("/keep")


def test_move_takes_a_tree_and_refuses_what_would_lose_data(tree: PathTree[Note]) -> None:
    with pytest.raises(InvalidPathError):
        tree.move("/a", "/a/b/inside")
    with pytest.raises(PathExistsError):
        tree.move("/a/x", "/a/b/y")
    with pytest.raises(PathNotFoundError):
        tree.move("/a", "/no/parent")
    with pytest.raises(PathNotFoundError):
        tree.move("/nothing", "/b")
    tree.move("/a", "/moved")
    assert tree.list_files("/", recursive=True) == ["/moved/x", "/moved/b/y"]


def test_copy_makes_a_tree_of_its_own(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/a/link")
    assert {note.text for note in tree.copy("/a", "/c")} == {"ax", "aby"}
    tree.delete("/a/b/y")
    assert tree.get("/c/b/y") == Note("aby")
    assert tree.stat("/c/link")["target"] == "/a/x"
    with pytest.raises(InvalidPathError):
        tree.copy("/c", "/c/b/inside")


def test_ensure_directory_is_idempotent_and_never_covers_a_file(tree: PathTree[Note]) -> None:
    assert tree.ensure_directory("d/e//f/") == "/d/e/f"
    assert tree.ensure_directory("/d/e") == "/d/e"
    for path in ("/a/x", "/a/x/below"):
        with pytest.raises(PathExistsError):
            tree.ensure_directory(path)


def test_listings_filter_and_order(tree: PathTree[Note]) -> None:
    tree.put([(f"/a/{name}", Note("")) for name in ("B.TIF", "a.tif", "c.ome.tif", "d.png")])
    assert tree.list_files("/a", extensions={".tif"}) == ["/a/B.TIF", "/a/a.tif", "/a/c.ome.tif"]
    assert tree.list_files("/a", "?.*", {".tif"}) == ["/a/B.TIF", "/a/a.tif", "/a/c.ome.tif"]
    assert tree.list_files("/a", "[ab].*") == ["/a/a.tif"]
    with pytest.raises(PathNotFoundError):
        tree.list_dir("/none")
    with pytest.raises(PathNotDirectoryError):
        tree.list_files("/a/x")


def test_a_path_through_a_file_is_missing_not_an_error_of_questions(tree: PathTree[Note]) -> None:
    assert not tree.exists("/a/x/y")
    assert tree.stat("/a/x/y")["type"] == "missing"
    with pytest.raises(PathNotFoundError):
        tree.list_dir("/a/x/y")
    with pytest.raises(PathNotFoundError):
        tree.get("/a/x/y")


def test_a_put_can_ask_for_a_version(tree: PathTree[Note]) -> None:
    with pytest.raises(VersionConflictError, match="version 1, not 2"):
        tree.put([("/a/x", Note("new"))], if_version=2)
    with pytest.raises(PathNotFoundError):
        tree.put([("/a/none", Note("new"))], if_version=1, parents=True)
    with pytest.raises(PathIsDirectoryError):
        tree.put([("/a/b", Note("new"))], if_version=1)
    tree.put([("/a/x", Note("new"))], if_version=1)
    assert tree.get("/a/x") == Note("new")


@pytest.mark.parametrize("name", ["x", "./x", "y/../x", "/x"])
def test_a_batch_finds_paths_in_any_spelling(tree: PathTree[Note], name: str) -> None:
    with pytest.raises(PathExistsError, match="exists already"):
        tree.put([("/a/new", Note("1")), (f"/a/{name}", Note("2"))])
    with pytest.raises(PathExistsError, match="twice"):
        tree.put([("/a/x", Note("1")), (f"/a/{name}", Note("2"))], overwrite=True)
    assert tree.list_dir("/a") == ["b", "x"]


def test_a_batch_writes_through_links(tree: PathTree[Note]) -> None:
    tree.create_symlink("/a/x", "/link")
    tree.create_symlink("/a", "/dir")
    with pytest.raises(PathExistsError, match="twice"):
        tree.put([("/link", Note("1")), ("/dir/x", Note("2"))], overwrite=True)
    tree.put([("/link", Note("1")), ("/dir/new", Note("2"))], overwrite=True)
    assert (tree.get("/a/x"), tree.get("/a/new")) == (Note("1"), Note("2"))
    assert tree.is_symlink("/link")


def test_a_batch_below_a_file_or_itself_changes_nothing(tree: PathTree[Note]) -> None:
    for paths in (["/n", "/a/x/y"], ["/n/m", "/n"], ["/n", "/n/m/o"]):
        with pytest.raises(PathNotDirectoryError):
            tree.put([(path, Note("1")) for path in paths], parents=True)
        assert tree.list_dir("/") == ["a"]
