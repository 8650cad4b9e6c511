from __future__ import annotations

import threading
from typing import Any

import pytest

from polystore.exceptions import PathExistsError
from polystore.seal import seal
from polystore_ray.envelope import Envelope
from polystore_ray.errors import DataLostError
from polystore_ray.messages import Item, Pin, PutOptions, Request
from polystore_ray.volume import MemoryVolume

ENVELOPE = Envelope(seal("value"))
PIN = Pin("p", "node", ENVELOPE)
ITEM = Item("/a", 5, None, None, PIN)


class Requests(list[Request]):
    """The controller's side: keeps what it is asked, and fails where told to."""

    error: Exception | None = None

    def __call__(self, request: Request) -> None:
        self.append(request)
        if self.error is not None:
            raise self.error


def made(requests: Requests, put: Any = lambda envelope: ("put again", envelope)) -> MemoryVolume:
    return MemoryVolume(get=lambda refs: refs, put=put, ask=requests)


def test_publish_pins_first_and_hands_its_operation_id_on() -> None:
    requests = Requests()
    made(requests).publish([ITEM], PutOptions(), "op")
    assert requests == [Request("publish", ([ITEM], PutOptions()), "op")]


def test_a_failed_publish_leaves_nothing_pinned() -> None:
    requests = Requests()
    requests.error = PathExistsError("taken", path="/a")
    volume = made(requests)
    with pytest.raises(PathExistsError):
        volume.publish([ITEM], PutOptions(), "op")
    requests.error = None
    with pytest.raises(DataLostError):
        volume.adopt(PIN, "op2")


def test_adopt_puts_the_object_again_once_for_all_readers() -> None:
    requests = Requests()
    puts: list[Envelope] = []

    def put(envelope: Envelope) -> int:
        puts.append(envelope)
        return len(puts)

    volume = made(requests, put=put)
    volume.publish([ITEM], PutOptions(), "op")
    adopted: list[Pin] = []
    readers = [
        threading.Thread(target=lambda i=i: adopted.append(volume.adopt(PIN, f"op{i}")))
        for i in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert puts == [ENVELOPE]
    assert adopted == [Pin("p", "node", 1)] * 8
    assert [request.operation for request in requests] == ["publish", "adopted"]


def test_a_released_pin_cannot_be_adopted() -> None:
    volume = made(Requests())
    volume.publish([ITEM], PutOptions(), "op")
    volume.release(["p", "never pinned"])
    with pytest.raises(DataLostError):
        volume.adopt(PIN, "op2")
