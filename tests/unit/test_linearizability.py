"""The checker of linearizability, on histories that are known to be good and bad."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import Any

import pytest

from polystore.exceptions import StorageError
from polystore_ray.testing import linearizability
from polystore_ray.testing.history import UNREAD, Recorder, directory, histories
from polystore_ray.testing.linearizability import (
    UNKNOWN,
    Operation,
    UndecidedError,
    explain,
    is_linearizable,
)

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
    doubtful = [operation for operation in history if operation.outcome == UNKNOWN]
    for never in chain.from_iterable(combinations(doubtful, n) for n in range(len(doubtful) + 1)):
        if fits_in_some_order([operation for operation in history if operation not in never]):
            return True
    return False


def fits_in_some_order(history: list[Operation]) -> bool:
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
        history = [some_operation(chance, n) for n in range(6)]
        expected = by_trying_all(history)
        found[expected] += 1
        assert is_linearizable(history, directory, EMPTY) == expected, history
    assert min(found.values()) > 50


def some_operation(chance: random.Random, number: int) -> Operation:
    start = chance.randrange(8) + number / 10
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
    if chance.random() < 0.2:
        return op(name, argument, UNKNOWN, start)
    made = op(name, argument, outcome, start, start + chance.randrange(1, 6))
    return replace(made, looks=name in ("load", "list") or outcome in ("exists", "missing"))


def test_operations_of_unknown_outcome_that_nobody_read_do_not_make_it_slow() -> None:
    doubtful = [op("replace", (name, UNREAD), UNKNOWN, n) for n in range(4) for name in "abcdefgh"]
    written = [op("replace", (name, 1), "done", 10 + n, 11 + n) for n, name in enumerate("abcdef")]
    read = [op("load", name, 1, 20 + n, 21 + n) for n, name in enumerate("abcdef")]
    assert is_linearizable([*doubtful, *written, *read], directory, EMPTY)
    again = [
        op("load", "a", outcome, 30 + 2 * n, 31 + 2 * n) for n, outcome in enumerate((UNREAD, 1))
    ]
    assert not is_linearizable([*doubtful, *written, *read, *again], directory, EMPTY)


def test_it_says_so_when_there_are_too_many_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "_STEPS", 1000)
    doubtful = [op("replace", (name, n), UNKNOWN, n) for n in range(4) for name in "abcdefgh"]
    seen = [op("load", "a", n, 20 + 2 * i, 21 + 2 * i) for i, n in enumerate((2, 1, 2))]
    with pytest.raises(UndecidedError, match="35 operations"):
        explain([*doubtful, *seen], directory, EMPTY)


def test_what_nobody_read_is_one_and_the_same(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "client.history", "client")
    for name, argument, outcome in [
        ("save", ["a", 1], "done"),
        ("replace_all", [["a", 2], ["b", 3]], "done"),
        ("load", "a", 2),
        ("delete", "b", StorageError("no answer")),
    ]:
        with recorder.operation("/d", name, argument) as came:
            came.append(outcome)
    recorder.close()
    [operations] = histories(tmp_path).values()
    assert [(o.argument, o.outcome, o.looks) for o in operations] == [
        (("a", UNREAD), "done", False),
        ((("a", 2), ("b", UNREAD)), "done", False),
        ("a", 2, True),
        ("b", UNKNOWN, False),
    ]
    assert "no answer" in (tmp_path / "client.history").read_text()
