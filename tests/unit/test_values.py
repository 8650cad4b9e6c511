"""How the values of a batch are stored, and come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polystore.exceptions import VFSTypeError
from polystore.serialization import Sealed
from polystore_ray.client.batch import Sealing, opened
from polystore_ray.wire.envelope import SMALL, Envelope
from polystore_ray.wire.messages import WHOLE, Found, Items, Pin

LARGE = np.arange(SMALL)
ONE_KIB = [np.full(1024, i, np.uint8) for i in range(100)]


class Store:
    """Puts and gets sealed values, and counts what it put."""

    def __init__(self) -> None:
        self.put_sizes: list[int] = []

    def put(self, sealed: Sealed) -> Pin:
        self.put_sizes.append(sealed.nbytes)
        ref = Envelope(sealed.copied())
        return Pin(f"p{len(self.put_sizes)}", ("node",), ref, sealed.nbytes)

    def save(self, values: list[Any], **options: bool) -> Found:
        paths = [f"/{i}" for i in range(len(values))]
        pins, items = Sealing(values, paths).put(self.put, Items(paths, [], []), **options)
        return Found(pins, items.stored, [])

    def load(self, found: Found) -> list[Any]:
        paths = [f"/{i}" for i in range(len(found.stored))]
        return opened(found, paths, [self.get(pin) for pin in found.pins], self.get)

    def get(self, pin: Pin) -> Any:
        return pin.ref.sealed.open()


@pytest.fixture
def store() -> Store:
    return Store()


def test_one_small_value_needs_no_object(store: Store) -> None:
    for value in (ONE_KIB[3], {"a": [1]}, None, np.array(["a", None], dtype=object)):
        found = store.save([value])
        assert found.pins == []
        np.testing.assert_equal(store.load(found), [value])
    assert store.put_sizes == []


def test_small_values_of_a_batch_share_an_object(store: Store) -> None:
    values: list[Any] = [*ONE_KIB, "text", np.ma.masked_array([1, 2], [True, False]), LARGE]
    found = store.save(values)
    assert len(found.pins) == 2
    assert found.stored[-1] == (0, WHOLE)
    for loaded, value in zip(store.load(found), values, strict=True):
        np.testing.assert_array_equal(loaded, value)
        assert type(loaded) is type(value)


def test_few_small_values_travel_inside_the_call_unless_they_may_not(store: Store) -> None:
    assert store.save(ONE_KIB[:10]).pins == []
    found = store.save(ONE_KIB[:10], inline=False)
    assert len(found.pins) == 1
    np.testing.assert_array_equal(store.load(found), ONE_KIB[:10])


def test_a_large_batch_is_put_in_parts(store: Store) -> None:
    values = [np.full(SMALL, i % 256, np.uint8) for i in range(400)]
    found = store.save(values)
    assert len(found.pins) == 2
    assert max(store.put_sizes) < 18 * 2**20
    np.testing.assert_array_equal(store.load(found), values)


def test_values_come_in_the_order_they_are_asked_for(store: Store) -> None:
    found = store.save(ONE_KIB)
    for order in ([5, 2, 99, 3, 4, 5], list(range(99, -1, -1))):
        asked = Found(found.pins, [found.stored[i] for i in order], [])
        assert [int(value[0]) for value in store.load(asked)] == order


def test_no_two_values_share_a_mutable_object(store: Store) -> None:
    found = store.save([{"list": list(range(SMALL))}])
    one, other = store.load(Found(found.pins, found.stored * 2, []))
    one["list"].clear()
    assert len(other["list"]) == SMALL


def test_what_cannot_be_stored_is_named_before_anything_is_put(store: Store) -> None:
    with pytest.raises(VFSTypeError, match=r"'/1' \(backend memory\)"):
        store.save([LARGE, (i for i in range(3))])
    assert store.put_sizes == []
