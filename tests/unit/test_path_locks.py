"""What may be written at the same time in one host, and what waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from polystore_ray.hosting.path_locks import Claim, PathLocks, claims_of
from tests.cluster.nodes import eventually

SECOND = 1.0


def call(method: str, *arguments: Any, together: bool = False, **options: Any) -> list[Claim]:
    return claims_of(method, arguments, options, regions_together=together)


SAVE = call("save", 1, "/a/b.npy")
REGION = call("save", 1, "/a/b.npy", region=0, together=True)


@pytest.mark.parametrize(
    ("one", "other", "waits"),
    [
        (SAVE, call("save", 2, "/a//x/../b.npy"), True),
        (SAVE, call("save", 2, "/a/b"), False),
        (SAVE, call("save", 2, "/a/c.npy"), False),
        (SAVE, call("load", "/a/b.npy"), False),
        (SAVE, call("save_batch", [1, 2], ["/c", "/a/b.npy"]), True),
        (call("save_batch", [1, 2], ["/d", "/c"]), call("save_batch", [1], ["/c"]), True),
        (call("save_batch", [1, 2], ["/d", "/c"]), call("save_batch", [1, 2], ["/e", "/c"]), True),
        (SAVE, call("delete", "/a/b.npy"), True),
        (SAVE, call("delete", "/a"), False),
        (SAVE, call("delete_all", "/a"), True),
        (SAVE, call("delete_all", "/"), True),
        (SAVE, call("delete_all", "/a/b"), False),
        (SAVE, call("move", "/a", "/z"), True),
        (SAVE, call("move", "/z", "/a"), True),
        (SAVE, call("copy", "/a", "/z"), True),
        (call("copy", "/a", "/y"), call("copy", "/a", "/z"), False),
        (call("copy", "/a", "/z"), call("copy", "/b", "/z/c"), True),
        (call("create_symlink", "/a", "/l"), call("save", 1, "/l"), True),
        (REGION, REGION, False),
        (REGION, SAVE, True),
        (REGION, call("copy", "/a", "/z"), True),
        (call("save", 1, "/a/b.npy", region=0), REGION, True),
    ],
)
def test_what_waits_for_what(one: list[Claim], other: list[Claim], waits: bool) -> None:
    for first, second in ((one, other), (other, one)):
        locks, begun = PathLocks(), threading.Event()

        def run(
            locks: PathLocks = locks, begun: threading.Event = begun, what: list[Claim] = second
        ) -> None:
            with locks.claimed(what):
                begun.set()

        with locks.claimed(first):
            thread = threading.Thread(target=run)
            thread.start()
            assert begun.wait(0.05 if waits else 10 * SECOND) is not waits
        assert begun.wait(10 * SECOND)
        thread.join()


def test_a_waiting_tree_is_not_passed_by_those_that_come_later() -> None:
    locks, order = PathLocks(), list[str]()
    started: list[threading.Thread] = []

    def later(name: str, claims: list[Claim]) -> None:
        def run() -> None:
            with locks.claimed(claims):
                order.append(name)

        started.append(threading.Thread(target=run))
        started[-1].start()
        assert eventually(lambda: len(locks._claimed) > len(started))

    with locks.claimed(call("save", 1, "/a/1")):
        later("tree", call("delete_all", "/a"))
        later("below", call("save", 1, "/a/2"))
        assert order == []
    for thread in started:
        thread.join(10 * SECOND)
    assert order == ["tree", "below"]


def test_an_error_lets_the_next_one_in() -> None:
    locks = PathLocks()
    with pytest.raises(ZeroDivisionError), locks.claimed(SAVE):
        raise ZeroDivisionError
    with locks.claimed(SAVE):
        pass
