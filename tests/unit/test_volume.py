from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import StorageError, StorageFullError
from polystore.serialization import seal
from polystore_ray.errors import CallTimeoutError, DataLostError
from polystore_ray.hosting.volume import MemoryVolume
from polystore_ray.wire.envelope import Envelope, sealed_message
from polystore_ray.wire.messages import NotPinnedError, Pin, Request
from polystore_ray.wire.pack import Pack


class Around:
    """What is around a volume: keeps what it asks and puts, and fails where told to."""

    def __init__(self, **options: Any) -> None:
        self.requests: list[Request] = []
        self.puts: list[Envelope] = []
        self.error: Exception | None = None
        self.put_error: Exception | None = None
        self.unknown: list[str] = []
        self.lost: set[str] = set()
        self.late: set[str] = set()
        self.gets = 0
        self.volume = MemoryVolume("node", "v1", self.get, self.put, self.ask, **options)

    def get(self, references: list[Any]) -> list[Envelope | StorageError]:
        self.gets += 1
        return [self._get_one(reference) for reference in references]

    def _get_one(self, reference: Any) -> Envelope | StorageError:
        if reference in self.lost:
            return DataLostError("its owner died")
        if reference in self.late:
            return CallTimeoutError("it did not come in time")
        found: Envelope = getattr(reference, "envelope", reference)
        return found

    def put(self, envelope: Envelope) -> Any:
        if self.put_error is not None:
            raise self.put_error
        self.puts.append(envelope)
        return envelope

    def ask(self, request: Request) -> Any:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if request.operation != "confirm":
            return None
        self.release()  # as the controller does, once that is safe
        return self.unknown

    def release(self) -> None:
        self.volume.release(self.unknown)

    def pin(self, *pins: Pin, timeout: float = 5) -> tuple[str, str]:
        return self.volume.pin(list(pins), timeout)

    def operations(self) -> list[str]:
        return [request.operation for request in self.requests]


def pin(id_: str = "p", value: Any = "value", nbytes: int = 100) -> Pin:
    return Pin(id_, ("node",), Envelope(seal(value)), nbytes)


def test_pins_and_says_who_it_is() -> None:
    around, one = Around(), pin()
    assert around.pin(one, one) == ("node", "v1")
    around.pin(one)
    status = around.volume.status()
    assert (status["pinned"], status["pinned_bytes"]) == (1, 100)
    assert around.requests == []


def test_what_was_never_published_is_let_go_in_the_end() -> None:
    around = Around()
    around.pin(pin("made"), pin("not made"))
    around.unknown = ["not made"]
    around.volume.reconcile(60)
    assert around.volume.status()["pinned"] == 2
    around.error = CallTimeoutError("no answer")
    with pytest.raises(CallTimeoutError):
        around.volume.reconcile(0)
    assert around.volume.status()["pinned"] == 2
    around.error = None
    around.volume.reconcile(0)
    assert around.requests[-1].arguments == (["made", "not made"], "node", "v1")
    assert around.volume.status()["pinned"] == 1
    around.volume.reconcile(0)
    assert len(around.requests) == 2


def test_what_a_new_controller_does_not_know_is_let_go_in_the_end() -> None:
    around = Around()
    around.pin(pin("known"), pin("forgotten"))
    around.volume.reconcile(0)
    around.volume.doubt()
    around.unknown = ["forgotten"]
    around.volume.reconcile(60)
    assert around.volume.status()["pinned"] == 2
    around.volume.reconcile(0)
    assert around.volume.status()["pinned"] == 1


def test_adopt_puts_the_object_again_once_for_all_readers() -> None:
    around, one = Around(), pin()
    around.pin(one)
    adopted: list[Pin] = []
    readers = [
        threading.Thread(target=lambda: adopted.append(around.volume.adopt(one))) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert around.puts == [one.ref]
    assert len(set(map(id, adopted))) == 1
    assert around.operations() == ["adopted"]
    status = around.volume.status()
    assert (status["pinned"], status["adopted"]) == (0, 1)


def test_a_released_object_cannot_be_adopted() -> None:
    around = Around()
    around.pin(pin())
    around.volume.release(["p", "never pinned"])
    with pytest.raises(NotPinnedError):
        around.volume.adopt(pin())


def test_a_pack_is_put_again_without_what_was_dropped() -> None:
    around = Around()
    pack = Pack.of([np.full(1000, i) for i in range(4)])
    one = pin(value=pack, nbytes=seal(pack).nbytes)
    around.pin(one)
    adopted = around.volume.adopt(one, [0, 2])
    assert adopted.nbytes < 0.6 * one.nbytes
    assert [int(value[0]) for value in adopted.ref.sealed.open().values([1, 3])] == [1, 3]
    smaller = around.volume.adopt(adopted, [0, 1, 2])
    assert smaller.nbytes < 0.6 * adopted.nbytes
    assert around.volume.status()["adopted"] == 1


def test_small_values_are_put_as_a_pack_that_is_held() -> None:
    around = Around()
    made, _ = around.volume.pack([sealed_message(seal(value)) for value in ("a", "b")])
    assert made.ref.sealed.open().values([1, 0]) == ["b", "a"]
    assert around.volume.adopt(made) is made
    around.volume.release([made.id])
    assert around.volume.status()["adopted"] == 0


def test_a_value_put_for_a_client_is_held_without_being_pinned_again() -> None:
    around = Around()
    made = around.volume.put(seal("value"))
    around.pin(made)
    status = around.volume.status()
    assert (status["pinned"], status["adopted"]) == (0, 1)


def test_pins_again_what_still_has_an_owner() -> None:
    around = Around()
    pins = [pin("a"), pin("b"), pin("c")]
    around.lost = {pins[1].ref}
    before = around.gets
    incarnation, found, lost = around.volume.pin_again(pins)
    assert around.gets == before + 1  # as each could have to wait
    assert (incarnation, found) == ("v1", ["a", "c"])
    assert lost == {"b": "its owner died"}
    assert around.volume.status()["pinned"] == 2
    assert around.volume.pin_again([pin("d")._replace(ref=None)])[1:] == (
        [],
        {"d": "no process has a reference to the object"},
    )


def test_what_only_comes_late_is_not_lost() -> None:
    around = Around()
    pins = [pin("a"), pin("b")]
    around.late = {pins[1].ref}
    assert around.volume.pin_again(pins) == ("v1", ["a"], {})
    around.late = set()
    assert around.volume.pin_again(pins[1:]) == ("v1", ["b"], {})


def test_what_is_pinned_again_but_known_to_nobody_is_let_go_in_the_end() -> None:
    around = Around()
    around.volume.pin_again([pin("a")])
    made, _ = around.volume.pack([b"1", b"2"])
    around.unknown = ["a", made.id]
    around.volume.reconcile(0)
    status = around.volume.status()
    assert (status["pinned"], status["adopted"]) == (0, 0)


def test_what_is_adopted_while_it_is_pinned_is_not_held_twice() -> None:
    around, one = Around(), pin()
    around.pin(one)
    get = around.volume._get

    def adopt_meanwhile(references: list[Any]) -> list[Any]:
        around.volume._get = get
        around.volume.adopt(one)
        return get(references)

    around.volume._get = adopt_meanwhile
    around.pin(one)
    status = around.volume.status()
    assert (status["pinned"], status["adopted"]) == (0, 1)


def test_tells_what_it_holds_and_what_it_owns() -> None:
    around = Around()
    around.pin(pin("a"), pin("b"))
    around.volume.adopt(pin("b"))
    pinned, owned = around.volume.holdings()
    assert (pinned.id, pinned.nodes) == ("a", ())
    assert (owned.id, owned.nodes) == ("b", ("node",))
    assert around.volume.pin_again([pin("b")])[1] == ["b"]
    assert around.volume.status()["adopted"] == 1


# Room


def test_the_oldest_pins_beyond_the_budget_are_adopted() -> None:
    around = Around(capacity=1000, budget=0.5)
    pins = [pin(f"p{i}") for i in range(7)]
    for one in pins:
        around.pin(one)
    threading.Thread(target=around.volume.make_room, daemon=True).start()
    wait_until(lambda: len(around.puts) == 2)
    time.sleep(0.05)
    assert around.puts == [pins[0].ref, pins[1].ref]
    assert around.volume.status()["pinned_bytes"] == 500


def test_saves_are_held_back_until_there_is_room() -> None:
    around = Around(capacity=1000)
    for i in range(8):
        around.pin(pin(f"p{i}"))
    with pytest.raises(StorageFullError, match="800 of the 1000 bytes"):
        around.pin(pin("late"), timeout=0.05)
    saver = threading.Thread(target=around.pin, args=(pin("late"),))
    saver.start()
    time.sleep(0.05)
    assert saver.is_alive()
    threading.Thread(target=around.volume.make_room, daemon=True).start()
    saver.join(5)
    assert not saver.is_alive()
    assert around.volume.status()["adopted"]


def test_a_value_larger_than_the_limit_goes_alone() -> None:
    around = Around(capacity=1000)
    around.pin(pin("p", nbytes=900), timeout=0.05)
    with pytest.raises(StorageFullError):
        around.pin(pin("q", nbytes=1), timeout=0.05)


def test_what_can_never_fit_is_refused_at_once() -> None:
    around = Around(capacity=1000)
    start = time.monotonic()
    with pytest.raises(StorageFullError, match=r"1200 bytes can never fit .* in parts"):
        around.pin(pin("p", nbytes=600), pin("q", nbytes=600), timeout=60)
    assert time.monotonic() - start < 10
    assert around.gets == 0


def test_room_is_reserved_while_objects_come() -> None:
    """Savers that look for room at the same time must not all take the same."""
    around = Around(capacity=1000)
    come = threading.Event()
    get = around.volume._get

    def get_slowly(references: list[Any]) -> list[Any]:
        come.wait()
        return get(references)

    around.volume._get = get_slowly
    full: list[StorageFullError] = []

    def save(number: int) -> None:
        try:
            around.pin(pin(f"p{number}"), timeout=0.5)
        except StorageFullError as error:
            full.append(error)

    savers = [threading.Thread(target=save, args=(number,)) for number in range(16)]
    for saver in savers:
        saver.start()
    wait_until(lambda: len(full) == 8)
    come.set()
    for saver in savers:
        saver.join()
    assert around.volume.status()["pinned_bytes"] == 800
    around.volume.release([f"p{number}" for number in range(16)])
    around.pin(pin("later", nbytes=800), timeout=0.05)  # nothing stays reserved


def test_what_cannot_be_adopted_stays_pinned_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polystore_ray.hosting.volume._TRIED_AGAIN_AFTER", 0.01)
    around = Around(capacity=1000)
    around.put_error = StorageError("the disk is full")
    for i in range(6):
        around.pin(pin(f"p{i}"))
    threading.Thread(target=around.volume.make_room, daemon=True).start()
    time.sleep(0.1)
    assert around.volume.status()["pinned"] == 6
    around.put_error = None
    wait_until(lambda: around.volume.status()["pinned"] == 5)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
