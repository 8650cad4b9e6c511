from __future__ import annotations

import pytest

from polystore.exceptions import PathExistsError, PathNotFoundError, UnsupportedOperationError
from polystore_ray.controller import StoreController
from polystore_ray.messages import Item, Pin, PutOptions, Request, new_operation_id


class Store:
    """A controller, and what it released."""

    def __init__(self) -> None:
        self.released: list[tuple[str, list[str]]] = []
        self.controller = StoreController(lambda node, pins: self.released.append((node, pins)))

    def ask(self, operation: str, *arguments: object) -> object:
        return self.controller.handle(Request(operation, arguments))

    def change(self, operation: str, *arguments: object, operation_id: str | None = None) -> object:
        return self.controller.handle(
            Request(operation, arguments, operation_id or new_operation_id())
        )

    def publish(self, path: str, stored: bytes | Pin, **options: object) -> object:
        item = Item(path, 3, None, None, stored)
        return self.change("publish", [item], PutOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def store() -> Store:
    return Store()


def test_reads_what_was_published_with_a_growing_version(store: Store) -> None:
    store.publish("/a", b"1")
    store.publish("/b", Pin("p", "node", "ref"))
    assert store.ask("read", ["/a", "/b"]) == [(b"1", 1), (Pin("p", "node", "ref"), 2)]


def test_a_repeated_change_is_carried_out_once_and_gets_the_same_answer(store: Store) -> None:
    item = Item("/a", 1, None, None, b"1")
    for _ in range(3):
        store.change("publish", [item], PutOptions(), operation_id="same")
    with pytest.raises(PathExistsError):
        store.change("publish", [item], PutOptions(), operation_id="other")
    store.change("delete", "/a", operation_id="delete")
    store.change("delete", "/a", operation_id="delete")
    with pytest.raises(PathExistsError):
        store.change("publish", [item], PutOptions(), operation_id="other")


def test_pins_are_released_when_their_last_entry_goes(store: Store) -> None:
    store.publish("/a", Pin("p", "node", "ref"))
    store.change("copy", "/a", "/b")
    store.change("delete", "/a")
    assert store.released == []
    store.publish("/b", b"small", overwrite=True)
    assert store.released == [("node", ["p"])]


def test_delete_all_releases_all_pins_of_a_node_at_once(store: Store) -> None:
    for i in range(3):
        store.publish(f"/d/{i}", Pin(f"p{i}", "node", "ref"), parents=True)
    store.change("delete_all", "/d")
    [(node, pins)] = store.released
    assert (node, sorted(pins)) == ("node", ["p0", "p1", "p2"])


def test_a_failed_publish_changes_nothing(store: Store) -> None:
    store.publish("/a", b"1")
    items = [Item("/b", 1, None, None, b"2"), Item("/a", 1, None, None, b"3")]
    with pytest.raises(PathExistsError):
        store.change("publish", items, PutOptions())
    assert store.ask("exists", "/b") is False


def test_an_adopted_pin_is_read_by_its_new_reference(store: Store) -> None:
    store.publish("/a", Pin("p", "node", "old"))
    store.change("adopted", Pin("p", "node", "new"))
    assert store.ask("read", ["/a"]) == [(Pin("p", "node", "new"), 1)]
    store.change("delete", "/a")
    store.change("adopted", Pin("p", "node", "newer"))
    with pytest.raises(PathNotFoundError):
        store.ask("read", ["/a"])


def test_publish_over_a_version_refuses_another_one(store: Store) -> None:
    store.publish("/a", b"1")
    store.publish("/a", b"2", overwrite=True, version=1)
    with pytest.raises(PathExistsError, match="replaced"):
        store.publish("/a", b"3", overwrite=True, version=1)
    assert store.ask("read", ["/a"]) == [(b"2", 2)]


@pytest.mark.parametrize("operation", ["_publish", "__init__", "put", "handle", "read_all"])
def test_runs_no_other_operation(store: Store, operation: str) -> None:
    with pytest.raises(UnsupportedOperationError):
        store.change(operation)


def test_a_change_without_an_id_is_refused(store: Store) -> None:
    with pytest.raises(UnsupportedOperationError):
        store.ask("delete", "/a")
