"""Exactly once: answers are kept until their client has them; what comes too late is refused."""

from __future__ import annotations

import copyreg
import gc
import weakref
from typing import Any

import pytest

from polystore.exceptions import PathExistsError
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import DataLostError, StoreUnavailableError
from polystore_ray.wire.messages import ChangeId, Items, Request
from polystore_ray.wire.sessions import EXPIRY, LONGEST_WAIT, Answers, Refusal, Session


def test_a_client_says_what_it_waits_for() -> None:
    session = Session()
    with session.change() as first, session.change() as second:
        assert (first.number, second.number) == (0, 1)
        assert (first.done, second.done) == (0, 0)
        assert first.session == second.session != Session()._id
    with session.change() as third:
        assert (third.number, third.done) == (2, 2)


def test_an_answer_is_kept_until_its_client_has_it_however_many_others_come() -> None:
    answers = Answers()
    lost = ChangeId("a", 0, 0)
    answers.keep(lost, "made", 0.0)
    for number in range(20_000):
        answers.keep(ChangeId("b", number, number), number, 0.0)
    assert answers.has(lost)
    assert answers.get(lost) == "made"
    assert len(answers) == 2
    answers.keep(ChangeId("a", 1, 1), "next", 0.0)
    with pytest.raises(StoreUnavailableError, match="too late"):
        answers.has(lost)


def test_a_session_outlives_the_longest_wait_of_its_client() -> None:
    answers = Answers()
    answers.keep(ChangeId("a", 0, 0), "made", 0.0)
    answers.keep(ChangeId("b", 0, 0), "made", LONGEST_WAIT + 1)
    assert answers.has(ChangeId("a", 0, 0))
    answers.keep(ChangeId("b", 1, 1), "made", EXPIRY)
    assert not answers.has(ChangeId("a", 0, 0))
    assert answers.has(ChangeId("b", 1, 1))


def test_a_refusal_keeps_the_error_and_nothing_of_the_request() -> None:
    class Payload:
        pass

    request = Payload()
    gone = weakref.ref(request)
    error = DataLostError("gone", path="/a", backend="memory")
    error.version, error.fallback = 3, ("disk", "/b")

    def raised(request: object) -> Any:
        try:
            raise error
        except DataLostError as caught:
            return Refusal.of(caught)

    refusal = raised(request)
    del request
    gc.collect()
    assert gone() is None
    one, another = refusal.error(), refusal.error()
    assert one is not another
    assert (one.version, one.fallback, one.path) == (3, ("disk", "/b"), "/a")
    assert one.__traceback__ is None


def test_an_error_comes_back_whatever_others_register_for_its_class() -> None:
    # As tblib does, which distributed and pytest-xdist bring.
    copyreg.pickle(DataLostError, lambda error: (print, (error,)))  # type: ignore[arg-type, return-value]
    try:
        refusal = Refusal.of(DataLostError("gone", path="/a", backend="memory"))
    finally:
        del copyreg.dispatch_table[DataLostError]
    assert isinstance(refusal.error(), DataLostError)
    assert refusal.error().path == "/a"


def test_refused_requests_are_not_kept() -> None:
    controller = StoreController(lambda *_: None)
    session = Session()

    def save(payload: bytes) -> None:
        items = Items(["/a"], [(1, None, None)], [payload])
        with session.change() as id_:
            controller.handle(Request("publish", ([], items), id_))

    save(b"x")
    for _ in range(50):
        with pytest.raises(PathExistsError):
            save(bytes(64 * 1024))
    _, state = controller.parts()
    assert sum(map(len, state)) < 64 * 1024


def test_a_late_repeat_undoes_nothing() -> None:
    """A delete is made and its answer lost; the repeat must not delete what another saves."""
    controller = StoreController(lambda *_: None)

    def save(session: str, number: int) -> None:
        items = Items(["/a"], [(1, None, None)], [b"1"])
        id_ = ChangeId(session, number, number)
        controller.handle(Request("publish", ([], items), id_))

    save("a", 0)
    deletion = Request("delete", ("/a",), ChangeId("a", 1, 1))
    controller.handle(deletion)
    save("b", 0)
    for number in range(1, 12_000):
        controller.handle(Request("ensure_directory", ("/d",), ChangeId("c", number, number)))
    controller.handle(deletion)
    assert controller.handle(Request("exists", ("/a",)))
    controller.handle(Request("ensure_directory", ("/d",), ChangeId("a", 2, 2)))
    with pytest.raises(StoreUnavailableError):
        controller.handle(deletion)
    assert controller.handle(Request("exists", ("/a",)))
