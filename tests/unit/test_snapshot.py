"""Snapshots: the state of one moment, taken while calls go on."""

from __future__ import annotations

import os
import threading
import time

import pytest

from polystore_ray.controller import snapshot
from polystore_ray.controller.state import StoreController
from polystore_ray.wire.messages import Items, Pin, Request, Stored
from polystore_ray.wire.sessions import Session

ENTRIES = 100_000


@pytest.fixture(scope="module")
def controller() -> StoreController:
    controller = StoreController(lambda *_: None)
    controller.note("volume_joined", "n", "i")
    for start in range(0, ENTRIES, 10_000):
        paths = [f"/d{start}/{i}" for i in range(10_000)]
        stored: list[Stored] = [(0, i) for i in range(10_000)]
        items = Items(paths, [(8, (1,), "f8")] * 10_000, stored, parents=True)
        controller.note("publish", [Pin(f"p{start}", ("n",), None, 100)], items, [("n", "i")])
    return controller


def save(controller: StoreController, session: Session, path: str) -> None:
    with session.change() as id_:
        items = Items([path], [(1, None, None)], [b"1"])
        controller.handle(Request("publish", ([], items), id_))


def test_a_large_state_is_that_of_one_moment_while_changes_go_on(
    controller: StoreController,
) -> None:
    session, ends = Session(), threading.Event()
    made: list[str] = []

    def change() -> None:
        while not ends.is_set():
            made.append(f"/late{len(made)}")
            save(controller, session, made[-1])

    _, parts = controller.parts()
    changing = threading.Thread(target=change)
    changing.start()
    try:
        other = StoreController.from_parts(parts)
    finally:
        ends.set()
        changing.join()
    assert len(made) > 10
    assert other.handle(Request("status", ()))["files"] == ENTRIES
    assert not other.handle(Request("exists", (made[0],)))
    assert other.handle(Request("read", (["/d0/7"],))).stored == [(0, 7)]


def test_taking_a_large_state_holds_the_lock_for_a_moment(controller: StoreController) -> None:
    start = time.process_time()
    _, parts = controller.parts()
    held = time.process_time() - start
    start = time.process_time()
    sum(map(len, parts))
    list(snapshot.parts_of(vars(controller.state), 0))  # as a small state is taken, at once
    at_once = time.process_time() - start
    assert held < at_once / 2


def test_a_snapshot_that_is_given_up_leaves_no_process(
    controller: StoreController, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[int] = []
    fork = os.fork

    def forked() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", forked)
    before = len(os.listdir("/proc/self/fd"))
    _, parts = controller.parts()
    next(parts)
    parts.close()  # type: ignore[attr-defined] # it is a generator
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_that_fails_is_an_error_and_no_short_state() -> None:
    with pytest.raises(OSError, match="ended with status"):
        list(snapshot.parts_of(lambda: None, 10**6))
