"""What one controller leaves for the next: an origin that stays, and the node of the whole tree."""

from __future__ import annotations

import pytest
from ray import exceptions as ray_exceptions

from polystore_ray import succession
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.options import StoreOptions
from polystore_ray.succession import Succession, has_ended

NAME = "polystore/of/a/test"


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return what is remembered, in place of Ray's key-value store."""
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(succession, "remember", kept.__setitem__)
    monkeypatch.setattr(succession, "recall", kept.get)
    monkeypatch.setattr(succession, "forget", lambda key: kept.pop(key, None))
    return kept


def next_one(replicas: int = 2) -> Succession:
    return Succession(NAME, StoreOptions(replicas=replicas))


def test_each_is_of_a_higher_epoch_and_keeps_the_options_of_the_first() -> None:
    first, second = next_one(2), next_one(3)
    assert (first.origin.epoch, second.origin.epoch) == (1, 2)
    assert second.origin.birth == first.origin.birth
    assert second.origin.options.replicas == 2


def test_a_store_without_a_tree_leaves_none() -> None:
    next_one()
    assert next_one().inherited() is None


def test_a_tree_of_which_nobody_has_a_copy_is_not_mistaken_for_none() -> None:
    first = next_one()
    first.begin()
    assert next_one().inherited() == ""
    first.appoint("a")
    first.begin()
    assert next_one().inherited() == "a"


def test_the_node_that_was_appointed_last_is_the_one_to_inherit() -> None:
    first = next_one()
    first.appoint("a")
    first.appoint("b")
    assert next_one().inherited() == "b"
    assert next_one().inherited() == "b"  # the second appointed nobody


def test_one_that_is_over_speaks_for_nobody() -> None:
    first = next_one()
    first.appoint("a")
    next_one().appoint("b")
    first.appoint("c")
    assert next_one().inherited() == "b"


def test_the_end_leaves_nothing(kept: dict[str, bytes]) -> None:
    assert has_ended(NAME)
    first = next_one()
    first.appoint("a")
    second = next_one()
    assert not has_ended(NAME)
    second.appoint("b")
    second.end()
    assert has_ended(NAME)
    assert kept == {}
    assert next_one().origin.birth != first.origin.birth


def test_nobody_counts_as_appointed_while_the_cluster_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, kept: dict[str, bytes]
) -> None:
    first = next_one()

    def fail(*_: object) -> None:
        raise ray_exceptions.RpcError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(succession, "remember", fail)
        with pytest.raises(StoreUnavailableError):
            first.begin()
    first.begin()
    assert next_one().inherited() == ""
