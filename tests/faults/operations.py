"""What is killed at each of its steps: what there was before, what is done, what may be there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from watching import Tree, document, image, whole

from polystore import PathNotFoundError
from polystore.atomic import atomic_update_json, atomic_write_json

OLD, NEW = 1, 2

Act = Callable[[Tree], object]


@dataclass(frozen=True)
class Operation:
    before: Act
    do: Act
    check: Act


def nothing(tree: Tree) -> None:
    """Begin with an empty tree."""


def saving(path: str, value: Any, **options: Any) -> Act:
    return lambda tree: tree.backend.save(value, tree.path(path), **options)


def generation(tree: Tree, path: str) -> int | None:
    """Return the generation of the whole value at a path, None where there is none."""
    try:
        return whole(tree.backend.load(tree.path(path)))
    except PathNotFoundError:
        return None


def one_of(path: str, *allowed: int | None) -> Act:
    def check(tree: Tree) -> None:
        found = generation(tree, path)
        assert found in allowed
        assert tree.backend.exists(tree.path(path)) == (found is not None)

    return check


def overwriting(path: str, old: Any, new: Any, **options: Any) -> Operation:
    return Operation(
        saving(path, old, parents=True),
        saving(path, new, overwrite=True, **options),
        one_of(path, OLD, NEW),
    )


# Several at once


BATCH = ("a.npy", "b.json", "c.tif")


def save_a_batch(number: int, **options: Any) -> Act:
    values = [image(number), document(number), image(number, 90)]
    return lambda tree: tree.backend.save_batch(values, [*map(tree.path, BATCH)], **options)


def each_old_or_new(tree: Tree) -> None:
    for path in BATCH:
        assert generation(tree, path) in (OLD, NEW)


# Trees


def a_tree(tree: Tree) -> None:
    for path in ("d/a.npy", "d/e/b.npy"):
        tree.backend.save(image(OLD), tree.path(path), parents=True)


def on(method: str, *paths: str, **options: Any) -> Act:
    return lambda tree: getattr(tree.backend, method)(*map(tree.path, paths), **options)


def whole_at(tree: Tree, place: str) -> bool:
    """Tell whether the tree is at a place; a part of it must be nowhere."""
    if not tree.backend.exists(tree.path(place)):
        return False
    assert [generation(tree, f"{place}/{name}") for name in ("a.npy", "e/b.npy")] == [OLD, OLD]
    return True


def copied_or_not(tree: Tree) -> None:
    assert whole_at(tree, "d")
    whole_at(tree, "new")


def moved_or_not(tree: Tree) -> None:
    assert whole_at(tree, "d") != whole_at(tree, "new")


def gone_or_whole(tree: Tree) -> None:
    whole_at(tree, "d")


def made_again(tree: Tree) -> None:
    tree.backend.ensure_directory(tree.path("d/e/f"))
    assert tree.backend.list_dir(tree.path("d/e")) == ["f"]


# Links and documents


def a_link(tree: Tree) -> None:
    a_tree(tree)
    tree.backend.save(image(NEW), tree.path("c.npy"))
    tree.backend.create_symlink(tree.path("d/a.npy"), tree.path("link.npy"))


def of_the_system(tree: Tree) -> str:
    return f"{tree.top}/a.json"


def update(tree: Tree) -> None:
    atomic_update_json(of_the_system(tree), lambda value: {"all": [NEW] * len(value["all"])})


def updated_or_not_and_free(tree: Tree) -> None:
    one_of("a.json", OLD, NEW)(tree)
    called = []

    def keep(value: Any) -> Any:
        called.append(value)
        return value

    atomic_update_json(of_the_system(tree), keep, lock_timeout=0)
    assert called


def others_can_save_regions(tree: Tree) -> None:
    one_of("a.npy", OLD, NEW)(tree)
    saving("a.npy", NEW, region=...)(tree)


OPERATIONS = {
    "save": Operation(nothing, saving("a.npy", image(NEW)), one_of("a.npy", None, NEW)),
    "save in new directories": Operation(
        nothing, saving("d/e/a.npy", image(NEW), parents=True), one_of("d/e/a.npy", None, NEW)
    ),
    "overwrite npy": overwriting("d/a.npy", image(OLD), image(NEW, 90)),
    "overwrite tif": overwriting("d/a.tif", image(OLD), image(NEW, 90)),
    "overwrite json": overwriting("d/a.json", document(OLD), document(NEW)),
    "overwrite durably": overwriting("d/a.npy", image(OLD), image(NEW, 90), durable=True),
    "overwrite a batch": Operation(
        save_a_batch(OLD), save_a_batch(NEW, overwrite=True), each_old_or_new
    ),
    "delete": Operation(a_tree, on("delete", "d/a.npy"), one_of("d/a.npy", OLD, None)),
    "delete a directory": Operation(
        on("ensure_directory", "d"), on("delete", "d"), on("ensure_directory", "d")
    ),
    "delete a tree": Operation(a_tree, on("delete_all", "d"), gone_or_whole),
    "copy a tree": Operation(a_tree, on("copy", "d", "new"), copied_or_not),
    "move a tree": Operation(a_tree, on("move", "d", "new"), moved_or_not),
    "make directories": Operation(nothing, on("ensure_directory", "d/e/f"), made_again),
    "overwrite a link": Operation(
        a_link,
        on("create_symlink", "c.npy", "link.npy", overwrite=True),
        one_of("link.npy", OLD, NEW),
    ),
    "update a document": Operation(
        lambda tree: atomic_write_json(document(OLD, 20), of_the_system(tree)),
        update,
        updated_or_not_and_free,
    ),
}
IN_FILES = {
    # Of zarr a region is written in place.
    "save a region": Operation(
        saving("a.npy", image(OLD)), saving("a.npy", NEW, region=...), others_can_save_regions
    ),
}


def operations_of(kind: str) -> dict[str, Operation]:
    return OPERATIONS if "zarr" in kind else OPERATIONS | IN_FILES
