"""What one controller leaves for the next: an origin, an epoch, the designated follower."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray import exceptions as ray_exceptions

from polystore_ray.config.store import StoreOptions
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.replication import epochs as succession
from polystore_ray.replication.epochs import Succession, has_ended
from polystore_ray.wire.messages import StaleEpochError

NAME = "polystore/of/a/test"


class Register:
    """Ray's key-value store, and what is done before the next key is created."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.first: Callable[[], object] | None = None

    def remember(self, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        first, self.first = self.first, None
        if first is not None:
            first()
        if not overwrite and key in self.kept:
            return False
        self.kept[key] = value
        return True


@pytest.fixture(autouse=True)
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    register = Register()
    kept = register.kept
    monkeypatch.setattr(succession, "remember", register.remember)
    monkeypatch.setattr(succession, "recall", kept.get)
    monkeypatch.setattr(succession, "remembered", lambda p: [k for k in kept if k.startswith(p)])
    monkeypatch.setattr(succession, "forget", lambda key: kept.pop(key, None))
    return register


def next_one(replicas: int = 2) -> Succession:
    return Succession(NAME, StoreOptions(replicas=replicas))


def test_each_is_of_a_higher_epoch_and_keeps_the_options_of_the_first() -> None:
    first, second = next_one(2), next_one(3)
    assert (first.epoch, second.epoch) == (1, 2)
    assert second.store_id == first.store_id
    assert second.options.replicas == 2


def test_two_that_begin_at_once_are_of_different_epochs(register: Register) -> None:
    first = next_one()
    begun: list[Succession] = []

    def begin() -> None:
        register.first = lambda: begun.extend([next_one(), next_one()])

    register.first = begin  # the origin is there; then the key of an epoch is created
    late = next_one()
    assert [one.epoch for one in (first, *begun, late)] == [1, 2, 3, 4]


def test_a_store_that_acknowledged_nothing_leaves_nothing() -> None:
    next_one()
    assert next_one().designated() is None


def test_the_follower_that_was_designated_last_is_the_one_to_inherit_from() -> None:
    first = next_one()
    first.designate("a")
    first.designate("b")
    assert next_one().designated() == "b"
    assert next_one().designated() == "b"  # the second designated nobody


def test_one_that_is_over_designates_nobody() -> None:
    first = next_one()
    first.designate("a")
    second = next_one()
    with pytest.raises(StaleEpochError):
        first.check()
    with pytest.raises(StaleEpochError):
        first.designate("c")
    second.designate("b")
    assert next_one().designated() == "b"


def test_a_designation_after_the_next_controller_has_begun_changes_nothing() -> None:
    """What it names may be a follower that the next controller could not know of."""
    first = next_one()
    first.designate("a")
    second = next_one()
    with pytest.raises(StaleEpochError):
        first.designate("late")
    assert second.designated() == "a"
    assert next_one().designated() == "a"


@pytest.mark.parametrize("is_late", [True, False])
def test_a_designation_whose_answer_was_lost_does_not_undo_the_next(
    register: Register, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """It is carried out before its answer is lost, or after the next one."""
    first = next_one()
    late: list[Callable[[], object]] = []

    def lose(key: str, value: bytes, *, overwrite: bool = True) -> bool:
        late.append(lambda: register.remember(key, value, overwrite=overwrite))
        raise ray_exceptions.RpcError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(succession, "remember", lose)
        with pytest.raises(StoreUnavailableError):
            first.designate("a")
    [arrive] = late
    if not is_late:
        arrive()
    first.designate("b")
    first.designate("c")
    if is_late:
        arrive()
    first.check()
    second = next_one()
    assert (second.epoch, second.designated()) == (2, "c")
    with pytest.raises(StaleEpochError):
        first.check()


def test_the_end_leaves_nothing(register: Register) -> None:
    assert has_ended(NAME)
    first = next_one()
    first.designate("a")
    second = next_one()
    assert not has_ended(NAME)
    second.designate("b")
    second.end()
    assert has_ended(NAME)
    assert register.kept == {}
    assert next_one().store_id != first.store_id


def test_nobody_counts_as_designated_while_the_cluster_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = next_one()

    def fail(*_: object, **__: object) -> None:
        raise ray_exceptions.RpcError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(succession, "remember", fail)
        with pytest.raises(StoreUnavailableError):
            first.designate("a")
    assert next_one().designated() is None
