"""The checker of linearizability, on histories that are known to be good and bad."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest

from polystore_ray.testing.history import directory
from polystore_ray.testing.linearizability import UNKNOWN, Operation, explain, is_linearizable

INFINITY = float("inf")


def op(name: str, argument: Any, outcome: Any, start: float, end: float = INFINITY) -> Operation:
    return Operation(f"client at {start}", name, argument, outcome, start, end)


EMPTY: frozenset[Any] = frozenset()
SAVE = op("save", ("a", 1), "done", 0, 2)
GOOD = {
    "nothing": [],
    "a read after a save": [SAVE, op("load", "a", 1, 3, 4)],
    "a read while it is saved, of nothing": [SAVE, op("load", "a", "missing", 1, 3)],
    "a read while it is saved, of the value": [SAVE, op("load", "a", 1, 1, 3)],
    "one of two savers wins": [SAVE, op("save", ("a", 2), "exists", 0, 1)],
    "a save of unknown outcome is seen": [
        op("save", ("a", 1), UNKNOWN, 0),
        op("load", "a", "missing", 1, 2),
        op("load", "a", 1, 3, 4),
    ],
    "a save of unknown outcome is never seen": [
        op("save", ("a", 1), UNKNOWN, 0),
        op("load", "a", "missing", 1, 2),
    ],
    "a move": [
        SAVE,
        op("move", ("a", "b"), "done", 3, 5),
        op("list", None, ("b",), 4, 5),
        op("load", "a", "missing", 6, 7),
    ],
    "a batch": [
        op("replace_all", (("a", 1), ("b", 1)), "done", 0, 2),
        op("list", None, ("a", "b"), 1, 2),
    ],
}
BAD = {
    "a save that is lost": [SAVE, op("load", "a", "missing", 3, 4)],
    "a value that nobody saved": [SAVE, op("load", "a", 2, 3, 4)],
    "both of two savers win": [SAVE, op("save", ("a", 2), "done", 0, 1)],
    "an old value after a new one": [
        SAVE,
        op("replace", ("a", 2), "done", 3, 9),
        op("load", "a", 2, 4, 5),
        op("load", "a", 1, 6, 7),
    ],
    "a save of unknown outcome that is undone": [
        op("save", ("a", 1), UNKNOWN, 0),
        op("load", "a", 1, 1, 2),
        op("load", "a", "missing", 3, 4),
    ],
    "a file in two places": [
        SAVE,
        op("move", ("a", "b"), "done", 3, 5),
        op("list", None, ("a", "b"), 4, 5),
    ],
    "half a batch": [
        op("replace_all", (("a", 1), ("b", 1)), "done", 0, 2),
        op("list", None, ("a",), 1, 2),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_explained(name: str) -> None:
    assert is_linearizable(GOOD[name], directory, EMPTY)
    assert explain(GOOD[name], directory, EMPTY) == ""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_not(name: str) -> None:
    assert not is_linearizable(BAD[name], directory, EMPTY)
    assert explain(BAD[name], directory, EMPTY)


def test_the_explanation_ends_where_it_went_wrong() -> None:
    history = [*BAD["a save that is lost"], op("load", "b", "missing", 5, 6)]
    assert "'b'" not in explain(history, directory, EMPTY)


def by_trying_all(history: list[Operation]) -> bool:
    for order in permutations(history):
        if any(b.end < a.start for i, a in enumerate(order) for b in order[i + 1 :]):
            continue
        state: Any = EMPTY
        for operation in order:
            fits, state = directory(state, operation)
            if not fits:
                break
        else:
            return True
    return False


def test_it_agrees_with_trying_every_order() -> None:
    chance = random.Random(7)
    found = {True: 0, False: 0}
    for _ in range(600):
        history = [some_operation(chance) for _ in range(6)]
        expected = by_trying_all(history)
        found[expected] += 1
        assert is_linearizable(history, directory, EMPTY) == expected, history
    assert min(found.values()) > 50


def some_operation(chance: random.Random) -> Operation:
    start = chance.randrange(8)
    name = chance.choice(["save", "replace", "load", "delete", "move", "list"])
    argument: Any = chance.choice("ab")
    if name in ("save", "replace"):
        argument = (argument, chance.randrange(2))
        outcome: Any = "done"
    elif name == "move":
        argument, outcome = ("a", "b"), chance.choice(["done", "missing", "exists"])
    elif name == "list":
        argument, outcome = None, chance.choice([(), ("a",), ("b",), ("a", "b")])
    else:
        outcome = chance.choice(["missing", 0, 1]) if name == "load" else "done"
    return op(name, argument, outcome, start, start + chance.randrange(1, 6))
