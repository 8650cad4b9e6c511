"""Messages between a store's processes: all that a store says arrives, and no code with it."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
import pytest

from polystore import CorruptDataError, PathNotFoundError, UnsupportedOperationError
from polystore.serialization import shape_and_dtype
from polystore_ray import RayBackendRegistry
from polystore_ray.client.batch import Sealing, array_bytes
from polystore_ray.controller.state import StoreController
from polystore_ray.wire.decoding import decode, decode_state, encode
from polystore_ray.wire.messages import ChangeId, Found, Items, Loss, Pin, Record, Request
from polystore_ray.wire.pack import Pack

ran: list[str] = []


def run(*_: object) -> int:
    ran.append("code")
    return 2


class Evil:
    """What runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return run, ()

    def __iter__(self) -> Any:
        return iter((self, self))


class Lying(np.ndarray[Any, Any]):
    """An array that says of itself what would be run elsewhere."""

    shape = property(lambda _: Evil())
    dtype = property(lambda _: Evil())
    nbytes = property(lambda _: Evil())


class Pretending:
    """What says that it is an array."""

    __class__ = np.ndarray  # type: ignore[assignment]
    shape = (Evil(),)


ITEMS = Items(["/a"], [(8, (1,), "float64")], [b"x"], fallback=("disk", "/b"))
ANYTHING: Any = [(1, Evil(), "u1")]
NUMBER: Any = np.int64(3)
MESSAGES: list[Any] = [
    None,
    Request("exists", ("/a",)),
    Request("publish", ([Pin("1", ("n",), None, 3)], ITEMS, (("n", "i"),)), ChangeId("s", 1, 0)),
    (Request("delete", ("/a",), ChangeId("s", 2, 0)), 1.5),
    Found([], [b"x", (0, 3)], [1, 2]),
    ([], [Record((8, (1,), "f8"), (3, 1.5), 2, None, -1, 0)]),
    [("/a", Loss("n", "host", 1.5, "OwnerDiedError"), None)],
    {"size": 1, "shape": (2,), "names": ["a"], "none": None, "lost": ""},
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_messages_come_back_as_they_are(message: Any) -> None:
    back = decode(encode(message))
    assert back == message
    assert type(back) is type(message)


@pytest.mark.parametrize(
    "message",
    [
        Evil(),
        Request("stat", (Evil(),)),
        Request("publish", ([], Items(["/a"], ANYTHING, [b"x"])), ChangeId("s", 3, 0)),
        Request("publish", ([], ITEMS._replace(if_version=NUMBER)), ChangeId("s", 4, 0)),
        run,
        Pack,
        OSError(),
    ],
    ids=lambda message: re.sub(" at 0x[0-9a-f]+", "", str(message))[:40],
)
def test_no_message_carries_code_or_a_class(message: Any) -> None:
    ran.clear()
    with pytest.raises((UnsupportedOperationError, CorruptDataError)):
        decode(encode(message))
    assert not ran


@pytest.mark.parametrize("moment", [(1.5, 1.5), (-1, 1.5), (True, 1.5), (1, "now"), 3], ids=str)
def test_versions_and_times_that_are_none_do_not_arrive(moment: Any) -> None:
    with pytest.raises(CorruptDataError):
        decode(encode(ITEMS._replace(moments=[moment])))
    assert decode(encode(ITEMS._replace(moments=[(3, 1.5)]))).moments == [(3, 1.5)]


@pytest.mark.parametrize(
    "facts",
    [
        *((-1, None, None), (True, None, None), (1.5, None, None), ("1", None, None)),
        *((1, [2], "u1"), (1, (-2,), "u1"), (1, ("2",), "u1"), (1, (2,), 3), (1, 2, "u1")),
        *((1, (2,)), 3),
    ],
    ids=str,
)
def test_facts_that_are_no_numbers_and_names_do_not_arrive(facts: Any) -> None:
    with pytest.raises(CorruptDataError):
        decode(encode(Request("publish", ([], ITEMS._replace(facts=[facts])), ChangeId("s", 5, 0))))


def test_a_message_cannot_change_the_classes_of_messages() -> None:
    # BUILD sets attributes, of a class too.
    build = b"\x80\x05cpolystore_ray.wire.messages\nPin\nN}X\x05\x00\x00\x00_makeK\x01s\x86b."
    with pytest.raises(CorruptDataError):
        decode(build)
    new = b"\x80\x05cpolystore_ray.wire.messages\nPin\n)\x81."
    with pytest.raises(CorruptDataError):
        decode(new)
    assert callable(Pin._make)


@pytest.mark.parametrize("data", [b"", b".", b"\x80\x05", encode(MESSAGES[2])[:-5], b"junk"])
def test_a_damaged_message_is_said_to_be_damaged(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        decode(data)


def test_the_state_of_a_store_comes_back_and_holds_no_code() -> None:
    controller = StoreController(lambda _node, _ids: None)
    for i, request in enumerate(
        [
            Request("volume_joined", ("n", "i")),
            Request("ensure_directory", ("/d",)),
            Request("publish", ([], ITEMS)),
            Request("publish", ([Pin("1", ("n",), None, 3)], large(), (("n", "i"),))),
            Request("copy", ("/l", "/d/l")),
            Request("create_symlink", ("/a", "/link")),
        ]
    ):
        controller.handle(request._replace(id=ChangeId("s", i, 0)))
    missing = Request("delete", ("/missing",), ChangeId("s", 99, 0))
    with pytest.raises(PathNotFoundError):
        controller.handle(missing)
    _, state = controller.parts()
    again = StoreController.from_parts(state)
    for path in ("/a", "/d/l", "/link"):
        assert again.handle(Request("stat", (path,))) == controller.handle(Request("stat", (path,)))
    with pytest.raises(PathNotFoundError):
        again.handle(missing)
    ran.clear()
    with pytest.raises(UnsupportedOperationError):
        decode_state(io.BytesIO(pickle.dumps((Evil(),))))
    assert not ran


def large() -> Items:
    return Items(["/l"], [(8, (1,), "float64")], [(0, -1)])


@pytest.mark.parametrize("value", [np.zeros((2, 3)).view(Lying), Pretending()], ids=type)
def test_facts_are_what_numpy_knows_of_a_value(value: Any) -> None:
    shape, dtype = shape_and_dtype(value)
    if type(value) is Lying:
        assert (shape, dtype) == ((2, 3), "float64")
        assert array_bytes([value]) == 48
    else:
        assert (shape, dtype) == (None, None)
    ran.clear()
    decode(encode(Items(["/a"], [(1, shape, dtype)], [b""])))
    assert not ran


def test_a_value_that_lies_about_itself_is_stored_with_the_facts_that_numpy_knows() -> None:
    array = np.zeros((2, 3)).view(Lying)
    assert Sealing([array], ["/a"]).facts[0][1:] == ((2, 3), "float64")
    memory = RayBackendRegistry("lying", local=True)["memory"]
    memory.save(array, "/a")
    assert memory.stat("/a")["shape"] == (2, 3)
