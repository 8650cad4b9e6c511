"""Recipes: values that were lost or evicted are made again, once, after what they need."""

from __future__ import annotations

import sys
import threading
import time
from itertools import count
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import PathNotFoundError, VFSTypeError
from polystore_ray import (
    CallTimeoutError,
    DataLostError,
    Input,
    RayBackendRegistry,
    RecipeError,
)
from polystore_ray.client import recipes
from polystore_ray.client.memory import ClusterMemoryBackend

SIZE = 100_000  # bytes of a value

_stores = count()
_made: list[Any] = []  # by the recipes of a test
_goes_on = threading.Event()


@pytest.fixture(autouse=True)
def _forget_what_was_made() -> None:
    _made.clear()


def memory_of(**options: Any) -> ClusterMemoryBackend:
    given: dict[str, Any] = {"max_bytes": 4 * SIZE, "eviction": "lru"} | options
    registry = RayBackendRegistry(f"recipes{next(_stores)}", local=True, **given)
    made: ClusterMemoryBackend = registry["memory"]
    return made


@pytest.fixture
def memory() -> ClusterMemoryBackend:
    return memory_of()


def full(number: int) -> Any:
    _made.append(number)
    return np.full(SIZE, number, dtype=np.uint8)


def one_more(image: Any) -> Any:
    _made.append("one more")
    return image + np.uint8(1)


def slow(seconds: float) -> Any:
    _made.append("slow")
    time.sleep(seconds)
    return np.ones(SIZE, np.uint8)


def held_up() -> Any:
    _made.append("held up")
    _goes_on.wait(60)
    return np.ones(SIZE, np.uint8)


def fail(*_: Any) -> Any:
    raise ZeroDivisionError("no pixel is set")


class UntoldError(Exception):
    def __str__(self) -> str:
        raise ValueError("this error has no text")


def fail_without_a_text() -> Any:
    raise UntoldError


def total(images: list[Any]) -> Any:
    _made.append("total")
    return int(sum(image.sum(dtype=int) for image in images))


def save(memory: ClusterMemoryBackend, path: str, number: int, recipe: Any) -> None:
    memory.save(np.full(SIZE, number, np.uint8), path, evictable=True, recipe=recipe)


def evict_all(memory: ClusterMemoryBackend) -> None:
    """Have everything evicted that may be."""
    memory.save(np.zeros(4 * SIZE, np.uint8), "/large", evictable=True)
    memory.delete("/large")


def test_an_evicted_value_is_made_again(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 3, (full, (3,)))
    before = memory.stat("/a")
    memory.copy("/a", "/copy")
    evict_all(memory)
    assert memory.stat("/a")["evicted"]
    assert (memory.load("/a") == 3).all()
    assert (memory.load("/copy") == 3).all()
    assert _made == [3]
    assert memory.stat("/a") == before


def test_what_a_recipe_needs_is_made_first(memory: ClusterMemoryBackend) -> None:
    save(memory, "/1", 1, (full, (1,)))
    for number in (2, 3):
        save(memory, f"/{number}", number, (one_more, (Input(f"/{number - 1}"),)))
    evict_all(memory)
    assert (memory.load("/3") == 3).all()
    assert _made == [1, "one more", "one more"]


def test_a_batch_makes_all_that_it_lacks(memory: ClusterMemoryBackend) -> None:
    for number in range(4):
        save(memory, f"/{number}", number, (full, (number,)))
    evict_all(memory)
    assert [v[0] for v in memory.load_batch([f"/{n}" for n in range(4)])] == [0, 1, 2, 3]
    assert sorted(_made) == [0, 1, 2, 3]


def test_a_batch_of_more_than_there_is_room_for_is_made_in_parts(
    memory: ClusterMemoryBackend,
) -> None:
    for number in range(9):
        save(memory, f"/{number}", number, (full, (number,)))
    assert [v[0] for v in memory.load_batch([f"/{n}" for n in range(9)])] == [*range(9)]


def test_a_value_with_several_paths_is_made_once(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 3, (full, (3,)))
    memory.copy("/a", "/copy")
    memory.create_symlink("/copy", "/link")
    recipe = total, ([Input("/a"), Input("/link")],)
    memory.save(6 * SIZE, "/total", evictable=True, recipe=recipe)
    evict_all(memory)
    loaded = memory.load_batch(["a", "/copy", "/link", "/total"])
    assert ([int(image[0]) for image in loaded[:3]], loaded[3]) == ([3, 3, 3], 6 * SIZE)
    assert _made == [3, "total"]


def test_what_is_needed_soon_is_made_just_before(memory: ClusterMemoryBackend) -> None:
    for number in range(6):
        save(memory, f"/{number}", 1, (np.ones, (SIZE, np.uint8)))
    for number in (0, 3):
        three = [Input(f"/{number + more}") for more in range(3)]
        memory.save(3 * SIZE, f"/total{number}", evictable=True, recipe=(total, (three,)))
    images = [*map(Input, ("/total0", "/total3"))]
    memory.save(6 * SIZE, "/all", evictable=True, recipe=(sum, (images,)))
    evict_all(memory)
    before = memory._connect().status().evictions
    assert memory.load("/all") == 6 * SIZE
    assert memory._connect().status().evictions == before + 3  # of six that the totals need


def test_a_batch_that_is_made_in_parts_is_of_one_moment(memory: ClusterMemoryBackend) -> None:
    def save_others() -> Any:
        if memory.stat("/0")["size"] == SIZE:
            memory.save_batch([b"new", b"new"], ["/0", "/7"], overwrite=True)
        return np.full(SIZE, 8, np.uint8)

    for number in range(8):
        save(memory, f"/{number}", number, (full, (number,)))
    save(memory, "/8", 8, (save_others, ()))
    evict_all(memory)
    loaded = memory.load_batch([f"/{n}" for n in range(9)])
    assert (loaded[0], loaded[7]) == (b"new", b"new")
    assert [image[0] for image in (*loaded[1:7], loaded[8])] == [1, 2, 3, 4, 5, 6, 8]


def test_a_value_is_made_once_however_many_ask(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 1, (slow, (0.3,)))
    evict_all(memory)
    loaded: list[Any] = []
    asking = [threading.Thread(target=lambda: loaded.append(memory.load("/a"))) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(loaded) == 8
    assert _made == ["slow"]


def test_a_recipe_that_fails_says_what_it_was_for(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 1, (fail, ()))
    save(memory, "/b", 2, (one_more, (Input("/a"),)))
    save(memory, "/c", 3, (one_more, (Input("/b"),)))
    evict_all(memory)
    with pytest.raises(
        RecipeError, match=r"ZeroDivisionError: no pixel.*'/a' <- '/b' <- '/c'"
    ) as e:
        memory.load("/c")
    assert e.value.chain == ("/a", "/b", "/c")
    assert "in fail" in "".join(e.value.__notes__)
    with pytest.raises(RecipeError, match="no pixel"):  # nobody else's turn is left
        memory.load("/a")


@pytest.mark.parametrize(
    ("recipe", "cause"),
    [
        ((fail_without_a_text, ()), "UntoldError"),
        ((sys.exit, (3,)), "SystemExit: 3"),
        ((threading.Lock, ()), "does not pickle"),
        ((full, (Input("/directory"),)), "PathIsDirectoryError"),
    ],
)
def test_every_failure_of_a_recipe_is_a_recipe_error(
    memory: ClusterMemoryBackend, recipe: Any, cause: str
) -> None:
    memory.ensure_directory("/directory")
    save(memory, "/a", 1, recipe)
    save(memory, "/b", 2, (one_more, (Input("/a"),)))
    evict_all(memory)
    with pytest.raises(RecipeError, match=rf"{cause}.*'/a' <- '/b'"):
        memory.load("/b")


def test_recipes_that_need_each_other_are_an_error(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 1, (one_more, (Input("/b"),)))
    save(memory, "/b", 2, (one_more, (Input("/a"),)))
    assert (memory.load("/a") == 1).all()
    evict_all(memory)
    with pytest.raises(RecipeError, match="needs the value itself") as error:
        memory.load("/b")
    assert error.value.chain == ("/b", "/a", "/b")


def test_a_recipe_may_load_by_itself(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 1, (full, (1,)))
    save(memory, "/b", 2, (lambda: one_more(memory.load("/a")), ()))
    evict_all(memory)
    assert (memory.load("/b") == 2).all()
    save(memory, "/c", 2, (lambda: memory.load("/c"), ()))
    evict_all(memory)
    with pytest.raises(RecipeError, match="needs the value itself"):
        memory.load("/c")


def test_an_input_that_nothing_brings_back_is_an_error(memory: ClusterMemoryBackend) -> None:
    memory.save(np.zeros(SIZE, np.uint8), "/raw", evictable=True)
    save(memory, "/a", 1, (one_more, (Input("/raw"),)))
    save(memory, "/b", 1, (one_more, (Input("/nothing"),)))
    evict_all(memory)
    with pytest.raises(DataLostError, match="'/raw' <- '/a'"):
        memory.load("/a")
    with pytest.raises(RecipeError, match=r"PathNotFoundError.*'/nothing'"):
        memory.load("/b")


def test_a_fallback_comes_before_a_recipe(memory: ClusterMemoryBackend, tmp_path: Any) -> None:
    np.save(tmp_path / "a.npy", np.full(SIZE, 5, np.uint8))
    fallback = ("disk", tmp_path / "a.npy")
    memory.save(full(5), "/a", evictable=True, fallback=fallback, recipe=(fail, ()))
    evict_all(memory)
    assert (memory.load("/a") == 5).all()


def test_what_works_where_values_are_makes_those_that_are_nowhere(
    memory: ClusterMemoryBackend, tmp_path: Any
) -> None:
    for number in range(4):
        save(memory, f"/{number}", number, (full, (number,)))
    evict_all(memory)
    memory.save(bytes(2 * SIZE), "/there")
    assert memory.locations(["/0", "/there"]) == [(), ("local",)]
    memory.persist("/1", "disk", tmp_path / "1.npy")
    assert (np.load(tmp_path / "1.npy") == 1).all()
    assert memory.map(np.max, ["/0", "/2", "/3"]) == [0, 2, 3]
    assert _made == [1, 0, 2, 3]
    with pytest.raises(PathNotFoundError):
        memory.locations(["/0", "/nothing"])


def test_a_recipe_is_for_a_fallback_that_fails(memory: ClusterMemoryBackend, tmp_path: Any) -> None:
    save(memory, "/raw", 4, (full, (4,)))
    gone = ("disk", tmp_path / "gone.npy")
    recipe = one_more, (Input("/raw"),)
    memory.save(full(5), "/a", evictable=True, fallback=gone, recipe=recipe)
    memory.save(full(6), "/b", evictable=True, fallback=gone)
    evict_all(memory)
    assert (memory.load("/a") == 5).all()
    with pytest.raises(PathNotFoundError, match=r"gone\.npy") as error:
        memory.load("/b")
    assert "to bring '/b' back" in "".join(error.value.__notes__)


def test_a_value_that_was_saved_meanwhile_stays(memory: ClusterMemoryBackend) -> None:
    def save_another() -> Any:
        memory.save(9, "/a", overwrite=True)
        return np.ones(SIZE, np.uint8)

    save(memory, "/a", 1, (save_another, ()))
    evict_all(memory)
    assert memory.load("/a") == 9
    assert memory._connect().status().bytes < SIZE


def test_a_value_that_was_moved_to_the_path_meanwhile_stays(memory: ClusterMemoryBackend) -> None:
    def move_another_there() -> Any:
        memory.move("/a", "/elsewhere")
        memory.move("/b", "/a")
        return np.full(SIZE, 1, np.uint8)

    values, paths = [np.full(SIZE, number, np.uint8) for number in (1, 2)], ["/a", "/b"]
    recipes = [(move_another_there, ()), (full, (2,))]
    memory.save_batch(values, paths, evictable=True, recipes=recipes)
    evict_all(memory)
    assert (memory.load("/a") == 2).all()


def test_nobody_waits_for_what_was_moved_while_it_was_made() -> None:
    memory = memory_of(timeout=3)  # less than a turn

    def move() -> Any:
        if memory.exists("/a"):
            memory.move("/a", "/moved")
        return np.full(SIZE, 1, np.uint8)

    save(memory, "/a", 1, (move, ()))
    evict_all(memory)
    with pytest.raises(PathNotFoundError):
        memory.load("/a")
    assert (memory.load("/moved") == 1).all()


def test_a_slow_recipe_goes_on_after_the_deadline() -> None:
    memory = memory_of(timeout=0.5)
    save(memory, "/a", 1, (held_up, ()))
    evict_all(memory)
    for _ in range(2):
        with pytest.raises(CallTimeoutError, match="longer"):
            memory.load("/a")
    _goes_on.set()
    while memory.stat("/a")["evicted"]:
        time.sleep(0.01)
    assert (memory.load("/a") == 1).all()
    assert _made == ["held up"]


def test_the_turn_lasts_while_the_recipe_runs(
    memory: ClusterMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_TURN", 0.6)

    save(memory, "/a", 1, (slow, (1.5,)))
    evict_all(memory)
    others = [threading.Thread(target=memory.load, args=("/a",)) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert _made == ["slow"]


def test_the_turn_lasts_while_others_of_a_batch_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_TURN", 0.6)
    memory = memory_of(max_bytes=8 * SIZE)
    for number in range(3):
        save(memory, f"/{number}", 1, (slow, (0.5,)))
    memory.save(np.zeros(8 * SIZE, np.uint8), "/large", evictable=True)
    memory.delete("/large")
    loading = threading.Thread(target=memory.load_batch, args=([f"/{n}" for n in range(3)],))
    loading.start()
    while not _made:
        time.sleep(0.01)
    memory.load("/2")
    loading.join()
    assert _made == ["slow"] * 3


@pytest.mark.parametrize(
    "recipe",
    [(), full, (full,), (1, ()), (full, 3), (full, (threading.Lock(),)), (full, (bytes(2**21),))],
)
def test_what_is_no_recipe_is_refused(memory: ClusterMemoryBackend, recipe: Any) -> None:
    with pytest.raises(VFSTypeError, match="recipe"):
        memory.save(1, "/a", recipe=recipe)
    assert not memory.exists("/a")


def test_each_value_of_a_batch_has_its_recipe(memory: ClusterMemoryBackend) -> None:
    images, paths = [np.full(SIZE, number, np.uint8) for number in (1, 2)], ["/1", "/2"]
    memory.save_batch(images, paths, evictable=True, recipes=[(full, (1,)), None])
    evict_all(memory)
    assert memory.load("/1")[0] == 1
    with pytest.raises(DataLostError):
        memory.load("/2")
    with pytest.raises(VFSTypeError, match="1 recipes for 2 paths"):
        memory.save_batch(images, ["/3", "/4"], recipes=[(full, (1,))])


def test_a_changed_part_has_no_recipe(memory: ClusterMemoryBackend) -> None:
    save(memory, "/a", 1, (full, (1,)))
    memory.save(np.uint8(7), "/a", region=0, evictable=True)
    evict_all(memory)
    with pytest.raises(DataLostError):
        memory.load("/a")
