"""Processes and threads that race on one tree of disk or zarr: who wins, and what nobody loses.

Contract lines 13, 14, 16, 21, 23 to 28, 37 and 38, with others at work. A racer that looks at the
listings is in most races, and no temporary is left after any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import races
from operations import generation
from racing import RACERS, Crew, Result, Role, crew
from watching import KINDS, Tree, document, image, make, temporaries

from polystore.atomic import atomic_write_json

ROUNDS, ROUNDS_OF_A_SOAK = 12, 600
SECONDS, SECONDS_OF_A_SOAK = 0.5, 20.0

Race = Callable[..., Result]


@pytest.fixture(scope="module")
def racers() -> Iterator[Crew]:
    with crew() as found:
        yield found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(kind: str, tmp_path: Path) -> Tree:
    return make(kind, str(tmp_path / "tree"))


@pytest.fixture
def race(
    racers: Crew, kind: str, tree: Tree, seed: int, soaking: bool, done: Counter[str]
) -> Iterator[Race]:
    """Return a function that lets racers go."""

    def run(*roles: Role) -> Result:
        seconds = SECONDS_OF_A_SOAK if soaking else SECONDS
        found = racers.race(kind, tree.top, roles, seconds, seed)
        done.update({f"{what} of racers on {kind}": count for what, count in found.did.items()})
        return found

    yield run
    assert [path for path in temporaries(tree.top) if "~lock~" not in path] == []


@pytest.fixture
def rounds(soaking: bool) -> int:
    return ROUNDS_OF_A_SOAK if soaking else ROUNDS


def winners(found: Result) -> list[int]:
    """Return the one racer that won each round."""
    for got in zip(*found.returned, strict=True):
        assert sum(got) == 1, f"several won, or nobody: {got}"
    return [got.index(True) for got in zip(*found.returned, strict=True)]


def test_of_several_that_save_copy_move_link_or_make_one_path_one_wins(
    race: Race, tree: Tree, rounds: int
) -> None:
    found = race(partial(races.take_a_free_path, rounds=rounds))
    for count, winner in enumerate(winners(found)):
        if not tree.backend.is_dir(tree.path(f"{count}.json")):
            assert generation(tree, f"{count}.json") == winner
    for number in range(rounds):
        losers = [tree.path(f"{number}-{racer}.json") for racer in range(RACERS)]
        # A mover keeps what it could not move.
        assert sum(map(tree.backend.exists, losers)) >= 2


def test_of_several_that_save_below_directories_still_to_be_made_one_wins(
    race: Race, tree: Tree, rounds: int
) -> None:
    found = race(partial(races.save_below_new_directories, rounds=rounds))
    for count, winner in enumerate(winners(found)):
        assert generation(tree, f"{count}/a/b.json") == winner


def test_overwriting_does_not_fail_because_another_deletes_or_makes_the_path(
    race: Race, tree: Tree, rounds: int
) -> None:
    found = race(partial(races.overwrite_what_may_be_missing, rounds=rounds))
    assert found.did["create_symlink"] == rounds * RACERS * 2 // 3


def test_what_was_saved_and_not_deleted_is_somewhere_once(race: Race, tree: Tree) -> None:
    for directory in ("a", "b"):
        tree.backend.ensure_directory(tree.path(directory))
    found = race(*[races.come_and_go] * 5, races.look)
    saved = [number for each in found.returned if each for number in each]
    left = [generation(tree, name) for name in races.NAMES if tree.backend.exists(tree.path(name))]
    assert len(left) == len(set(left)) == found.did["save"] - found.did["delete"]
    assert set(left) <= set(saved)


def test_what_is_overwritten_is_always_there_and_whole(race: Race, tree: Tree) -> None:
    for suffix in races.SUFFIXES:
        value = document(0) if suffix == ".json" else image(0)
        tree.backend.save(value, tree.path(f"d/a{suffix}"), parents=True)
    overwrite, read = races.overwrite, races.read
    found = race(overwrite, read, read, overwrite, overwrite, races.look)
    for path in [f"d/a{suffix}" for suffix in races.SUFFIXES]:
        last = [each[path] for each in found.returned if each and path in each]
        assert generation(tree, path) in (last or [0])


def test_nothing_saved_goes_with_a_directory_that_was_empty(race: Race, tree: Tree) -> None:
    save, delete = races.save_into_what_is_deleted_when_empty, races.delete_what_is_empty
    found = race(save, save, delete, save, delete, races.look)
    for mine in found.returned:
        for path in mine or ():
            assert generation(tree, path) is not None, path


def test_saves_with_parents_do_not_fail_where_trees_go(race: Race, tree: Tree) -> None:
    save, delete = races.save_into_what_is_deleted, races.delete_and_move_trees
    race(save, save, delete, delete, save, races.look)
    for name in "abc":  # a temporary that went with a moved tree is gone only with its process
        if tree.backend.exists(tree.path(name)):
            tree.backend.delete_all(tree.path(name))


def test_a_tree_that_is_moved_is_whole_in_one_place(race: Race, tree: Tree) -> None:
    for number in (1, 2):
        tree.backend.save(image(number), tree.path(f"a/{number}.npy"), parents=True)
    race(*[races.move_a_tree] * 5, races.look)
    [place] = [name for name in "abc" if tree.backend.exists(tree.path(name))]
    assert [generation(tree, f"{place}/{number}.npy") for number in (1, 2)] == [1, 2]


def test_a_link_that_is_led_elsewhere_leads_always_somewhere(race: Race, tree: Tree) -> None:
    for number in (1, 2, 3):
        tree.backend.save(image(number), tree.path(f"{number}.npy"))
    tree.backend.create_symlink(tree.path("1.npy"), tree.path("link.npy"))
    race(races.relink, races.follow, races.relink, races.relink, races.follow, races.look)
    assert generation(tree, "link.npy") in (1, 2, 3)


def test_no_update_of_a_document_is_lost(race: Race, tree: Tree) -> None:
    atomic_write_json({"n": 0}, f"{tree.top}/count.json")
    found = race(races.count_in_a_document)
    assert tree.backend.load(tree.path("count.json")) == {"n": found.did["update"]}


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_no_region_that_was_saved_is_lost(race: Race, tree: Tree, name: str) -> None:
    rows = 10
    whole = np.zeros((RACERS * rows, 50), np.uint16)
    options = {"chunks": (rows, 50)} if tree.is_zarr else {}
    tree.backend.save(whole, tree.path(name), **options)
    found = race(partial(races.save_rows, path=name, rows=rows))
    expected = np.repeat(found.returned, rows)[:, None]
    assert (tree.backend.load(tree.path(name)) == expected).all()
