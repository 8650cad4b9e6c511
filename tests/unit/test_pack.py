from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from polystore.serialization import seal
from polystore_ray.wire.envelope import Envelope, sealed_message
from polystore_ray.wire.pack import Pack

ARRAYS: list[Any] = [
    np.arange(6, dtype=np.uint16).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12)[::2],
    np.array(3.5),
    np.empty((0, 3), np.int8),
    np.zeros(3, [("a", "i4"), ("b", "U3")]),
    np.arange(3).astype("M8[s]"),
    np.arange(3, dtype=">i4"),
    np.array(["a", "bcd"]),
    np.array([True, False, True]),
    np.arange(3, dtype=np.complex128),
]


def opened(pack: Pack) -> Any:
    """Return a pack as a reader gets it from the object store."""
    buffers: list[Any] = []
    head = pickle.dumps(Envelope(seal(pack)), protocol=5, buffer_callback=buffers.append)
    return pickle.loads(head, buffers=[bytes(buffer) for buffer in buffers])


def same(found: Any, array: Any) -> None:
    np.testing.assert_array_equal(found, array)
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.f_contiguous or not array.flags.f_contiguous
    assert found.flags.aligned
    assert not found.flags.writeable


def test_every_kind_of_array_comes_back_as_a_read_only_view() -> None:
    pack = opened(Pack.of(ARRAYS))
    assert len(pack) == len(ARRAYS)
    for found, array in zip(pack.values(range(len(ARRAYS))), ARRAYS, strict=True):
        same(found, array)
        assert not found.flags.owndata


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_many_of_a_kind_come_back_in_any_order(array: Any) -> None:
    many = [array.copy(order="K") for _ in range(20)]
    for number, one in enumerate(many):
        if one.dtype.kind in "iufc" and one.size:
            one[...] = number
    pack = opened(Pack.of(many))
    for numbers in (range(20), range(5, 9), [3, 1, 2, 3, 19, 0], [7]):
        for found, number in zip(pack.values(numbers), numbers, strict=True):
            same(found, many[number])


def test_messages_lie_beside_arrays_and_come_out_fresh() -> None:
    members = [sealed_message(seal({"n": [1]})), ARRAYS[0], sealed_message(seal("text"))]
    pack = opened(Pack.of(members))
    one, array, text = pack.values([0, 1, 2])
    one["n"].append(2)
    assert pack.values([0]) == [{"n": [1]}]
    assert text == "text"
    same(array, ARRAYS[0])


def test_without_some_the_others_keep_their_numbers_and_take_all_the_room() -> None:
    many = [np.full(100, number) for number in range(10)]
    whole = Pack.of([*many, sealed_message(seal("text"))])
    pack = opened(whole.without([0, 3, 4, 9]).without([1]))
    for number in (2, 5, 6, 7, 8):
        same(pack.values([number])[0], many[number])
    assert pack.values([5, 6, 10, 2])[2] == "text"
    for dropped in (0, 1, 3, 9):
        with pytest.raises(LookupError, match=str(dropped)):
            pack.values([dropped])
    assert seal(pack).nbytes < 0.6 * seal(whole).nbytes


def test_a_pack_may_be_empty_or_lose_everything() -> None:
    assert opened(Pack.of([])).values([]) == []
    assert len(opened(Pack.of(ARRAYS).without(range(len(ARRAYS))))) == len(ARRAYS)
