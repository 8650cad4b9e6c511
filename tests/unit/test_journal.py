"""The second copy of a tree: shipped, waited for, taken over, and fenced off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from polystore_ray.controller import journal as journal_module
from polystore_ray.controller.journal import Following, Journal, Record
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import (
    CallTimeoutError,
    HostLostError,
    StoreUnavailableError,
)
from polystore_ray.replication.follower import Follower
from polystore_ray.wire.messages import (
    WHOLE,
    ChangeId,
    Items,
    OutOfStepError,
    Pin,
    Request,
    StaleEpochError,
)
from polystore_ray.wire.sessions import Session


def install(follower: Follower, epoch: int, number: int, state: Iterable[bytes]) -> None:
    parts = list(state)
    for i, part in enumerate(parts):
        follower.take(epoch, i == 0, part)
    follower.install(epoch, number, len(parts))


class Line(Following):
    """The line between a leader and its follower, which can be cut, or lose answers."""

    def __init__(self, follower: Follower) -> None:
        super().__init__("other")
        self.follower = follower
        self.error: Exception | None = None
        self.loses_answers = False
        self.is_designated = False
        self.sent = 0

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        self._pass(lambda: install(self.follower, epoch, number, state))

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        self.sent += len(records)
        self._pass(lambda: self.follower.append(epoch, first, records))

    def designate(self) -> None:
        self.is_designated = True

    def _pass(self, call: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        call()
        if self.loses_answers:
            raise CallTimeoutError("no answer")


class Leader:
    """A controller with a journal, and its follower at the other end of a line."""

    def __init__(self, epoch: int = 1, follower: Follower | None = None, **options: Any) -> None:
        self.journal = Journal(epoch, **options)
        self.released: list[str] = []
        self.controller = StoreController(self._release, journal=self.journal)
        self.follower = follower or Follower()
        self.line = Line(self.follower)
        self.session = Session()
        self._ends = threading.Event()

    def start(self) -> None:
        self.journal.heard(time.monotonic())
        self.journal.need_follower()
        self.journal.follow(self.line, self.controller.parts)
        threading.Thread(target=self._ship, daemon=True).start()

    def _release(self, _node: str, ids: list[str]) -> None:
        self.released += ids

    def _ship(self) -> None:
        while not self._ends.is_set():
            try:
                self.journal.ship()
            except (HostLostError, OutOfStepError):
                time.sleep(0.01)

    def end(self) -> None:
        self._ends.set()

    def save(self, path: str, **options: Any) -> None:
        items = Items([path], [(1, None, None)], [b"1"], **options)
        self.change("publish", [], items)

    def save_object(self, path: str, id_: str) -> None:
        items = Items([path], [(1, None, None)], [(0, WHOLE)], overwrite=True)
        pins, volumes = [Pin(id_, (), None, 1)], [("node", "volume")]
        self.change("publish", pins, items, volumes)

    def change(self, operation: str, *arguments: object) -> Any:
        with self.session.change() as id_:
            return self.controller.handle(Request(operation, arguments, id_, within=1.0))

    def list(self) -> Any:
        return self.controller.handle(Request("list_dir", ("/",), within=1.0))

    def followed(self) -> Any:
        """Return what the next controller would find."""
        _, state = self.follower.state(self.journal.epoch)
        return StoreController.from_parts(state).handle(Request("list_dir", ("/",)))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LEASE", 0.3)
    monkeypatch.setattr(journal_module, "_BEAT", 0.05)


@pytest.fixture
def leader() -> Iterator[Leader]:
    leader = Leader(synchronous=True)
    yield leader
    leader.end()


def test_a_change_is_answered_when_the_follower_has_it(leader: Leader) -> None:
    leader.save("/before")
    leader.start()
    for i in range(50):
        leader.save(f"/{i}")
        assert leader.followed() == leader.list()
    assert len(leader.list()) == 51


def test_a_failed_change_is_followed_and_answered_alike_by_the_next_controller(
    leader: Leader,
) -> None:
    leader.start()
    leader.save("/a")
    failed = ChangeId("another session", 0, 0)
    items = Items(["/a"], [(1, None, None)], [b"1"])
    with pytest.raises(FileExistsError):
        leader.controller.handle(Request("publish", ([], items), failed))
    leader.change("delete", "/a")
    assert leader.followed() == []
    _, state = leader.follower.state(leader.journal.epoch)
    with pytest.raises(FileExistsError):
        StoreController.from_parts(state).handle(Request("publish", ([], items), failed))


def test_nothing_is_answered_while_the_follower_is_cut_off(leader: Leader) -> None:
    leader.start()
    leader.save("/a")
    leader.line.error = CallTimeoutError("cut off")
    with pytest.raises(StoreUnavailableError, match="did not follow"):
        leader.save("/b")
    with pytest.raises(StoreUnavailableError):
        leader.list()
    leader.line.error = None
    assert leader.list() == ["a", "b"]
    assert leader.followed() == ["a", "b"]


def test_what_a_change_replaces_is_kept_until_the_follower_has_the_change(leader: Leader) -> None:
    leader.start()
    leader.controller.note("volume_joined", "node", "volume")
    leader.save_object("/a", "old")
    leader.line.error = CallTimeoutError("cut off")
    with pytest.raises(StoreUnavailableError, match="did not follow"):
        leader.save_object("/a", "new")
    assert leader.released == []
    leader.line.error = None
    assert leader.list() == ["a"]
    assert leader.released == ["old"]


def test_a_lost_answer_makes_no_change_twice(leader: Leader) -> None:
    leader.start()
    leader.line.loses_answers = True
    saving = threading.Thread(target=leader.save, args=("/a",))
    saving.start()
    time.sleep(0.15)
    leader.line.loses_answers = False
    saving.join()
    assert leader.followed() == ["a"]
    assert leader.line.sent > 1


class Sizes(Following):
    """A follower that notes how many changes are in each message."""

    def __init__(self) -> None:
        super().__init__("other")
        self.sizes: list[int] = []

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        """Take over nothing."""

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        self.sizes.append(len(records))

    def designate(self) -> None:
        """Be the next without more ado."""


def test_changes_that_came_together_are_waited_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_WAITED_FOR_OTHERS", 2.0)
    follower, journal = Sizes(), Journal(1, synchronous=True)
    journal.heard(time.monotonic())
    journal.need_follower()
    journal.follow(follower, lambda: (0, []))
    follower.sizes.clear()
    for _ in range(2):
        journal.add(b"")
    journal.ship()
    shipping = threading.Thread(target=journal.ship)
    shipping.start()
    journal.add(b"")
    time.sleep(0.1)
    assert follower.sizes == [2]
    journal.add(b"")
    shipping.join(60)
    assert follower.sizes == [2, 2]
    for sizes in ([2, 2, 1], [2, 2, 1, 1]):  # not for long, and not again
        journal.add(b"")
        start = time.monotonic()
        journal.ship()
        assert follower.sizes == sizes
    assert time.monotonic() - start < 1.5


def test_what_a_question_finds_missing_is_answered_when_that_is_safe_too(leader: Leader) -> None:
    leader.start()
    leader.save("/a")
    leader.line.error = CallTimeoutError("cut off")
    with pytest.raises(StoreUnavailableError):
        leader.change("delete", "/a")
    with pytest.raises(StoreUnavailableError):
        leader.controller.handle(Request("read", (["/a"],), within=0.1))


def test_the_first_change_of_any_store_waits_for_a_follower() -> None:
    leader = Leader()
    leader.journal.heard(time.monotonic())
    leader.journal.need_follower()
    saving = threading.Thread(target=leader.save, args=("/a",))
    saving.start()
    saving.join(0.2)
    assert saving.is_alive()
    leader.journal.heard(time.monotonic())
    leader.start()
    saving.join(5)
    assert not saving.is_alive()
    assert leader.followed() == ["a"]
    leader.end()


def test_a_replicated_value_waits_for_the_follower_in_any_store() -> None:
    leader = Leader()
    leader.start()
    leader.save("/a", replicas=2)
    assert leader.followed() == ["a"]
    leader.end()


def test_a_claim_waits_for_the_follower_and_not_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_GATHERED_FOR", 10.0)
    leader = Leader()
    leader.start()
    leader.save("/a")
    place, number, *_ = leader.change("claim", "/", "*", "me", 60.0)
    assert place == "/a"
    assert leader.follower is not None
    followed = leader.follower._controller
    assert followed is not None
    followed.state.claims.check("/a", number)
    leader.end()


def test_a_caller_waits_no_longer_than_it_says(leader: Leader) -> None:
    leader.start()
    leader.line.error = CallTimeoutError("cut off")
    time.sleep(0.4)
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"within 0\.2 s"):
        leader.controller.handle(Request("exists", ("/a",), within=0.2))
    assert time.monotonic() - start < 10


def test_an_asynchronous_leader_waits_for_no_change_but_for_signs_of_life() -> None:
    leader = Leader()
    leader.start()
    leader.line.error = CallTimeoutError("cut off")
    leader.save("/a")
    time.sleep(0.4)
    with pytest.raises(StoreUnavailableError):
        leader.list()
    leader.line.error = None
    assert leader.list() == ["a"]
    leader.end()


def test_a_lost_follower_is_replaced_by_one_that_takes_the_whole_state(leader: Leader) -> None:
    leader.start()
    leader.save("/a")
    leader.line.error = HostLostError("it died")
    saving = threading.Thread(target=leader.save, args=("/b",))
    saving.start()
    time.sleep(0.1)
    assert saving.is_alive()
    leader.follower = Follower()
    leader.line = Line(leader.follower)
    leader.journal.follow(leader.line, leader.controller.parts)
    saving.join(2)
    assert not saving.is_alive()
    leader.save("/c")
    assert leader.followed() == ["a", "b", "c"]


class SlowLine(Line):
    """A line to a new follower, over which a state takes long."""

    def __init__(self) -> None:
        super().__init__(Follower())
        self.is_there, self.go_on = threading.Event(), threading.Event()
        self.found: list[Any] = []

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        super().install(epoch, number, state)
        self.is_there.set()
        assert self.go_on.wait(30)

    def designate(self) -> None:
        super().designate()
        _, state = self.follower.state(1)
        self.found = StoreController.from_parts(state).handle(Request("list_dir", ("/",)))


@pytest.fixture(params=["replicas=1", "replicas=2"])
def moving(request: pytest.FixtureRequest) -> Iterator[tuple[Leader, SlowLine, threading.Thread]]:
    """Return a leader whose follower moves, the line to the next one, and who moves it."""
    leader, new = Leader(synchronous=request.param == "replicas=2"), SlowLine()
    leader.start()
    leader.save("/before")
    move = threading.Thread(target=_follow, args=(leader, new))
    move.start()
    assert new.is_there.wait(10)
    yield leader, new, move
    new.go_on.set()
    move.join(10)
    leader.end()


def _follow(leader: Leader, new: Line) -> None:
    with suppress(StoreUnavailableError):
        leader.journal.follow(new, leader.controller.parts)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_follower_that_moves_goes_on_until_the_next_one_has_everything(
    moving: tuple[Leader, SlowLine, threading.Thread],
) -> None:
    leader, new, move = moving
    for number in range(3):
        leader.save(f"/{number}")
    everything = ["0", "1", "2", "before"]
    assert eventually(lambda: bool(leader.followed() == everything))
    assert leader.journal.follower is leader.line
    assert not new.is_designated
    new.go_on.set()
    move.join(10)
    assert new.found == everything
    assert leader.journal.follower is new
    leader.line.error = HostLostError("nobody needs it any more")
    leader.save("/after")
    leader.follower = new.follower
    assert eventually(lambda: bool(leader.followed() == [*everything[:3], "after", "before"]))


def test_a_follower_stays_if_the_next_one_fails(
    moving: tuple[Leader, SlowLine, threading.Thread],
) -> None:
    leader, new, move = moving
    new.error = StoreUnavailableError("it has no room")
    leader.save("/a")
    new.go_on.set()
    move.join(10)
    leader.save("/b")
    assert eventually(lambda: bool(leader.followed() == ["a", "b", "before"]))


def test_a_former_follower_that_dies_is_not_needed_for_the_next_one(
    moving: tuple[Leader, SlowLine, threading.Thread],
) -> None:
    leader, new, move = moving
    leader.line.error = HostLostError("it died")
    assert eventually(lambda: leader.journal.follower is None)
    new.go_on.set()
    move.join(10)
    leader.save("/a")
    leader.follower = new.follower
    assert eventually(lambda: bool(leader.followed() == ["a", "before"]))


def test_nobody_follows_after_a_designation_that_may_have_been_made(
    moving: tuple[Leader, SlowLine, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next controller may take over from either, so that neither makes an answer safe."""
    leader, new, move = moving

    def fail() -> None:
        raise StoreUnavailableError("the cluster does not answer")

    monkeypatch.setattr(new, "designate", fail)
    new.go_on.set()
    move.join(10)
    assert leader.journal.follower is None
    time.sleep(2 * journal_module.LEASE)
    with pytest.raises(StoreUnavailableError, match="did not follow"):
        leader.list()


def test_a_follower_that_does_not_answer_for_long_is_given_up(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_GIVEN_UP_AFTER", 0.5)
    leader.start()
    leader.save("/a")
    leader.line.error = CallTimeoutError("it hangs")
    time.sleep(0.2)
    assert leader.journal.follower is leader.line
    time.sleep(1.0)
    assert leader.journal.follower is None
    another = Line(Follower())
    leader.journal.follow(another, leader.controller.parts)
    leader.save("/b")
    assert leader.list() == ["a", "b"]
    assert another.sent == 1


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_leader_that_finds_no_follower_answers_nothing(synchronous: bool) -> None:
    """Whoever takes over from it would know less than its callers."""
    leader = Leader(synchronous=synchronous)
    leader.start()
    leader.save("/a")
    leader.journal.lose("yet another")
    assert leader.journal.follower is leader.line
    leader.journal.lose(leader.line.node)
    assert leader.journal.follower is None
    time.sleep(journal_module.LEASE)
    for _ in range(2):
        leader.journal.need_follower()  # as often as it is used
        with pytest.raises(StoreUnavailableError, match="did not follow"):
            leader.list()
    leader.journal.follow(leader.line, leader.controller.parts)
    assert leader.list() == ["a"]
    leader.end()


def test_a_leader_is_fenced_off_by_the_next(leader: Leader) -> None:
    leader.start()
    leader.save("/a")
    leader.follower.promise(2)
    with pytest.raises(StaleEpochError, match="taken over"):
        leader.save("/b")
    with pytest.raises(StaleEpochError, match="taken over"):
        leader.list()
    assert leader.journal.is_fenced
    with pytest.raises(StaleEpochError):
        leader.journal.follow(leader.line, leader.controller.parts)
    _, state = leader.follower.state(2)
    assert StoreController.from_parts(state).handle(Request("list_dir", ("/",))) == ["a"]
    for late in (leader.follower.promise, leader.follower.state, leader.follower.forget):
        with pytest.raises(StaleEpochError):
            late(1)


def test_a_follower_says_when_something_is_missing() -> None:
    follower = Follower()
    follower.promise(1)
    with pytest.raises(OutOfStepError):
        follower.append(1, 1, [])
    _, state = StoreController(lambda *_: None).parts()
    follower.take(1, True, b"of another state")
    with pytest.raises(OutOfStepError):
        follower.install(1, 5, 2)
    install(follower, 1, 5, state)
    with pytest.raises(OutOfStepError):
        follower.append(1, 7, [])
    follower.append(1, 6, [])
    follower.forget(1)
    with pytest.raises(OutOfStepError):
        follower.state(1)
