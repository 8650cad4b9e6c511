"""Attempts and looks that are repeated until a deadline."""

from __future__ import annotations

import gc
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from polystore import StorageError
from polystore_ray import RayBackendRegistry
from polystore_ray.deadline import Deadline
from polystore_ray.transport import tasks


class Failing:
    """An attempt that fails some times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error = times, error
        self.made: list[float] = []

    def __call__(self) -> str:
        self.made.append(time.monotonic())
        if len(self.made) <= self.times:
            raise self.error
        return "done"


def test_an_attempt_is_repeated_after_the_errors_that_pass_and_no_others() -> None:
    busy = Failing(3, ConnectionError("busy"))
    assert Deadline(10).retry(busy, ConnectionError, pause=0.01) == "done"
    assert len(busy.made) == 4
    wrong = Failing(1, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        Deadline(10).retry(wrong, ConnectionError)
    assert len(wrong.made) == 1


class Value:
    """Something that is to be let go, such as an object in shared memory."""


def fail(value: Value, made: list[weakref.ref[Value]], error: Exception) -> None:
    """Raise an error, to which a variable of this function refers, as it does to a value."""
    made.append(weakref.ref(value))
    raise error


def operate(call: Callable[[], object]) -> None:
    """Call what fails in an operation of a memory."""
    memory = RayBackendRegistry("failing", local=True)["memory"]
    with suppress(StorageError), memory._connect().measured("memory", "load"):
        call()


@pytest.fixture
def _without_looks_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_looks_for_cycles")
def test_an_attempt_that_failed_holds_no_value() -> None:
    made: list[weakref.ref[Value]] = []

    def use(value: Value) -> None:
        made.append(weakref.ref(value))
        cause = ConnectionError("cut off")
        error = ConnectionError("busy")
        if len(made) < 3:
            raise error from cause

    Deadline(10).retry(lambda: use(Value()), ConnectionError, pause=0.01)
    assert [value() for value in made] == [None] * 3


@pytest.mark.usefixtures("_without_looks_for_cycles")
def test_an_attempt_that_failed_for_another_reason_holds_no_value() -> None:
    made: list[weakref.ref[Value]] = []

    def use() -> None:
        try:
            fail(Value(), made, LookupError("not there"))
        except LookupError as error:
            busy = ConnectionError("busy")
            if len(made) < 3:
                raise busy from error

    Deadline(10).retry(use, ConnectionError, pause=0.01)
    assert [value() for value in made[:2]] == [None] * 2


@pytest.mark.usefixtures("_without_looks_for_cycles")
def test_an_operation_that_failed_holds_no_value() -> None:
    made: list[weakref.ref[Value]] = []

    operate(lambda: fail(Value(), made, StorageError("not there")))
    assert made[0]() is None


@pytest.mark.usefixtures("_without_looks_for_cycles")
def test_an_error_and_the_one_that_brought_it_hold_no_value() -> None:
    made: list[weakref.ref[Value]] = []

    def fail_twice(value: Value) -> None:
        made.append(weakref.ref(value))

        def call() -> None:
            assert value is not None  # it is held by the function, not by a variable of it
            brought = StorageError("not there")
            try:
                bring(brought)
            except RuntimeError:
                raise brought from None

        try:
            call()
        except StorageError:
            call()

    def bring(error: StorageError) -> None:
        raise RuntimeError(error)  # as an error of Ray

    operate(lambda: fail_twice(Value()))
    assert made[0]() is None


@pytest.mark.usefixtures("_without_looks_for_cycles")
def test_a_task_that_failed_holds_no_value() -> None:
    made: list[weakref.ref[Value]] = []

    failure = tasks._attempt(lambda: fail(Value(), made, LookupError("not there")))
    assert made[0]() is None
    assert "in fail" in "".join(traceback.format_exception(failure.error))


def test_the_last_error_or_the_prepared_one_is_raised_at_the_deadline() -> None:
    error = ConnectionError("busy")
    with pytest.raises(ConnectionError, match="busy") as raised:
        Deadline(0.1).retry(Failing(10**9, error), ConnectionError, pause=0.03)
    assert raised.value is error
    late = TimeoutError("late")
    with pytest.raises(TimeoutError, match="late") as prepared:
        Deadline(0.1).retry(Failing(10**9, error), ConnectionError, lambda _: late, pause=0.03)
    assert prepared.value.__cause__ is error


def test_what_prepares_an_attempt_may_say_that_none_can_succeed() -> None:
    def give_up(error: ConnectionError) -> None:
        raise error

    refused = Failing(10**9, ConnectionError("refused"))
    with pytest.raises(ConnectionError):
        Deadline(10).retry(refused, ConnectionError, give_up)
    assert len(refused.made) == 1


def test_pauses_grow_up_to_the_longest() -> None:
    busy = Failing(4, ConnectionError("busy"))
    Deadline(10).retry(busy, ConnectionError, pause=0.01, longest=0.04)
    pauses = [after - before for before, after in zip(busy.made, busy.made[1:], strict=False)]
    least = (0.01, 0.02, 0.04, 0.04)
    assert all(pause >= at_least for pause, at_least in zip(pauses, least, strict=True))


def test_a_look_is_taken_once_at_least_and_until_it_is_final() -> None:
    looks: list[int] = []

    def look() -> int:
        looks.append(len(looks))
        return len(looks)

    assert Deadline(0).poll(look, lambda _: False) == 1
    assert Deadline(10).poll(look, lambda found: found == 3) == 3
