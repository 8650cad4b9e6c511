"""Read leases without Ray: one controller, the boards of some nodes, and a reader on each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polystore.exceptions import PathNotFoundError, StorageError
from polystore_ray.controller import effects, leases, requests
from polystore_ray.controller.journal import Following, Journal
from polystore_ray.controller.leases import Paths
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import CallTimeoutError, StoreUnavailableError
from polystore_ray.hosting.lease_keeper import LeaseKeeper
from polystore_ray.transport import leased_reads
from polystore_ray.transport.leased_reads import NOT_KEPT, LeasedReads
from polystore_ray.wire import lease_board
from polystore_ray.wire.lease_board import LeaseBoard, WritableLeaseBoard, first_term
from polystore_ray.wire.messages import (
    NOTHING,
    WHOLE,
    Found,
    Items,
    Pin,
    Request,
    StaleVolumeError,
    Stored,
    Uncounted,
    Wish,
)
from polystore_ray.wire.sessions import Session

SHORT = 1.0  # seconds that a lease lasts here


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_board, "LEASE", SHORT)
    monkeypatch.setattr(leases, "HELD", 1.25 * SHORT)


class Node:
    """A node: the board that its volume writes, and a process that reads."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.board = WritableLeaseBoard()
        self.keeper = LeaseKeeper(self.board, lambda: store.controller.renew_lease(name, name))
        self.reads = LeasedReads(name, self.find, lambda: True, 10_000, is_local=True)
        self.renews = True
        self.hears = True
        self.calls = 0

    def find(self) -> LeaseBoard:
        if self.renews:
            self.keeper.renew()
        return self.board

    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any:
        self.calls += 1
        return self.store.controller.handle(Request(operation, arguments, wish=wish))

    def load(self, path: str) -> bytes:
        found = self.reads.look_up(self, [path], existing=False)
        return found.stored[0]  # type: ignore[return-value]

    def load_if_there(self, path: str) -> Stored:
        return self.reads.look_up(self, [path], existing=True).stored[0]

    def load_often(self, path: str) -> bytes:
        """Load until it needs no call."""
        value: bytes = self._often(lambda: self.load(path))
        return value

    def miss_often(self, path: str) -> None:
        """Find that no file is at a path, until that needs no call."""
        assert self._often(lambda: self.load_if_there(path)) == NOTHING

    def _often(self, read: Callable[[], Any]) -> Any:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            calls, value = self.calls, read()
            if self.calls == calls:
                return value
        raise AssertionError("it still needs a call")


class Store:
    """A controller and its nodes."""

    def __init__(self, **limits: Any) -> None:
        self.nodes = {name: Node(self, name) for name in "ab"}
        self.controller = StoreController(
            lambda _node, _pins: None, Ledger(**limits), tell=self.tell
        )
        for name in self.nodes:
            self.controller.note("volume_joined", name, name)
        self.session = Session()

    def tell(self, node: str, term: int, paths: Paths) -> Callable[[float], bool]:
        if self.nodes[node].hears:
            heard = self.nodes[node].keeper.count(term, paths)
            return lambda _: heard
        return lambda _: False

    def change(self, operation: str, *arguments: Any, within: float = 60.0) -> Any:
        with self.session.change() as id_:
            return self.controller.handle(Request(operation, arguments, id_, within))

    def change_on(self, node: Node, operation: str, *arguments: Any) -> Any:
        """Change something from a process of a node, which counts on its own board."""
        with self.session.change() as id_:
            request = Request(operation, arguments, id_)
            return node.reads.changed(
                lambda wish: self.controller.handle(request._replace(wish=wish))
            )

    def save(self, path: str, value: bytes, *, overwrite: bool = True, **options: Any) -> None:
        items = Items([path], [(len(value), None, None)], [value], overwrite, True, **options)
        self.change("publish", [], items)

    def seconds(self, change: Callable[[], object]) -> float:
        start = time.monotonic()
        change()
        return time.monotonic() - start


@pytest.fixture
def store() -> Store:
    made = Store()
    made.save("/d/x", b"1")
    return made


@pytest.fixture
def reader(store: Store) -> Node:
    return store.nodes["a"]


def test_a_repeated_read_needs_no_call(reader: Node) -> None:
    assert reader.load_often("/d/x") == b"1"
    calls = reader.calls
    assert reader.reads.answer("exists", "/d/x") is True
    assert reader.reads.answer("is_file", "/d/x") is True
    assert reader.reads.ask(reader, "stat", "/d/x")["version"] == 1
    assert reader.reads.ask(reader, "stat", "/d/x")["version"] == 1
    assert reader.calls == calls + 1


def test_what_is_read_once_is_not_kept(reader: Node, store: Store) -> None:
    reader.load("/d/x")
    assert store.controller.handle(Request("status", ()))["leases"] == 0


CHANGES: dict[str, Callable[[Store], object]] = {
    "overwrite": lambda s: s.save("/d/x", b"2"),
    "replace a version": lambda s: s.save("/d/x", b"2", overwrite=False, if_version=1),
    "delete": lambda s: s.change("delete", "/d/x"),
    "delete_all": lambda s: s.change("delete_all", "/d/x"),
    "delete the tree": lambda s: s.change("delete_all", "/d"),
    "delete keys": lambda s: s.change("delete_keys", ["/d/x"], "/"),
    "move": lambda s: s.change("move", "/d/x", "/y"),
    "move the tree": lambda s: s.change("move", "/d", "/e"),
    "graft": lambda s: s.change("graft", "/d", 1, [], [], []),
    "overwrite one of a version": lambda s: s.save("/d/x", b"2", versions=(1,)),
    "overwrite by a link": lambda s: s.save("/link", b"2"),
    "overwrite by another spelling": lambda s: s.save("//d/./x", b"2"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", ["/d/x", "/link", "/d/../d/x", "/folder/x"])
def test_nobody_reads_what_was_before_an_acknowledged_change(
    store: Store, path: str, change: str
) -> None:
    store.change("create_symlink", "/d/x", "/link")
    store.change("create_symlink", "/d", "/folder")
    for node in store.nodes.values():
        assert node.load_often(path) == b"1"
        node.reads.ask(node, "stat", path)
    CHANGES[change](store)
    for node in store.nodes.values():
        assert node.reads.answer("read", path) is NOT_KEPT
        assert node.reads.answer("exists", path) is NOT_KEPT
        try:
            assert node.load(path) == b"2"
        except PathNotFoundError:
            assert not change.startswith(("overwrite", "replace"))


def test_every_change_is_said_to_have_an_effect_or_none() -> None:
    """Whoever adds a change says whether it makes an answer wrong that somebody may have kept."""
    none = {
        *("begin_making", "end_making", "renew_making"),
        "evict",  # the controller itself says whom to tell: see `test_eviction.py`
        *("adopted", "claim", "class_arrived", "confirm", "drain", "ensure_directory", "packed"),
        *("release_claim", "renew_claim", "set_fallback", "took_over", "volume_joined", "withdraw"),
    }
    assert effects._EFFECTS.keys() | none == requests.CHANGES.keys()
    assert not effects._EFFECTS.keys() & none


def _replace_a_directory(store: Store) -> None:
    store.change("delete", "/empty")
    store.save("/empty", b"1")


APPEARANCES: dict[str, tuple[str, Callable[[Store], object]]] = {
    "save": ("/new", lambda s: s.save("/new", b"1", overwrite=False)),
    "save with overwrite": ("/new", lambda s: s.save("/new", b"1")),
    "save in another spelling": ("/new", lambda s: s.save("//new", b"1")),
    "save with parents": ("/new/d/x", lambda s: s.save("/new/d/x", b"1", overwrite=False)),
    "save through a link": ("/d/y", lambda s: s.save("/folder/y", b"1")),
    "save in place of a directory": ("/empty", _replace_a_directory),
    "move": ("/new", lambda s: s.change("move", "/d/x", "/new")),
    "move a tree": ("/new/x", lambda s: s.change("move", "/d", "/new")),
    "copy": ("/new", lambda s: s.change("copy", "/d/x", "/new")),
    "copy a link": ("/new", lambda s: s.change("copy", "/link", "/new")),
    "copy a tree": ("/new/x", lambda s: s.change("copy", "/d", "/new")),
    "copy a link to a tree": ("/new/x", lambda s: s.change("copy", "/folder", "/new")),
    "link": ("/new", lambda s: s.change("create_symlink", "/d/x", "/new")),
    "link to a tree": ("/new/x", lambda s: s.change("create_symlink", "/d", "/new")),
    "snapshot": ("/new/x", lambda s: s.change("snapshot", "/d", "/new")),
    "snapshot into itself": ("/d/old/x", lambda s: s.change("snapshot", "/d", "/d/old")),
    "graft": ("/x", lambda s: s.change("graft", "/d", 1, [], [], [])),
}


@pytest.mark.parametrize("appearance", APPEARANCES)
@pytest.mark.parametrize("through", ["", "/root", "/d/.."])
def test_nobody_misses_what_was_made_and_acknowledged(
    store: Store, through: str, appearance: str
) -> None:
    path, change = APPEARANCES[appearance]
    for source, link in ("/d/x", "/link"), ("/d", "/folder"), ("/", "/root"):
        store.change("create_symlink", source, link)
    store.change("ensure_directory", "/empty")
    for node in store.nodes.values():
        node.miss_often(through + path)
        assert node.reads.answer("is_file", through + path) is False
    change(store)
    for node in store.nodes.values():
        assert node.reads.answer("is_file", through + path) is NOT_KEPT
        assert node.load(through + path) == b"1"


def test_what_is_missing_is_kept_only_where_it_may_be_missing(store: Store, reader: Node) -> None:
    reader.miss_often("/new")
    assert reader.reads.answer("exists", "/new") is NOT_KEPT, "a directory may have come"
    assert reader.reads.inline(["/new"]) is None
    assert reader.reads.inline(["/new"], existing=True) == Found([], [NOTHING], [0])
    with pytest.raises(PathNotFoundError):
        reader.load("/new")


def test_a_path_through_a_file_is_not_kept_as_missing(store: Store, reader: Node) -> None:
    for _ in range(5):
        assert reader.load_if_there("/d/x/y") == NOTHING
    store.change("delete", "/d/x")
    store.save("/d/x/y", b"1")
    assert reader.load_if_there("/d/x/y") == b"1"


def test_making_what_a_silent_node_missed_waits_for_its_lease(store: Store, reader: Node) -> None:
    reader.miss_often("/new")
    reader.hears = reader.renews = False
    assert store.seconds(lambda: store.save("/new", b"1")) > 0.9 * SHORT
    assert reader.load("/new") == b"1"
    assert store.seconds(lambda: store.save("/other", b"1")) < 0.5 * SHORT


@pytest.mark.parametrize("gone", ["move", "delete_all", "another way"])
def test_nobody_reads_through_a_link_that_changed(store: Store, reader: Node, gone: str) -> None:
    store.save("/d/y", b"2")
    store.change("ensure_directory", "/links")
    store.change("create_symlink", "/d/x", "/links/x")
    assert reader.load_often("/links/x") == b"1"
    changes: dict[str, tuple[Any, ...]] = {
        "move": ("move", "/links/x", "/z"),
        "delete_all": ("delete_all", "/links"),
        "another way": ("create_symlink", "/d/y", "/links/x", True),
    }
    store.change(*changes[gone])
    assert reader.reads.answer("read", "/links/x") is NOT_KEPT


def test_nobody_waits_for_what_was_evicted_in_vain() -> None:
    store = Store(max_bytes=10, evicts=True)
    store.save("/old", b"12345678", evictable=True)
    assert store.nodes["a"].load_often("/old") == b"12345678"
    items = Items(["/new"], [(8, None, None)], [(0, WHOLE)])
    with pytest.raises(StaleVolumeError):
        store.change("publish", [Pin("1", ("a",), None, 8)], items, [("a", "a former volume")])
    assert store.controller.handle(Request("stat", ("/old",), within=1.0))["evicted"]
    assert store.nodes["a"].reads.answer("read", "/old") is NOT_KEPT


def test_a_value_with_two_paths_is_read_anew_under_both(store: Store, reader: Node) -> None:
    store.change("copy", "/d/x", "/d/copy")
    reader.load_often("/d/copy")
    store.save("/d/x", b"2")
    assert reader.load("/d/copy") == b"1"
    reader.load_often("/d/copy")
    store.save("/d/copy", b"3")
    assert reader.load("/d/copy") == b"3"


def test_a_change_that_fails_has_nobody_ask_again(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    with pytest.raises(StorageError):
        store.change("move", "/d/x", "/d")
    with pytest.raises(StorageError):
        store.save("/d/x", b"2", overwrite=False)
    assert reader.reads.answer("read", "/d/x") is not NOT_KEPT


def test_the_copies_that_stat_counts_are_not_of_yesterday(store: Store, reader: Node) -> None:
    items = Items(["/big"], [(9, None, None)], [(0, -1)], replicas=2)
    store.change("publish", [Pin("pin", (), None, 9)], items, [("a", "a")])
    for _ in range(3):
        assert reader.reads.ask(reader, "stat", "/big")["replicas"] == 1
    store.controller.note("pinned", "b", "b", ["pin"])
    end = time.monotonic() + 20
    while reader.reads.ask(reader, "stat", "/big")["replicas"] == 1:
        assert time.monotonic() < end
        time.sleep(0.01)


# Nodes that do not hear


def test_a_change_waits_until_the_lease_of_a_silent_node_is_over(
    store: Store, reader: Node
) -> None:
    reader.load_often("/d/x")
    reader.hears = reader.renews = False
    waited = store.seconds(lambda: store.save("/d/x", b"2"))
    assert waited > 0.9 * SHORT
    assert reader.load("/d/x") == b"2"
    assert store.seconds(lambda: store.save("/d/x", b"3")) < 0.5 * SHORT


def in_the_background(store: Store, change: Callable[[], object]) -> threading.Thread:
    """Begin a change that waits for a node."""
    before = store.controller.handle(Request("status", ()))["invalidations"]
    changing = threading.Thread(target=change)
    changing.start()
    while store.controller.handle(Request("status", ()))["invalidations"] == before:
        time.sleep(0.001)
    return changing


def test_creating_and_reading_something_else_waits_for_nobody(store: Store, reader: Node) -> None:
    store.save("/d/z", b"1")
    reader.load_often("/d/x")
    reader.hears = reader.renews = False
    changing = in_the_background(store, lambda: store.save("/d/x", b"2"))
    other = store.nodes["b"]
    assert store.seconds(lambda: store.save("/new", b"1", overwrite=False)) < 0.5 * SHORT
    assert store.seconds(lambda: other.load("/d/z")) < 0.5 * SHORT
    assert changing.is_alive()
    changing.join()


@pytest.mark.parametrize(
    "dependent",
    [
        lambda s: s.nodes["b"].load("/d/x"),
        lambda s: s.nodes["b"].load("/d/../d/x"),
        lambda s: s.nodes["b"].ask("list_dir", "/d"),
        lambda s: s.nodes["b"].ask("stat", "/d/x"),
        lambda s: s.save("/d/x", b"3"),
        lambda s: s.change("copy", "/d/x", "/copy"),
    ],
)
def test_what_depends_on_a_change_waits_as_it_does(
    store: Store, reader: Node, dependent: Callable[[Store], object]
) -> None:
    reader.load_often("/d/x")
    reader.hears = reader.renews = False
    done: list[str] = []

    def change() -> None:
        store.save("/d/x", b"2")
        done.append("changed")

    changing = in_the_background(store, change)
    dependent(store)
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT
    changing.join()
    assert done == ["changed"]


def test_a_value_that_a_copy_was_told_of_is_not_forgotten_too_early(
    store: Store, reader: Node
) -> None:
    store.change("copy", "/d/x", "/copy")
    reader.load_often("/d/x")
    reader.load_often("/copy")
    reader.hears = reader.renews = False
    changing = in_the_background(store, lambda: store.save("/d/x", b"2"))
    store.save("/copy", b"3")
    assert reader.reads.answer("read", "/copy") is NOT_KEPT
    changing.join()


def test_a_lost_volume_does_not_have_leases_forgotten(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    reader.hears = reader.renews = False
    store.controller.note("volume_lost", "a")
    store.save("/d/x", b"2")
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT


def test_a_wait_for_a_silent_node_has_the_callers_deadline(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    reader.hears = reader.renews = False
    changing = in_the_background(store, lambda: store.save("/d/x", b"2"))
    with pytest.raises(StoreUnavailableError, match="lease has not run out"):
        store.controller.handle(Request("read", (["/d/x"], "b"), within=0.01))
    changing.join()


def test_a_renewal_brings_what_the_node_did_not_hear(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    reader.hears = False
    changing = in_the_background(store, lambda: store.save("/d/x", b"2"))
    assert reader.reads.answer("read", "/d/x") is not NOT_KEPT  # not acknowledged, so it holds
    reader.keeper.renew()
    assert reader.board.is_live
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT
    changing.join()


def test_a_lease_that_ran_out_begins_anew(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    time.sleep(1.3 * SHORT)
    store.save("/d/x", b"2")  # nobody is told
    reader.keeper.renew()
    assert reader.board.is_live
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT


def test_what_was_kept_under_leases_that_ran_out_is_forgotten(
    store: Store, reader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_PURGED_EVERY", 0.0)
    reader.load_often("/d/x")
    store.save("/d/y", b"1")
    store.nodes["b"].load_often("/d/y")
    time.sleep(1.3 * SHORT)
    store.nodes["b"].load_often("/d/y")
    [readers] = store.controller._leases._kept.values()
    assert readers.entry is store.controller.state.tree.get("/d/y")


def test_a_node_that_keeps_more_than_its_share_begins_anew(
    store: Store, reader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_MOST_KEPT", 3)
    for number in range(3):
        store.save(f"/{number}", b"1")
        reader.load_often(f"/{number}")
    assert store.controller.renew_lease("a", "a") is None
    time.sleep(1.3 * SHORT)
    assert store.controller.renew_lease("a", "a") is not None


def test_a_volume_waits_for_the_lease_of_the_one_before_it(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    store.controller.note("volume_joined", "a", "another")
    assert store.controller.renew_lease("a", "another") is None
    time.sleep(1.3 * SHORT)
    assert store.controller.renew_lease("a", "another") is not None


def test_the_controller_counts_a_lease_from_its_arrival(
    store: Store, reader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.load_often("/d/x")
    reader.hears = False

    def late() -> Any:
        renewal = store.controller.renew_lease("a", "a")
        time.sleep(2 * SHORT)
        return renewal

    LeaseKeeper(reader.board, late).renew()
    assert not reader.board.is_live


# Controllers that come after each other


def test_a_volume_that_turned_to_another_controller_has_no_lease(
    store: Store, reader: Node
) -> None:
    reader.load_often("/d/x")
    renewal = store.controller.renew_lease("a", "a")
    assert renewal is not None
    reader.keeper.turn_to(1)
    assert not reader.board.is_live
    reader.board.renew(renewal.term, lease_board.now(), [])
    assert not reader.board.is_live, "the former controller still grants"
    reader.board.renew(first_term(1) + 1, lease_board.now(), [])
    assert reader.board.is_live
    assert not reader.board.allows(reader.board.mark("/d/x")._replace(generation=1))


def test_a_wish_of_another_term_is_not_granted(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    term = reader.board.mark("/d/x").term
    for wrong in (0, term - 1, term + 1, first_term(1)):
        answer = store.controller.handle(Request("stat", ("/d/x",), wish=Wish("a", wrong)))
        assert type(answer) is dict
    assert type(store.controller.handle(Request("stat", ("/d",), wish=Wish("a", term)))) is dict


def test_a_volume_that_the_next_controller_may_not_know_gets_no_lease() -> None:
    follower = Hearing("b")
    journal = Journal(1)
    controller = StoreController(lambda _node, _pins: None, journal=journal, tell=lambda *_: bool)
    journal.need_follower()
    journal.follow(follower, controller.parts)
    follower.hears = False
    controller.note("volume_joined", "a", "late")
    assert controller.renew_lease("a", "late") is None
    follower.hears = True
    journal.ship()
    assert controller.renew_lease("a", "late") is not None


class Hearing(Following):
    """A follower that may not hear."""

    hears = True

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        list(state)

    def append(self, epoch: int, first: int, records: list[bytes]) -> None:
        if not self.hears:
            raise CallTimeoutError("it was not heard")

    def designate(self) -> None:
        return


def test_a_store_that_ends_leaves_nothing_to_read(store: Store, reader: Node) -> None:
    reader.load_often("/d/x")
    store.controller.end_leases()
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT
    assert store.controller.renew_lease("a", "a") is None


# What a process keeps


def test_a_batch_is_of_one_moment(
    store: Store, reader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("/d/y", b"1")
    reader.load_often("/d/x")
    reader.load_often("/d/y")
    allows, looked = LeaseBoard.allows, list[int]()

    def overwritten_in_between(self: LeaseBoard, mark: Any) -> bool:
        found = allows(self, mark)
        if not looked:
            looked.append(1)
            items = Items(["/d/x", "/d/y"], [(1, None, None)] * 2, [b"2", b"2"], True)
            store.change("publish", [], items)
        return found

    monkeypatch.setattr(LeaseBoard, "allows", overwritten_in_between)
    assert reader.reads.look_up(reader, ["/d/x", "/d/y"], existing=False).stored == [b"2", b"2"]


def test_a_batch_is_of_one_moment_while_another_thread_reads(
    store: Store, reader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("/d/y", b"1")
    reader.load_often("/d/x")
    reader.load_often("/d/y")
    still_hold = LeasedReads._still_hold

    def replaced_in_between(self: LeasedReads, founds: Any) -> bool:
        monkeypatch.setattr(LeasedReads, "_still_hold", still_hold)
        store.save("/d/x", b"2")
        reader.load_often("/d/x")  # by another thread of the process
        store.save("/d/y", b"2")
        reader.load_often("/d/y")
        return still_hold(self, founds)

    monkeypatch.setattr(LeasedReads, "_still_hold", replaced_in_between)
    assert reader.reads.look_up(reader, ["/d/x", "/d/y"], existing=False).stored == [b"2", b"2"]


def test_a_batch_asks_for_what_is_not_kept(store: Store, reader: Node) -> None:
    store.save("/d/y", b"2")
    reader.load_often("/d/x")
    calls = reader.calls
    found = reader.reads.look_up(reader, ["/d/y", "/none", "/d/x"], existing=True)
    assert found.stored[::2] == [b"2", b"1"]
    assert found.versions == [2, 0, 1]
    assert reader.calls == calls + 1


def test_what_was_used_longest_ago_makes_room(store: Store, reader: Node) -> None:
    for number in range(5):
        store.save(f"/{number}", bytes(3000))
    for number in range(5):
        reader.load_often(f"/{number}")
        reader.load("/0")
    assert reader.reads.answer("read", "/1") is NOT_KEPT
    assert reader.reads.answer("read", "/0") is not NOT_KEPT
    assert reader.reads.answer("read", "/4") is not NOT_KEPT


def test_a_forked_process_asks_for_itself(reader: Node) -> None:
    reader.load_often("/d/x")
    child = os.fork()
    if not child:
        os._exit(reader.reads.answer("read", "/d/x") is not NOT_KEPT)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.reads.answer("read", "/d/x") is not NOT_KEPT


def test_references_are_given_up_after_a_change_or_without_use(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    times = {"_TENDED_EVERY": 0.05, "_ASKED_EVERY": 0.1, "_IDLE_AFTER": 2.0}
    for name, seconds in times.items():
        monkeypatch.setattr(leased_reads, name, seconds)
    node = store.nodes["a"]
    for name in ("one", "two"):
        items = Items([f"/{name}"], [(9, None, None)], [(0, -1)])
        store.change("publish", [Pin(name, (), None, 9)], items, [("a", "a")])
    node.keeper.renew()
    reads = LeasedReads("a", node.find, lambda: True, 10_000)
    end = time.monotonic() + 20
    while reads.answer("read", "/two") is NOT_KEPT or reads.answer("read", "/one") is NOT_KEPT:
        for name in ("/one", "/two"):
            reads.look_up(node, [name], existing=False)
        assert time.monotonic() < end
        time.sleep(0.01)
    store.change("delete", "/one")
    while "/one" in reads._kept:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "/two" in reads._kept
    while "/two" in reads._kept:
        assert time.monotonic() < end
        time.sleep(0.1)


# Whoever changes something counts on the board of its own node


def test_a_change_waits_for_no_call_to_its_own_node(store: Store, reader: Node) -> None:
    assert reader.load_often("/d/x") == b"1"
    reader.hears = False
    items = Items(["/d/x"], [(1, None, None)], [b"2"], overwrite=True)
    took = store.seconds(lambda: store.change_on(reader, "publish", [], items))
    assert took < lease_board.LEASE / 2
    assert reader.load("/d/x") == b"2"


def test_others_wait_until_the_node_has_heard(store: Store, reader: Node) -> None:
    assert reader.load_often("/d/x") == b"1"
    reader.hears = False
    items = Items(["/d/x"], [(1, None, None)], [b"2"], overwrite=True)
    left: list[Any] = []
    with store.session.change() as id_:
        request = Request("publish", ([], items), id_)
        reader.reads.changed(
            lambda wish: left.append(store.controller.handle(request._replace(wish=wish)))
        )
    assert isinstance(left[0], Uncounted)
    assert left[0].paths == ["/d/x"]
    assert reader.reads.answer("read", "/d/x") is not NOT_KEPT  # its maker died before it counted
    start = time.monotonic()
    assert store.nodes["b"].load("/d/x") == b"2"
    assert reader.reads.answer("read", "/d/x") is NOT_KEPT
    assert time.monotonic() - start > 0.1


def test_few_boards_are_left_to_those_who_change_much(store: Store, reader: Node) -> None:
    for number in range(20):
        assert reader.load_often("/d/x")
        items = Items(["/d/x"], [(1, None, None)], [b"%d" % number], overwrite=True)
        store.change_on(reader, "publish", [], items)
        assert reader.load("/d/x") == b"%d" % number
        assert len(store.controller._leases.unfinished()) <= 1


# The board


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "boards" / "one")
    board = WritableLeaseBoard(path)
    board.renew(1, lease_board.now(), [])
    yield path
    board.close()
    assert not os.path.exists(path)


def test_a_board_is_one_for_all_processes_of_its_user(file: str) -> None:
    board, another = LeaseBoard.at(file), LeaseBoard.at(file)
    assert board.is_live
    mark = board.mark("/x")
    assert board.allows(mark)
    another.spoil(["/x"])
    assert not board.allows(mark)
    assert os.stat(file).st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        WritableLeaseBoard(file)


def test_a_path_that_changed_is_counted_and_others_are_not() -> None:
    board = WritableLeaseBoard()
    board.renew(1, lease_board.now(), [])
    x, y = board.mark("/x"), board.mark("/y")
    assert board.count(1, ["/x"])
    assert not board.allows(x)
    assert board.allows(y)
    assert not board.count(2, ["/y"])
    assert board.allows(y)
    assert board.count(1, None)
    assert not board.allows(y)
