"""Values opened as plain data: honest ones come back equal, hostile ones run and crash nothing."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import pickle
import pickletools
import re
from typing import Any

import numpy as np
import pytest

from polystore import CorruptDataError, StorageError, UnsupportedOperationError
from polystore.serialization import _array, _scalar, describe_dtype, described_dtype, seal
from polystore_ray import RayBackendRegistry
from polystore_ray.interop.plain_memory import plain_memory
from polystore_ray.wire.envelope import array_message, open_message, sealed_message
from polystore_ray.wire.messages import Items
from polystore_ray.wire.pack import Pack
from polystore_ray.wire.plain_pickle import plain_loads

DTYPES: list[Any] = [
    "f8",
    ">u2",
    "M8[25s]",
    "m8",
    "U3",
    "S2",
    "V4",
    "?",
    "c16",
    "g",
    [("a", "i4"), ("b", "M8[s]", (2, 3))],
    np.dtype([("a", "u1"), ("b", "f8")], align=True),
    {"names": ["b", "a"], "formats": ["i2", "f8"], "offsets": [8, 0], "itemsize": 32},
    {"names": ["whole", "half"], "formats": ["i4", "i2"], "offsets": [0, 0]},
    [(("title", "x"), "f4")],
    [("n", [("a", "f4"), ("b", [("c", "i1", (3, 2))])])],
]
PLAIN: list[Any] = [
    {"a": [1, 2.5, None, True, "é", b"y", 10**50, -3], "b": (), "c": {1, (2,)}},
    frozenset([1]),
    bytearray(b"ab"),
    1j,
    range(3),
    slice(1, None),
    collections.OrderedDict(a=1),
    dt.datetime(2024, 2, 29, 1, 2, 3, 4),  # noqa: DTZ001 - one without a zone is plain too
    dt.datetime.max.replace(tzinfo=dt.UTC, fold=1),
    dt.date(1, 1, 1),
    dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=3), "x")),
    dt.timedelta(3, 2, 1),
    np.float32(2),
    np.datetime64("2024-01-01"),
    np.void(b"ab"),
    np.str_(""),
    np.bytes_(b""),
    np.zeros(2, "i4,f4")[0],
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_of_every_dtype_that_is_its_bytes_are_plain(dtype: Any) -> None:
    array = np.arange(6).astype("V4").view(np.uint8).repeat(32)[: 6 * 32].copy()
    array = np.ndarray((2, 3), dtype, np.resize(array, 6 * np.dtype(dtype).itemsize).tobytes())
    for loads in (pickle.loads, plain_loads):
        back = seal(array).copied().open(loads)
        assert back.dtype == array.dtype
        assert back.dtype.isalignedstruct == array.dtype.isalignedstruct
        assert back.shape == (2, 3)
        assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back_as_they_are(value: Any) -> None:
    for loads in (pickle.loads, plain_loads):
        back = open_message(sealed_message(seal(value)), loads)
        assert type(back) is type(value)
        assert back == value


def test_a_record_that_was_loaded_can_be_changed() -> None:
    record = seal(np.zeros(2, "i4,f4")[0]).open()
    record["f0"] = 3
    assert record["f0"] == 3


def test_a_dtype_with_metadata_keeps_them() -> None:
    seal(np.zeros(2)).open()  # of an equal dtype
    array = np.zeros(2, np.dtype("f8", metadata={"unit": "m"}))
    assert seal(array).open().dtype.metadata == {"unit": "m"}


def test_packs_are_plain() -> None:
    pack = seal(Pack.of([np.arange(3), sealed_message(seal("x"))])).copied().open(plain_loads)
    assert [np.asarray(one).tolist() for one in pack.values([0, 1], plain_loads)] == [
        [0, 1, 2],
        "x",
    ]
    large = np.arange(20_000)
    pack = seal(Pack.of([large, large]).without([1])).copied().open(plain_loads)
    assert (pack.values([0], plain_loads)[0] == large).all()


class Reduces:
    """What pickles as a call, and a state for its result."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def fields(**more: Any) -> dict[str, Any]:
    whole = {"names": ["a"], "formats": ["<f8"], "offsets": [0], "titles": [None]}
    return whole | {"itemsize": 8, "aligned": False} | more


V2G = {"formats": ["V2147483647"] * 2, "offsets": [0, 2**31 - 1], "itemsize": 2**31 - 1}
DAMAGED: list[Any] = [
    *("O", "T", "f8,f8", "V0", "U99999999999", "U1073741823", "S2147483648", "(", "M8[0s]", ""),
    *(3, None, [], (), {}, ("<f8",), ("<f8", (0,)), ("<f8", (-1,)), ("<f8", 3), ("O", (2,))),
    ("V2147483647", (2,)),
    fields(offsets=[2**30]),
    fields(offsets=[-8]),
    fields(offsets=[2**64]),
    fields(itemsize=0),
    fields(itemsize=-8),
    fields(itemsize=2**31),
    fields(formats=["O"]),
    fields(formats=[("<f8", (2**20,))]),
    fields(formats=[("<f8", (2**40,))], itemsize=2**43),
    fields(names=[]),
    fields(names=[3]),
    fields(names=["a", "b"], titles=[None, None], **V2G),
    fields(names="a"),
]


@pytest.mark.parametrize("description", DAMAGED, ids=str)
def test_a_description_of_no_dtype_makes_none(description: Any) -> None:
    with pytest.raises(CorruptDataError):
        described_dtype(description)


def test_a_description_of_a_thousand_levels_makes_none() -> None:
    deep: Any = "<f8"
    for _ in range(1000):
        deep = (deep, (1,))
    with pytest.raises(CorruptDataError, match="levels"):
        described_dtype(deep)


def _made_by_hand(state: Any) -> Any:
    return Reduces(np.dtype, ("V8", False, True), state)


def _state(offset: int, of: str = "f8") -> Any:
    return (3, "|", None, ("a",), {"a": (np.dtype(of), offset)}, 8, 1, 0)


HOSTILE: list[Any] = [
    Reduces(_array, (b"A" * 8, np.dtype("O"), (1,), "C")),
    Reduces(_array, (b"A" * 8, _made_by_hand(_state(2**30)), (1,), "C")),
    Reduces(_array, (b"A" * 8, _made_by_hand(_state(0, "O")), (1,), "C")),
    Reduces(_scalar, (_made_by_hand(_state(2**30)), b"A" * 8)),
    Reduces(np.ndarray, ((1,), "O", b"A" * 8)),
    Reduces(_array, (b"A" * 8, "O", (1,), "C")),
    Reduces(_array, (b"A" * 8, "<f8", (2**61,), "C")),
    Reduces(_array, (b"A" * 8, "<f8", (2**40, 2**40), "C")),
    Reduces(_array, (b"A" * 8, "<f8", (-1,), "C")),
    Reduces(_array, (b"A" * 8, "<f8", (2**31, 2**31, 2), "C")),
    Reduces(_array, (b"A" * 8, "<f8", [1], "C")),
    Reduces(_array, (3, "<f8", (1,), "C")),
    Reduces(_array, (b"A" * 8, "<f8", (1,), "C"), (1, (2**40,), None, False, b"")),
    Reduces(_scalar, ("<f8", b"A")),
    Reduces(np.bytes_, (2**40,)),
    Reduces(frozenset, (range(2**40),)),
    Reduces(dt.date, (b"\xff\xff\x02\xff",)),
    Reduces(dt.time, (b"\xff\xff\xff\xff\xff\xff",)),
    Reduces(dt.datetime, (b"\x07\xe8\x02\x1f\xff\xff\xff\xff\xff\xff",)),
    Reduces(eval, ("1 / 0",)),
    Reduces(collections.OrderedDict, (), {"items": 3}),
    Reduces(Pack, ([], 1, 2, 3)),
]


@pytest.mark.parametrize(
    "value", HOSTILE, ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value.reduced))[:60]
)
def test_what_is_not_plain_ends_in_one_of_our_errors(value: Any) -> None:
    with pytest.raises((CorruptDataError, UnsupportedOperationError)):
        plain_loads(pickle.dumps(value, 5))


@pytest.mark.parametrize(
    "data",
    [
        pickle.PROTO + b"\x05" + pickle.BINBYTES8 + b"\xff" * 7 + b"\x7f",
        pickle.PROTO + b"\x05" + pickle.BYTEARRAY8 + b"\xff" * 7 + b"\x7f",
        pickle.PROTO + b"\x05" + pickle.FRAME + b"\xff" * 7 + b"\x7f",
        pickle.PROTO + b"\x05" + pickle.NONE + pickle.LONG_BINPUT + b"\xff" * 4 + b"0",
        b"",
        b"I3\n.",
        pickle.PROTO + b"\x05" + pickle.NEXT_BUFFER + b".",
    ],
)
def test_claims_of_a_pickle_take_no_memory(data: bytes) -> None:
    with pytest.raises(StorageError):
        plain_loads(data)


def test_a_sparse_memo_takes_no_memory() -> None:
    data = pickle.PROTO + b"\x05" + pickle.NONE + pickle.LONG_BINPUT + b"\xff" * 4 + b"."
    assert plain_loads(data) is None


def test_pickles_of_honest_values_need_no_other_operations_than_plain_ones() -> None:
    arrays = [np.zeros(2, dtype) for dtype in DTYPES]
    for value in (*PLAIN, *arrays, Pack.of([np.zeros(2), np.zeros(20_000)])):
        names = {op.name for op, _, _ in pickletools.genops(bytes(seal(value).head))}
        assert not names & {"BUILD", "NEWOBJ", "INST", "OBJ"}, value


@pytest.mark.parametrize(
    ("shape", "offsets", "numbers"),
    [
        ((2,), [0, 8, 16], [2, 3]),
        ((2,), [0, 2**40, 2**41], [1]),
        ((2,), [-8, 8, 16], [0]),
        ((), [0, 2**40, 2**41], [0, 1]),
        ((2**61,), [0, 8, 16], [0]),
        ((0, 2**61), [2**62, 8, 16], [0, 1]),
        ((2,), [8, 8, 16], [0, 1]),
    ],
)
def test_a_pack_of_a_damaged_table_gives_none_of_what_is_outside(
    shape: Any, offsets: list[int], numbers: list[int]
) -> None:
    kinds: Any = [(np.dtype("f4"), shape, "C")]
    table = np.zeros(2, np.uint32), np.array(offsets), np.zeros(16, np.uint8)
    with pytest.raises((CorruptDataError, IndexError)):
        seal(Pack(kinds, *table, {})).copied().open(plain_loads).values(numbers, plain_loads)


def test_a_message_of_an_array_holds_it_whole() -> None:
    message = bytearray(array_message(np.arange(4)))
    assert open_message(bytes(message), plain_loads).tolist() == [0, 1, 2, 3]
    with pytest.raises(CorruptDataError):
        open_message(bytes(message[:-1]), plain_loads)


def test_a_described_dtype_is_the_same_dtype() -> None:
    for dtype in map(np.dtype, DTYPES):
        described = describe_dtype(dtype)
        assert not isinstance(described, np.dtype)
        assert described_dtype(described) == dtype


def test_an_object_that_is_not_the_pack_it_should_be_is_damaged_at_its_path() -> None:
    registry = RayBackendRegistry("damaged", local=True)
    transport = registry._connect()
    pin = transport.put(seal([1, 2]))
    transport.publish([pin], Items(["/a"], [(3, None, None)], [(0, 3)]))
    with pytest.raises(CorruptDataError, match="'/a'"):
        plain_memory(registry).load("/a")
    registry.shutdown()


ran: list[str] = []


def run() -> None:
    ran.append("code")


def test_what_this_process_keeps_of_its_reads_is_opened_as_plain_data_too() -> None:
    registry = RayBackendRegistry("kept-plain", local=True)
    registry["memory"].save(Reduces(run, ()), "/a")
    plain = plain_memory(registry)
    for memory in (plain, plain, copy.copy(plain)):  # a copy is what arrives elsewhere
        registry["memory"].load("/a")  # so that the process keeps it
        ran.clear()
        with pytest.raises(UnsupportedOperationError):
            memory.load("/a")
        assert ran == []
    registry.shutdown()
