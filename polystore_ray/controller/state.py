"""The controller of a store: answers requests, makes each change once, and has it replicated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from polystore.exceptions import StorageError, UnsupportedOperationError
from polystore.paths import normalize
from polystore_ray.controller import snapshot
from polystore_ray.controller.effects import Effect
from polystore_ray.controller.event_feed import Arrivals, Changes, EventFeed
from polystore_ray.controller.journal import Journal
from polystore_ray.controller.leases import Invalidation, Leases, Tell
from polystore_ray.controller.ledger import Adopt, Ledger, Repair
from polystore_ray.controller.queries import places, to_evict
from polystore_ray.controller.replicated import ReplicatedState
from polystore_ray.controller.requests import CHANGES, QUERIES, TIMED, answer, apply
from polystore_ray.wire.decoding import encode
from polystore_ray.wire.event_log import Record
from polystore_ray.wire.lease_board import now as clock
from polystore_ray.wire.messages import Items, Joined, Renewal, Request, Uncounted
from polystore_ray.wire.sessions import Refusal

__all__ = ["StoreController"]

_SURVIVE = frozenset(
    {"begin_making", "claim", "done", "graft", "places", "release_claim", "renew_claim", "snapshot"}
)
_FOLLOWED_WITHIN = 10.0  # seconds, for repairs, which are tried again


class StoreController:
    """The single writer of a store's tree. It never opens a value and never waits for a volume.

    - `release`: called with a node and the ids of its pins that no entry needs any more. It must
      not wait for the volume, since volumes wait for the controller
    - `ledger`: what counts the values; one without limits by default
    - `journal`: what has a follower make the same changes
    - `tell`: tells a node which answers not to use any more; see `polystore_ray.controller.leases`

    - `state`: all that decides an answer. The other attributes belong to this process alone
    """

    def __init__(
        self,
        release: Callable[[str, list[str]], None],
        ledger: Ledger | None = None,
        journal: Journal | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.state = ReplicatedState(ledger)
        self._release = release
        self._journal = journal or Journal(0)
        self._leases = Leases(self._journal.epoch, tell)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._happened = threading.Condition(self._lock)
        self._feed = EventFeed()  # of those who wait in this process
        self._calls = 0

    def handle(self, request: Request) -> Any:
        """Carry out a request and return its answer; a repeated change only gets its answer.

        Raises `StorageError` as the operation that the request names; `UnsupportedOperationError`
        if there is no such operation, or the request changes something and has no id;
        `InlineFullError` or `StaleVolumeError` as `ReplicatedState.publish`.
        """
        self._calls += 1
        made: list[Invalidation] = []
        uncounted: list[str] = []
        try:
            try:
                with self._lock:
                    before = self._leases.pending(self.state.tree, request)
                    left = self._leases.left()
                    made += self._make_room(request)
                    answer, effect = self._answer(request)
                    made += effect
                    seen = self._journal.last
            finally:  # what was evicted for a change is told, whatever becomes of the change
                for each in made:
                    uncounted += each.carry_out(request.wish)
            before += left if made else []  # which have been heard of since: at most one is left
            # No client may act on a change that could still be lost, or that others do not see.
            self._journal.wait(seen, request.within, copied=_is_replicated(request))
            for other in before:
                other.wait(request.within)
        finally:
            self._calls -= 1
        answer = _raised_or_returned(answer)
        return Uncounted(answer, uncounted) if uncounted else answer

    def note(self, operation: str, *arguments: Any) -> Any:
        """Make a change that the store itself brings about; its answer waits for no follower."""
        with self._lock:
            answer, effect = self._change(Request(operation, arguments))
        for each in effect:
            threading.Thread(target=each.carry_out, daemon=True).start()
        return _raised_or_returned(answer)

    def _make_room(self, request: Request) -> list[Invalidation]:
        """Evict what has to make room for new values; return what has to be carried out then."""
        if request.operation not in ("check", "publish") or self._has_answer(request):
            return []
        [items] = [each for each in request.arguments if isinstance(each, Items)]
        numbers = to_evict(self.state, items)
        if not numbers:
            return []
        evicted = Effect(self.state.ledger.evictables.entries(numbers), frozenset())
        return self._change(Request("evict", (numbers,)), evicted)[1]

    def _has_answer(self, request: Request) -> bool:
        return request.id is not None and self.state.answers.has(request.id)

    def _answer(self, request: Request) -> tuple[Any, list[Invalidation]]:
        """Return the answer to a request, and what has to be carried out before it is given."""
        if request.operation == "status":
            return self.status(), []
        if request.operation in QUERIES:
            found = answer(self.state, request)
            return self._leases.answered(self.state.tree, request, found), []
        if request.operation not in CHANGES or request.id is None:
            raise UnsupportedOperationError(
                f"the controller has no operation {request.operation!r}, or it changes something "
                f"and the request has no id",
                backend="memory",
            )
        if self._has_answer(request):
            return self.state.answers.get(request.id), []
        return self._change(request)

    def _change(
        self, request: Request, effect: Effect | None = None
    ) -> tuple[Any, list[Invalidation]]:
        now = time.time()
        if request.operation in TIMED:
            request = request._replace(arguments=(*request.arguments, clock() / 1e9))
        effect = effect or self._leases.before(self.state.tree, request)
        made = apply(self.state, request, now)
        self._journal.add(encode((request, now)))
        if request.operation == "volume_joined":
            self._journal.after(partial(self._leases.admit, request.arguments[1]))
        for node, ids in self.state.released:
            # A successor without this change still needs them.
            self._journal.after(partial(self._release, node, ids))
        if self.state.ledger.due():
            self._changed.notify_all()
        self._happened.notify_all()
        if self._feed.is_needed:
            self._feed.take(*self.state.events.since(self._feed.last))
        return made, [] if isinstance(made, Refusal) else self._leases.after(effect)

    def status(self) -> dict[str, Any]:
        """Return what is counted, and how the controller does."""
        follower = self._journal.follower
        with self._lock:
            status = self.state.ledger.status() | self._leases.status()
            if self._journal.is_synchronous and self.state.copies.has_one_node:
                status["too_few_replicas"] += status["inline_values"]  # which are where the tree is
        return status | {
            "calls": self._calls,
            "epoch": self._journal.epoch,
            "follower": None if follower is None else follower.node,
        }

    # The state, for followers and for the next controller

    def parts(self) -> tuple[int, Iterator[bytes]]:
        """Return how many changes there are, and the state in which they are, in small parts.

        References to objects are left out. Calls go on while the parts of a large state are made.
        """
        with self._lock:
            size = self.state.ledger.files + len(self.state.answers) + len(self.state.events)
            return self._journal.last, snapshot.parts_of(vars(self.state), size)

    @classmethod
    def from_parts(
        cls,
        parts: Iterable[bytes],
        release: Callable[[str, list[str]], None] = lambda _node, _ids: None,
        journal: Journal | None = None,
        tell: Tell | None = None,
    ) -> StoreController:
        """Return a controller with the state that `parts` of another one returned."""
        made = cls(release, journal=journal, tell=tell)
        vars(made.state).update(snapshot.state_of(parts))
        return made

    def may_miss_volumes(self, joined: dict[str, Joined]) -> bool:
        """Return whether there may be volumes, or were a moment ago, that are not among these."""
        with self._lock:
            present = {node: volume.incarnation for node, volume in joined.items()}
            return self.state.may_miss_volumes(present)

    def recover(self, joined: dict[str, Joined]) -> None:
        """Take stock after another controller was lost: these volumes live, by node."""
        with self._lock:
            self.state.volumes = {node: volume.incarnation for node, volume in joined.items()}
            self.state.copies.recover({node: volume.holdings for node, volume in joined.items()})
            for volume in joined.values():
                self._leases.admit(volume.incarnation)
            self._changed.notify_all()
        self.note("took_over")

    # Events

    def events_after(self, number: int, timeout: float) -> tuple[bool, int, list[Record]]:
        """Return the events after one, with its number, as soon as there are any, or none in time.

        If some after it are not known, the answer is False, and all that are known, with the number
        of the one before them.
        """
        with self._happened:
            log = self.state.events
            self._happened.wait_for(lambda: log.last != number, timeout)
            found = log.since(number)
            before, seen = self._leases.unfinished(), self._journal.last
        # Whoever hears of a change may act on it; numbers are counted on by the next controller.
        self._journal.wait(seen, _FOLLOWED_WITHIN, copied=True)
        for other in before:
            other.wait(_FOLLOWED_WITHIN)
        return found

    def add_call(self, call: Arrivals | Changes) -> None:
        """Answer a call that waits for events, now or when they come; see `EventFeed`."""
        with self._lock:
            self._feed.take(*self.state.events.since(self._feed.last))
            self._feed.add(call)

    def remove_call(self, call: Arrivals | Changes) -> None:
        """Forget a call that waits."""
        with self._lock:
            self._feed.remove(call)

    def wait_until_there(self, path: str, timeout: float) -> None:
        """Return when a path exists, or when it may, or in so many seconds."""
        came = threading.Event()
        with self._lock:
            [place], [exists], last = places(self.state, [path])
            if exists:
                return
            call = Arrivals([(normalize(path), place)], 1, last, lambda _: came.set())
            self.add_call(call)
        came.wait(timeout)
        self.remove_call(call)

    # Values with a time to live

    def expire(self) -> None:
        """Delete what has expired."""
        moment = time.time()
        with self._lock:
            if self.state.expiry.first <= moment:
                self.note("expire", moment, self.state.expiry.due(moment))

    # Read leases

    def renew_lease(self, node: str, incarnation: str) -> Renewal | None:
        """Renew the read lease of a node for its volume; see `Leases.renew`."""
        with self._lock:
            return self._leases.renew(node, incarnation)

    def end_leases(self) -> None:
        """Grant no lease any more; return when nobody has one."""
        with self._lock:
            ended = self._leases.end()
        for each in ended:
            each.carry_out()

    # Nodes and repairs

    def nodes_changed(self, nodes: set[str], leaving: set[str]) -> None:
        """Learn which nodes there are for replicas, and which of them are about to leave."""
        with self._lock:
            self.state.copies.nodes_changed(nodes, leaving)
            if self.state.ledger.due():
                self._changed.notify_all()

    def held_alone_by(self, node: str) -> int:
        """Return how many objects only this node holds."""
        with self._lock:
            return self.state.copies.held_alone_by(node)

    def next_repair(self, timeout: float, failed: int = 0) -> Repair | None:
        """Return what should be done for the store, as soon as there is anything.

        See `Ledger.next_repair`. A repair that drops values for good is returned only when the
        follower has made the changes that dropped them.
        """
        with self._changed:
            self._changed.wait_for(self.state.ledger.due, timeout)
            repair = self.state.ledger.next_repair(failed)
        if isinstance(repair, Adopt):
            self._journal.wait(self._journal.last, _FOLLOWED_WITHIN, copied=True)
        return repair


def _is_replicated(request: Request) -> bool:
    """Return whether what is answered has to survive the loss of any one process."""
    if request.operation == "publish":
        items = request.arguments[1]
        return items.replicas > 1 or items.moments is not None or items.refills
    return request.operation in _SURVIVE


def _raised_or_returned(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        raise answer.error()
    if isinstance(answer, StorageError):
        raise answer.with_traceback(None)
    return answer
