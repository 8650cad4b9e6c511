"""What racers do. Each function is the part of one, and returns what has to be found afterwards."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from operations import generation
from racing import Racer
from watching import document, everything_listed, image, members_of_zarr, no_temporary_among, whole

from polystore import (
    DirectoryNotEmptyError,
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
)
from polystore.atomic import atomic_update_json

MISSED = (PathNotFoundError, PathExistsError)
MOST = 10**6  # numbers of one racer


def look(racer: Racer) -> None:
    """List all there is, by the backend and by zarr itself."""
    while racer.going():
        with suppress(PathNotFoundError, PathNotDirectoryError):  # gone between two questions
            no_temporary_among(everything_listed(racer.tree))
        with suppress(OSError):  # zarr stumbles over what is gone
            no_temporary_among(members_of_zarr(racer.tree))
        racer.did["listing"] += 1


# A path that all want

WAYS = ("save", "copy", "move", "create_symlink", "ensure_directory", "save")


def mixed(racer: Racer) -> Any:
    """Return a value of the racer's number for a path that ends with .json: a file or an array."""
    if racer.tree.is_zarr and racer.number % 2:
        return image(racer.number, 20 + racer.number)
    return document(racer.number)


def take_a_free_path(racer: Racer, rounds: int) -> list[bool]:
    """Take the path of each round, each racer in another way; return when this one got it."""
    got = []
    for count in range(rounds):
        way = WAYS[(racer.number + count) % len(WAYS)]
        target, own, value = f"{count}.json", f"{count}-{racer.number}.json", mixed(racer)
        if way not in ("save", "ensure_directory"):
            racer.do("save", value, own)
        given = {"save": (value, target), "ensure_directory": (target,)}.get(way, (own, target))
        racer.wait_for_all()
        got.append(racer.won(PathExistsError, way, *given))
    return got


def save_below_new_directories(racer: Racer, rounds: int) -> list[bool]:
    """Save to the path of each round, whose directories are still to be made."""
    got = []
    for count in range(rounds):
        racer.wait_for_all()
        path = f"{count}/a/b.json"
        got.append(racer.won(PathExistsError, "save", mixed(racer), path, parents=True))
    return got


def overwrite_what_may_be_missing(racer: Racer, rounds: int) -> None:
    """Overwrite a value and a link that others delete; no overwriting may fail."""
    own = f"own{racer.number}.json"
    racer.do("save", mixed(racer), own)
    for count in range(rounds):
        deleting = (racer.number + count) % 3 == 0
        racer.wait_for_all()
        if deleting:
            racer.won(PathNotFoundError, "delete", "value.json")
            racer.won(PathNotFoundError, "delete", "link.json")
        else:
            racer.do("save", mixed(racer), "value.json", overwrite=True)
            racer.do("create_symlink", own, "link.json", overwrite=True)


# Values that come, go and are moved

NAMES = [f"{directory}/{number}.npy" for directory in ("a", "b") for number in range(5)]


def come_and_go(racer: Racer) -> list[int]:
    """Save new numbers, move and delete, never over another; return what was saved."""
    saved: list[int] = []
    while racer.going():
        one, other = racer.rng.sample(NAMES, 2)
        act = racer.rng.choice(("save", "save", "move", "delete", "load"))
        if act == "save":
            number = racer.number * MOST + len(saved)
            value = np.full((racer.rng.choice((1, 100)), 50), number, np.uint32)
            if racer.won(PathExistsError, "save", value, one):
                saved.append(number)
        elif act == "move":
            racer.won(MISSED, "move", one, other)
        elif act == "delete":
            racer.won(PathNotFoundError, "delete", one)
        else:
            generation(racer.tree, one)
    return saved


# Values that are always there

SUFFIXES = (".json", ".npy", ".tif")


def overwrite(racer: Racer) -> dict[str, int]:
    """Overwrite with numbers that grow; return the last of each path."""
    last: dict[str, int] = {}
    for number in range(racer.number * MOST, (racer.number + 1) * MOST):
        if not racer.going():
            break
        path = f"d/a{racer.rng.choice(SUFFIXES)}"
        rows = racer.rng.choice((1, 100))
        value: Any = np.full((rows, 50), number, np.uint32)
        if path.endswith(".json"):
            value = document(number, rows * 20)
        racer.do("save", value, path, overwrite=True)
        last[path] = number
    return last


def read(racer: Racer) -> None:
    """Ask, list, load and copy what is overwritten: it is there, whole, and grows no older."""
    newest: dict[tuple[str, int], int] = {}
    while racer.going():
        suffix = racer.rng.choice(SUFFIXES)
        path, copy = f"d/a{suffix}", f"copy{racer.number}{suffix}"
        assert racer.do("list_dir", "d") == [f"a{each}" for each in SUFFIXES]
        for question, answer in (("exists", True), ("is_file", True), ("is_dir", False)):
            assert racer.do(question, path) is answer
        assert racer.do("stat", path)["type"] == "file"
        racer.do("copy", path, copy)
        part = None if suffix == ".json" else (slice(None), slice(10, 20))
        for number in (
            whole(racer.do("load", copy)),
            whole(racer.do("load", path)),
            whole(racer.do("load", path, region=part)),
        ):
            of = (path, number // MOST)
            assert number >= newest.get(of, 0), f"{path}: {number} after {newest[of]}"
            newest[of] = number
        racer.do("delete", copy)


# Directories that come and go


def save_into_what_is_deleted_when_empty(racer: Racer) -> list[str]:
    """Save below directories that others delete once they are empty; return what must be left."""
    mine: list[str] = []
    while racer.going():
        path = f"{racer.rng.choice('ab')}/c/{racer.number}-{racer.did['save']}.npy"
        racer.do("save", image(racer.number), path, parents=True)
        mine.append(path)
        if len(mine) > 10 or racer.rng.random() < 0.7:
            racer.do("delete", mine.pop(0))
    return mine


def delete_what_is_empty(racer: Racer) -> None:
    while racer.going():
        path = racer.rng.choice(("a", "b", "a/c", "b/c"))
        if racer.rng.random() < 0.3:
            racer.do("ensure_directory", path)
        racer.won((PathNotFoundError, DirectoryNotEmptyError), "delete", path)


def save_into_what_is_deleted(racer: Racer) -> None:
    """Save with parents below trees that others delete and move; that never fails."""
    while racer.going():
        path = f"{racer.rng.choice('abc')}/d/{racer.number}.npy"
        racer.do("save", image(racer.number), path, parents=True, overwrite=True)
        assert generation(racer.tree, path) in (None, racer.number)


def delete_and_move_trees(racer: Racer) -> None:
    while racer.going():
        one, other = racer.rng.sample("abc", 2)
        if racer.rng.random() < 0.5:
            racer.won(PathNotFoundError, "delete_all", one)
        else:
            racer.won(MISSED, "move", one, other)
        racer.do("ensure_directory", f"{one}/d/e")


def move_a_tree(racer: Racer) -> None:
    """Move one tree to and fro, and look at it: it is whole wherever it is."""
    while racer.going():
        one, other = racer.rng.sample("abc", 2)
        racer.won(MISSED, "move", one, other)
        with suppress(PathNotFoundError):
            assert racer.do("list_dir", one) == ["1.npy", "2.npy"]
        assert generation(racer.tree, f"{one}/1.npy") in (None, 1)


# Links


def relink(racer: Racer) -> None:
    """Lead a link elsewhere, on and on."""
    while racer.going():
        racer.do("create_symlink", f"{racer.rng.choice((1, 2, 3))}.npy", "link.npy", overwrite=True)


def follow(racer: Racer) -> None:
    while racer.going():
        assert racer.do("is_symlink", "link.npy")
        assert whole(racer.do("load", "link.npy")) in (1, 2, 3)


# Parts of one value


def count_in_a_document(racer: Racer) -> None:
    while racer.going():
        atomic_update_json(f"{racer.tree.top}/count.json", lambda value: {"n": value["n"] + 1})
        racer.did["update"] += 1


def save_rows(racer: Racer, path: str, rows: int) -> int:
    """Save rows of its own into an array that all save into; return what they must hold."""
    mine = (slice(racer.number * rows, (racer.number + 1) * rows),)
    number = 0
    while racer.going():
        number += 1
        racer.do("save", number, path, region=mine)
        assert whole(racer.do("load", path, region=mine)) == number
    return number
