from __future__ import annotations

import re
import time
from collections import deque
from typing import Any

import pytest

from polystore.exceptions import (
    PathExistsError,
    PathNotFoundError,
    StorageFullError,
    StorageWriteError,
    UnsupportedOperationError,
    VersionConflictError,
)
from polystore_ray.controller.copies import Replicate
from polystore_ray.controller.entries import Held
from polystore_ray.controller.journal import Journal
from polystore_ray.controller.ledger import Adopt, Ledger, PackInline
from polystore_ray.controller.repair import carry_out
from polystore_ray.controller.requests import QUERIES
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import DataLostError
from polystore_ray.wire.decoding import encode
from polystore_ray.wire.messages import (
    NOTHING,
    WHOLE,
    WITHDRAWN,
    ChangeId,
    Facts,
    Found,
    InlineFullError,
    Items,
    Joined,
    Loss,
    Pin,
    Request,
    StaleVolumeError,
    Stored,
)
from polystore_ray.wire.sessions import Session

NODE, VOLUME = "node", "the first volume"
LOSS = Loss("1f0c2a9b77", "one", 1_700_000_000.0, "OwnerDiedError")


def pin(id_: str, ref: object = "ref", node: str = NODE) -> Pin:
    return Pin(id_, (node,), ref, 1000)


class Store:
    """A controller that knows one volume, and what it released."""

    def __init__(self, controller: StoreController | None = None, **limits: Any) -> None:
        self.released: list[tuple[str, list[str]]] = []
        self.session = Session()
        self.controller = controller or StoreController(
            lambda node, pins: self.released.append((node, pins)), Ledger(**limits)
        )
        self.change("volume_joined", NODE, VOLUME)

    def ask(self, operation: str, *arguments: object) -> Any:
        return self.controller.handle(Request(operation, arguments))

    def change(self, operation: str, *arguments: object, id_: ChangeId | None = None) -> Any:
        with self.session.change() as new:
            return self.controller.handle(Request(operation, arguments, id_ or new))

    def publish(self, path: str, stored: bytes | Pin, size: int = 3, **options: Any) -> None:
        pins = [stored] if isinstance(stored, Pin) else []
        place: Stored = (0, WHOLE) if isinstance(stored, Pin) else stored
        items = Items([path], [(size, None, None)], [place], **options)
        self.change("publish", pins, items, [(NODE, VOLUME)] if pins else [])

    def publish_pack(self, id_: str, paths: list[str]) -> None:
        facts: list[Facts] = [(3, None, None)] * len(paths)
        items = Items(paths, facts, [(0, number) for number in range(len(paths))])
        self.change("publish", [pin(id_)], items, [(NODE, VOLUME)])


def successor_of(store: Store) -> StoreController:
    """Return what the next controller would be."""
    _, state = store.controller.parts()
    return StoreController.from_parts(state)


@pytest.fixture
def store() -> Store:
    return Store()


def test_reads_what_was_published_with_a_growing_version(store: Store) -> None:
    store.publish("/a", b"1")
    store.publish("/b", pin("p"))
    assert store.ask("read", ["/a", "/b"]) == Found([pin("p")], [b"1", (0, WHOLE)], [1, 2])


def test_a_repeated_change_is_carried_out_once_and_gets_the_same_answer(store: Store) -> None:
    items = Items(["/a"], [(1, None, None)], [b"1"])
    same, other, deletion = (ChangeId("another session", number, 0) for number in range(3))
    for _ in range(3):
        store.change("publish", [], items, id_=same)
    with pytest.raises(PathExistsError):
        store.change("publish", [], items, id_=other)
    store.change("delete", "/a", id_=deletion)
    store.change("delete", "/a", id_=deletion)
    with pytest.raises(PathExistsError):
        store.change("publish", [], items, id_=other)


def test_pins_are_released_when_their_last_entry_goes(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("copy", "/a", "/b")
    store.change("delete", "/a")
    assert store.released == []
    store.publish("/b", b"small", overwrite=True)
    assert store.released == [(NODE, ["p"])]


def test_delete_all_releases_all_pins_of_a_node_at_once(store: Store) -> None:
    for i in range(3):
        store.publish(f"/d/{i}", pin(f"p{i}"), parents=True)
    store.change("delete_all", "/d")
    [(node, pins)] = store.released
    assert (node, sorted(pins)) == (NODE, ["p0", "p1", "p2"])


def test_keys_are_deleted_with_the_directories_that_they_leave_empty(store: Store) -> None:
    for path in ("/top/c/0/0", "/top/c/0/1", "/top/d/0", "/top/d/1"):
        store.publish(path, pin(path), parents=True)
    store.change("delete_keys", ["/top/c/0/0", "/top/c/0/1", "/top/c", "/top/d/0", "/none"], "/top")
    assert store.ask("list_files", "/top", None, None, True) == ["/top/d/1"]
    assert store.ask("list_dir", "/top") == ["d"]
    assert {path for _, pins in store.released for path in pins} == {
        "/top/c/0/0",
        "/top/c/0/1",
        "/top/d/0",
    }
    store.change("delete_keys", ["/top/d/1"], "/top")
    assert store.ask("list_dir", "/top") == []


def test_a_read_of_what_exists_says_what_is_missing(store: Store) -> None:
    store.publish("/a", b"1", parents=True)
    found = store.ask("read", ["/missing", "/a", "/a/below", "/"], "", True)
    assert found.stored == [NOTHING, b"1", NOTHING, NOTHING]
    with pytest.raises(PathNotFoundError):
        store.ask("read", ["/missing", "/a"])


def test_a_failed_publish_changes_nothing(store: Store) -> None:
    store.publish("/a", b"1")
    items = Items(["/b", "/a"], [(1, None, None)] * 2, [b"2", b"3"])
    with pytest.raises(PathExistsError):
        store.change("publish", [], items)
    assert store.ask("exists", "/b") is False
    assert store.ask("status")["bytes"] == 3


def test_an_adopted_pin_is_read_by_its_new_reference(store: Store) -> None:
    store.publish("/a", pin("p", "old"))
    store.change("adopted", pin("p", "new"))
    assert store.ask("read", ["/a"]).pins == [pin("p", "new")]
    store.change("delete", "/a")
    store.change("adopted", pin("p", "newer"))
    with pytest.raises(PathNotFoundError):
        store.ask("read", ["/a"])


def test_publish_over_a_version_refuses_another_one(store: Store) -> None:
    store.publish("/a", b"1")
    store.publish("/a", b"2", if_version=1)
    with pytest.raises(VersionConflictError, match="version 2, not 1"):
        store.publish("/a", b"3", if_version=1)
    with pytest.raises(PathNotFoundError):
        store.publish("/none", b"3", if_version=1)
    assert store.ask("read", ["/a"]) == Found([], [b"2"], [2])


def test_a_volume_that_was_given_up_publishes_nothing(store: Store) -> None:
    store.change("volume_lost", NODE)
    with pytest.raises(StaleVolumeError):
        store.publish("/a", pin("p"))
    store.change("volume_joined", NODE, "the second volume")
    with pytest.raises(StaleVolumeError):
        store.publish("/a", pin("p"))
    assert store.ask("exists", "/a") is False


# Limits


def test_a_store_holds_no_more_than_it_may() -> None:
    store = Store(max_bytes=10)
    store.publish("/a", b"1", size=8)
    with pytest.raises(StorageFullError, match="8 of at most 10 bytes"):
        store.publish("/b", b"2", size=3)
    with pytest.raises(StorageFullError):
        store.ask("check", Items(["/b"], [(3, None, None)], []))
    store.publish("/a", b"3", size=9, overwrite=True)
    store.change("copy", "/a", "/c")
    store.change("delete", "/a")
    with pytest.raises(StorageFullError):
        store.publish("/b", b"2", size=2)
    store.change("delete", "/c")
    store.publish("/b", b"2", size=10)
    assert store.ask("status")["bytes"] == 10


def test_check_raises_what_publish_would(store: Store) -> None:
    store.publish("/a", b"1")
    with pytest.raises(PathExistsError):
        store.ask("check", Items(["/a"], [(3, None, None)], []))
    store.ask("check", Items(["/a"], [(3, None, None)], [], overwrite=True))
    assert store.ask("read", ["/a"]).stored == [b"1"]


# Packs


def test_a_pack_is_repacked_when_less_than_half_of_it_lives(store: Store) -> None:
    store.publish_pack("p", ["/0", "/1", "/2", "/3"])
    for path in ("/1", "/3"):
        store.change("delete", path)
    assert store.controller.next_repair(0) is None
    store.change("copy", "/0", "/copy")
    store.change("delete", "/0")
    assert store.controller.next_repair(0) is None
    store.change("delete", "/copy")
    assert store.controller.next_repair(0) == Adopt(pin("p"), [1, 3, 0])
    store.change("adopted", pin("p", "smaller"))
    assert store.controller.next_repair(0) is None
    assert store.ask("read", ["/2"]) == Found([pin("p", "smaller")], [(0, 2)], [3])
    store.change("delete", "/2")
    assert store.released == [(NODE, ["p"])]


def test_the_oldest_inline_values_are_packed_when_there_are_too_many() -> None:
    store = Store(inline_most=10_000)
    for i in range(4):
        store.publish(f"/{i}", bytes([i]) * 2000)
    assert store.controller.next_repair(0) is None
    store.publish("/4", b"4" * 2000)
    repair = store.controller.next_repair(0)
    assert isinstance(repair, PackInline)
    assert [message[:1] for message in repair.messages] == [b"\0", b"\1", b"\2", b"\3", b"4"]
    store.change("delete", "/1")
    store.publish("/2", b"new", overwrite=True)
    store.change("packed", pin("pack"), repair.serials, 1, [(NODE, VOLUME)])
    found = store.ask("read", ["/0", "/2", "/3", "/4"])
    assert found.stored == [(0, 0), b"new", (0, 3), (0, 4)]
    assert store.controller.next_repair(0) is None
    facts = store.ask("status")
    assert (facts["inline_values"], facts["inline_bytes"]) == (1, 3)


def test_a_repair_that_fails_keeps_no_other_from_its_turn() -> None:
    store = Store(inline_most=100)
    store.publish("/inline", b"1" * 200)
    store.publish("/lost", pin("p"))
    store.change("volume_lost", NODE)
    kinds = [type(store.controller.next_repair(0, failed)) for failed in range(4)]
    assert kinds == [Replicate, PackInline, Replicate, PackInline]


def test_a_pack_that_came_too_late_is_released() -> None:
    store = Store(inline_most=100)
    store.publish("/a", b"1" * 200)
    repair = store.controller.next_repair(0)
    assert isinstance(repair, PackInline)
    store.change("delete", "/a")
    store.change("packed", pin("pack"), repair.serials, 1, [(NODE, VOLUME)])
    assert store.released == [(NODE, ["pack"])]


def test_saves_need_objects_when_packing_cannot_keep_up() -> None:
    store = Store(inline_most=1000)
    for i in range(2):
        store.publish(f"/{i}", b"1" * 1000)
    with pytest.raises(InlineFullError):
        store.publish("/2", b"1")
    store.publish("/2", pin("p"))
    repair = store.controller.next_repair(0)
    assert isinstance(repair, PackInline)
    store.change("packed", pin("pack"), repair.serials, 1, [(NODE, VOLUME)])
    store.publish("/3", b"1")


def test_the_place_of_dropped_inline_values_is_used_again() -> None:
    store = Store()
    for _ in range(10_000):
        store.publish("/a", b"1", overwrite=True)
    assert len(store.controller.state.ledger._inline) < 3000


# A lost volume


def test_what_a_lost_volume_pinned_is_pinned_again_or_lost(store: Store) -> None:
    store.publish("/kept", pin("k"))
    store.publish("/gone", pin("g"))
    store.publish("/small", b"1")
    store.change("volume_lost", NODE)
    assert store.ask("read", ["/kept"]).pins == [Pin("k", (), "ref", 1000)]
    repair = store.controller.next_repair(0)
    assert isinstance(repair, Replicate)
    assert repair.lost == NODE
    assert [pin.id for pin in repair.pins] == ["k", "g"]
    store.change("volume_joined", "other", "v2")
    store.change("pinned", "other", "v2", ["k"])
    store.change("lost", ["g"], LOSS)
    assert store.controller.next_repair(0) is None
    assert store.ask("read", ["/kept", "/small"]).pins == [pin("k", node="other")]
    with pytest.raises(DataLostError, match=r"node one 1f0c2a9b, .* copy of it: '/gone'"):
        store.ask("read", ["/kept", "/gone"])
    assert store.ask("status")["lost"] == 1
    store.publish("/kept", b"new", overwrite=True)
    store.publish("/gone", b"new", overwrite=True)
    assert store.ask("status")["lost"] == 0


def test_what_was_deleted_meanwhile_is_not_pinned_again(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("volume_lost", NODE)
    store.change("delete", "/a")
    assert store.controller.next_repair(0) is None
    store.change("volume_joined", "other", "v2")
    store.change("pinned", "other", "v2", ["p"])
    assert store.released == [("other", ["p"])]
    store.change("lost", ["p"], LOSS)


def test_what_turns_up_is_not_lost_any_more(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("volume_lost", NODE)
    store.change("lost", ["p"], LOSS)
    store.change("volume_joined", "other", "v2")
    store.change("pinned", "other", "v2", ["p"])
    assert store.ask("read", ["/a"]).pins == [pin("p", node="other")]
    assert store.ask("status")["lost"] == 0


def test_a_lost_volume_is_made_good_in_pieces_that_take_turns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polystore_ray.controller.copies._REPAIR_OBJECTS", 2)
    for i in range(5):
        store.publish(f"/{i}", pin(f"p{i}"))
    store.change("volume_lost", NODE)
    pieces: list[list[str]] = []
    for _ in range(3):
        repair = store.controller.next_repair(0)
        assert isinstance(repair, Replicate)
        pieces.append([one.id for one in repair.pins])
    assert pieces == [["p0", "p1"], ["p2", "p3"], ["p4", "p0"]]


def test_a_lost_value_tells_where_else_it_is(store: Store) -> None:
    store.publish("/a", pin("p"), fallback=("zarr", "/z"))
    assert store.ask("why", "/a")["fallback"] == ("zarr", "/z")
    store.change("volume_lost", NODE)
    store.change("lost", ["p"], LOSS)
    with pytest.raises(DataLostError) as caught:
        store.ask("read", ["/a"])
    assert (caught.value.fallback, caught.value.version) == (("zarr", "/z"), 1)
    facts = store.ask("why", "/a")
    assert (facts["lost"], facts["nodes"], facts["wanted"]) == (str(LOSS), (), 1)


def test_every_lost_path_is_listed_with_its_loss(store: Store) -> None:
    store.publish("/kept", b"1")
    store.publish("/d/gone", pin("p"), fallback=("zarr", "/z"), parents=True)
    store.publish("/pack/1", pin("q"), parents=True)
    store.change("copy", "/d", "/copy")
    assert store.ask("losses", "/") == []
    assert "lost" not in store.ask("stat", "/d/gone")
    store.change("volume_lost", NODE)
    assert store.change("lost", ["p", "q", "unknown"], LOSS) == (2, 2000)
    found = sorted(store.ask("losses", "/"))
    assert found == [
        ("/copy/gone", LOSS, ("zarr", "/z")),
        ("/d/gone", LOSS, ("zarr", "/z")),
        ("/pack/1", LOSS, None),
    ]
    assert store.ask("losses", "/pack/1") == [("/pack/1", LOSS, None)]
    assert store.ask("stat", "/d/gone")["lost"] == str(LOSS)
    assert store.ask("status")["lost"] == 2
    with pytest.raises(PathNotFoundError):
        store.ask("losses", "/none")


def test_a_loss_is_told_in_two_sentences_with_node_time_and_cure(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("volume_lost", NODE)
    store.change("lost", ["p"], LOSS)
    with pytest.raises(DataLostError) as caught:
        store.ask("read", ["/a"])
    what, cure = caught.value.message.split(". ")
    assert what.startswith("the last copy was on node one 1f0c2a9b, ")
    assert re.search(r"was lost by \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", what)
    assert cure.startswith("Save the value again; replicas=2 or fallback= keeps")
    assert "the nodes that held the value were lost" in str(Loss("", "", 0.0, ""))


class OneOtherNode:
    """Volumes of which that of one other node remains, which cannot get what is lost."""

    def host_of(self, node: str) -> str:
        return f"host-of-{node}"

    def place(self, _pin: Pin, _preferred: str) -> str:
        return "other"

    def pin_again(self, _node: str, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        return "v2", [], {one.id: "OwnerDiedError: no bytes" for one in pins}


def test_a_death_that_costs_values_is_logged_with_node_and_numbers(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.publish("/a", pin("p"))
    store.publish_pack("q", ["/b", "/c"])
    store.change("volume_lost", NODE)
    store.change("volume_joined", "other", "v2")
    repair = store.controller.next_repair(0)
    assert isinstance(repair, Replicate)
    volumes: Any = OneOtherNode()
    carry_out(repair, store.controller, volumes, replicas=1)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("3 values of 2000 bytes are lost: the last copy was on node host-of-")
    assert line.endswith("(OwnerDiedError: no bytes)")
    [first, *_] = store.ask("losses", "/")
    assert (first[1].node, first[1].host) == (NODE, f"host-of-{NODE}")
    assert abs(first[1].moment - time.time()) < 60


def test_a_fallback_is_set_for_the_version_it_is_of(store: Store) -> None:
    store.publish("/a", b"1")
    store.change("set_fallback", "/a", 1, ("disk", "/d"))
    store.publish("/a", b"2", overwrite=True)
    store.change("set_fallback", "/a", 1, ("disk", "/e"))
    assert store.ask("why", "/a")["fallback"] is None


# Dumps


def test_a_snapshot_keeps_values_that_are_deleted_until_it_is_deleted(store: Store) -> None:
    store.publish("/d/a", pin("p"), parents=True)
    assert isinstance(store.change("snapshot", "/", "/now"), float)
    store.change("delete_all", "/d")
    assert store.released == []
    assert store.ask("outline", "/now") == (["/now/d"], [], ["/now/d/a"])
    [found], [record] = store.ask("records", ["/now/d/a"])
    assert (found.id, found.nodes) == ("p", (NODE,))
    assert (record.moment[0], record.replicas, record.stored) == (1, 1, 0)
    follower = Store(successor_of(store))
    for some in (store, follower):
        some.change("delete_all", "/now")
        assert some.controller.state.released == [(NODE, ["p"])]


def test_a_graft_appears_whole_or_not_at_all(store: Store) -> None:
    moments = [(70, 5.0)]
    store.publish("/new/a", b"1", parents=True, moments=moments)
    store.publish("/taken", b"2")
    assert store.ask("stat", "/taken")["version"] == 71
    wrong: tuple[Any, ...]
    for wrong in (
        ("/new", 1, ["/taken"], [], []),
        ("/new", 2, [], [("/a", "/taken")], []),
        ("/new", 1, [], [], [("/none/link", "/a")]),
        ("/new", 1, [], [], [("/a", "/a")]),
        ("/new", 1, ["/a/b"], [], []),
        ("/new", 2, [], [("/none", "/b")], []),
        ("/new", 2, [], [], []),
    ):
        with pytest.raises((PathExistsError, PathNotFoundError, StorageWriteError)):
            store.change("graft", *wrong)
        assert store.ask("list_dir", "/") == ["new", "taken"]
        store.change("delete_all", "/new")
        store.publish("/new/a", b"1", parents=True, moments=moments)
    rest = 2, ["/d/e"], [("/a", "/d/a")], [("/d/link", "/a"), ("/dangling", "/none")]
    store.change("graft", "/new", *rest)
    assert store.ask("outline", "/")[0:2] == (
        ["/d", "/d/e"],
        [("/dangling", "/none"), ("/d/link", "/a")],
    )
    for path in ("/a", "/d/a", "/d/link"):
        facts = store.ask("stat", path)
        assert (facts["version"], facts["modified"]) == (70, 5.0)
    assert store.ask("status")["files"] == 3
    store.publish("/b", b"3")
    assert store.ask("stat", "/b")["version"] > 71


# Replicas


@pytest.fixture
def three() -> Store:
    """Return a store on three nodes, with a value on two of them."""
    store = Store()
    for node in ("b", "c"):
        store.change("volume_joined", node, f"of {node}")
    store.controller.nodes_changed({NODE, "b", "c"}, set())
    items = Items(["/a"], [(3, None, None)], [(0, WHOLE)], replicas=2)
    store.change("publish", [pin("p")], items, [(NODE, VOLUME), ("b", "of b")])
    return store


def test_a_reader_is_told_its_own_node_first(three: Store) -> None:
    assert three.ask("stat", "/a")["replicas"] == 2
    [found] = three.ask("read", ["/a"], "b").pins
    assert found.nodes == ("b", NODE)
    three.change("adopted", Pin("p", ("b",), "owned by b", 1000))
    assert three.ask("read", ["/a"], "b").pins == [Pin("p", ("b", NODE), "owned by b", 1000)]
    three.change("adopted", Pin("p", (NODE,), "owned by node", 1000))
    assert three.ask("read", ["/a"], "b").pins[0].ref == "owned by b"
    assert three.ask("read", ["/a"], "c").pins[0].ref == "owned by node"


def test_an_evicted_value_keeps_the_number_of_its_replicas() -> None:
    store = Store(max_bytes=5, evicts=True)
    store.publish("/a", pin("p"), replicas=2, evictable=True)
    store.publish("/b", pin("q"), evictable=True)
    assert store.ask("stat", "/a")["evicted"]
    assert store.ask("kept", "/a").replicas == 2
    assert [each.replicas for each in store.ask("lacking", ["/a"])] == [2]
    assert successor_of(store).handle(Request("kept", ("/a",))).replicas == 2


def test_a_lost_replica_is_made_anew_elsewhere(three: Store) -> None:
    assert three.controller.next_repair(0) is None
    three.change("volume_lost", NODE)
    assert three.ask("status")["too_few_replicas"] == 1
    repair = three.controller.next_repair(0)
    assert isinstance(repair, Replicate)
    assert [pin.nodes for pin in repair.pins] == [("b",)]
    three.change("pinned", "c", "of c", ["p"])
    assert three.controller.next_repair(0) is None
    assert three.ask("stat", "/a")["replicas"] == 2
    three.change("delete", "/a")
    assert sorted(three.released) == [("b", ["p"]), ("c", ["p"])]


def test_without_enough_nodes_nothing_is_tried_until_one_joins(three: Store) -> None:
    three.controller.nodes_changed({"b"}, set())
    three.change("volume_lost", NODE)
    assert three.controller.next_repair(0) is None
    assert three.ask("status")["too_few_replicas"] == 1
    three.controller.nodes_changed({"b", "d"}, set())
    assert isinstance(three.controller.next_repair(0), Replicate)


def test_small_values_have_too_few_replicas_where_there_is_one_node() -> None:
    controller = StoreController(lambda *_: None, journal=Journal(1, synchronous=True))
    store = Store(controller)
    controller.nodes_changed({NODE}, set())
    store.publish("/small", b"1", replicas=2)
    assert store.ask("status")["too_few_replicas"] == 1
    controller.nodes_changed({NODE, "b"}, set())
    assert store.ask("status")["too_few_replicas"] == 0


def test_a_node_that_will_leave_does_not_count(three: Store) -> None:
    three.controller.nodes_changed({NODE, "b", "c"}, {"b"})
    assert three.controller.held_alone_by("b") == 0
    assert isinstance(three.controller.next_repair(0), Replicate)
    three.change("pinned", "c", "of c", ["p"])
    assert three.controller.next_repair(0) is None


def test_a_volume_that_was_given_up_holds_no_replica(three: Store) -> None:
    three.change("volume_lost", NODE)
    with pytest.raises(StaleVolumeError):
        three.change("pinned", "c", "an older one", ["p"])
    assert three.ask("stat", "/a")["replicas"] == 1


# The state


def test_a_controller_is_made_from_the_state_of_another(three: Store) -> None:
    three.publish("/small", b"1")
    three.publish_pack("pack", ["/0", "/1", "/2"])
    three.change("copy", "/small", "/same")
    three.change("create_symlink", "/small", "/link")
    three.change("ensure_directory", "/deep/" + "d/" * 2000)
    deleted = ChangeId("another session", 0, 0)
    three.change("delete", "/2", id_=deleted)
    other = successor_of(three)
    pinned, owned = Pin("p", (), "of the saver", 1000), pin("pack", "owned")
    other.recover({"b": Joined("of b", [pinned]), NODE: Joined(VOLUME, [owned])})

    def ask(operation: str, *arguments: object) -> Any:
        return other.handle(Request(operation, arguments))

    assert ask("list_files", "/", None, None, True) == three.ask(
        "list_files", "/", None, None, True
    )
    assert ask("read", ["/a"]).pins == [Pin("p", ("b",), "of the saver", 1000)]
    assert ask("read", ["/1"]) == Found([pin("pack", "owned")], [(0, 1)], [4])
    assert ask("read", ["/same", "/link"]).stored == [b"1", b"1"]
    assert other.handle(Request("delete", ("/2",), deleted)) is None
    assert ask("status") == three.ask("status") | {"too_few_replicas": 1}
    new = Items(["/n"], [(1, None, None)], [b"n"])
    other.handle(Request("publish", ([], new), ChangeId("another session", 1, 0)))
    assert ask("stat", "/n")["version"] == 6


def test_all_that_decides_an_answer_is_part_of_the_state(three: Store) -> None:
    """Whoever adds an attribute to a controller says here that no successor needs it."""
    own = {"_lock", "_changed", "_happened", "_journal", "_release", "_calls", "_leases", "_feed"}
    controller = three.controller
    assert set(vars(controller)) == own | {"state"}
    three.publish("/small", b"1")
    three.publish_pack("pack", ["/0", "/1", "/2"])
    three.change("delete", "/0")
    three.change("drain", "b")
    three.change("class_arrived", "mine", "a process", 0, "of its code")
    three.change("confirm", ["late"], NODE, VOLUME)
    three.change("volume_lost", "c")
    with pytest.raises(PathExistsError):
        three.publish("/small", pin("failed"))
    other = successor_of(three)
    assert set(vars(other.state)) == set(vars(controller.state))
    for name, value in vars(controller.state).items():
        assert plain(getattr(other.state, name)) == plain(value), name


def plain(value: Any) -> Any:
    """Return a state as nested tuples; of objects that are shared, the first place names them."""
    known: dict[int, int] = {}

    def of(value: Any) -> Any:
        if isinstance(value, str | bytes | int | float | None):
            return value
        if id(value) in known:
            return known[id(value)]
        known[id(value)] = len(known)
        if isinstance(value, dict):
            return type(value).__name__, tuple((of(key), of(item)) for key, item in value.items())
        if isinstance(value, list | tuple | set | frozenset | deque):
            items = sorted(value) if isinstance(value, set | frozenset) else value
            return type(value).__name__, tuple(map(of, items))
        names = getattr(value, "__slots__", None) or vars(value)
        # References to objects are told by their volumes.
        kept = [name for name in names if (type(value), name) not in _TOLD_BY_VOLUMES]
        return type(value).__name__, tuple((name, of(getattr(value, name))) for name in kept)

    return of(value)


_TOLD_BY_VOLUMES = {(Held, "ref"), (Held, "copies")}


def test_what_nobody_holds_any_more_is_due_to_be_lost(three: Store) -> None:
    other = successor_of(three)
    other.recover({"c": Joined("of c", [pin("unknown", node="c")])})
    repair = other.next_repair(0)
    assert isinstance(repair, Replicate)
    assert repair.pins == [Pin("p", (), None, 1000)]


def test_what_is_about_to_be_published_is_kept_when_another_takes_over(store: Store) -> None:
    released: list[list[str]] = []
    _, state = store.controller.parts()
    other = StoreController.from_parts(state, lambda _node, ids: released.append(ids))
    other.recover({NODE: Joined(VOLUME, [pin("p")])})
    assert released == []


def test_what_nobody_has_published_is_released(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("confirm", ["p", "q"], NODE, VOLUME)
    assert store.released == [(NODE, ["q"])]
    with pytest.raises(StaleVolumeError):
        store.change("confirm", ["p"], NODE, "an older volume")


def test_what_was_released_cannot_be_published_any_more(store: Store) -> None:
    store.publish("/a", pin("p"))
    store.change("confirm", ["p", "late"], NODE, VOLUME)
    for some in (store, Store(successor_of(store))):
        with pytest.raises(StorageWriteError, match=r"let go.*'/a'"):
            some.publish("/a", pin("late"), overwrite=True)
        assert [one.id for one in some.ask("read", ["/a"]).pins] == ["p"]
    store.change("volume_joined", "another node", "another volume")
    store.change("confirm", ["p"], "another node", "another volume")
    assert store.released[-1] == ("another node", ["p"])
    store.publish("/b", pin("p"))  # it is held elsewhere, and known


def test_the_controller_alone_releases_what_a_failed_publication_pinned(store: Store) -> None:
    store.publish("/a", pin("p"))
    late, never = ChangeId("another session", 0, 0), ChangeId("another session", 1, 0)
    items = Items(["/a"], [(3, None, None)], [(0, WHOLE)])
    for _ in range(2):
        with pytest.raises(PathExistsError):
            store.change("publish", [pin("q")], items, [(NODE, VOLUME)], id_=late)
    assert store.released == [(NODE, ["q"])]
    assert store.change("withdraw", ["r"], [NODE], id_=never) is WITHDRAWN
    assert store.released[-1] == (NODE, ["r"])
    assert store.change("publish", [pin("r")], items, [(NODE, VOLUME)], id_=never) is WITHDRAWN
    with pytest.raises(PathExistsError):
        store.change("withdraw", ["q"], [NODE], id_=late)
    assert len(store.released) == 2


def test_a_query_changes_nothing(three: Store) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "check": (Items(["/new"], [(3, None, None)], [], parents=True),),
        "list_files": ("/", None, None, True),
        "nodes": (["/a"],),
        "outline": ("/",),
        "pins": (["p"], NODE),
        "records": (["/a"],),
        "read": (["/a"], NODE),
        "status": (),
    }
    for operation in QUERIES:
        path = "/" if operation == "list_dir" else "/a"
        before = encode(vars(three.controller.state))
        three.ask(operation, *arguments.get(operation, (path,)))
        assert encode(vars(three.controller.state)) == before, operation


@pytest.mark.parametrize("operation", ["_publish", "__init__", "put", "handle", "read_all"])
def test_runs_no_other_operation(store: Store, operation: str) -> None:
    with pytest.raises(UnsupportedOperationError):
        store.change(operation)


def test_a_change_without_an_id_is_refused(store: Store) -> None:
    with pytest.raises(UnsupportedOperationError):
        store.ask("delete", "/a")
