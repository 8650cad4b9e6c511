"""The controller's book-keeping: the tree of the cluster memory, its ledger, answered changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from polystore.exceptions import (
    StorageError,
    StorageWriteError,
    UnsupportedOperationError,
)
from polystore.tree import PathTree, replaced
from polystore_ray.decoding import decode_state, encode
from polystore_ray.errors import DataLostError
from polystore_ray.journal import Journal
from polystore_ray.ledger import Chore, Entry, Held, Ledger
from polystore_ray.messages import Found, Items, Pin, Request, StaleVolumeError, Stored

__all__ = ["StoreController"]

# Answers are kept this long, in number of changes, for callers that did not get them.
_REMEMBERED = 10_000

_ANSWER_WITHIN = 60.0  # seconds, which bounds the wait for the follower

_QUESTIONS = frozenset(
    {"check", "exists", "is_dir", "is_file", "is_symlink", "list_dir", "list_files", "read"}
    | {"stat", "status", "unknown", "why"}
)
_CHANGES = frozenset(
    {"adopted", "copy", "create_symlink", "delete", "delete_all", "ensure_directory", "lost"}
    | {"move", "packed", "pinned", "publish", "set_fallback", "volume_joined", "volume_lost"}
)


class StoreController:
    """The single writer of a store's tree. It never opens a value and never waits for a volume.

    Parameters
    ----------
    release : callable
        Called with a node and the ids of its pins that no entry needs any more. It must not wait
        for the volume, since volumes wait for the controller.
    ledger : Ledger, optional
        What counts the values; one without limits by default.
    journal : Journal, optional
        What has a follower make the same changes.
    """

    def __init__(
        self,
        release: Callable[[str, list[str]], None],
        ledger: Ledger | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._release = release
        self._journal = journal or Journal(0)
        self._tree: PathTree[Entry] = PathTree("memory")
        self._ledger = ledger or Ledger()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._volumes: dict[str, str] = {}
        self._version = 0
        self._now = 0.0
        self._calls = 0
        self._answers: OrderedDict[str, Any] = OrderedDict()
        self._given_up: OrderedDict[str, None] = OrderedDict()  # objects that were not published
        self._needless: list[tuple[str, list[str]]] = []  # by the change that is being made

    def handle(self, request: Request) -> Any:
        """Carry out a request and return its answer; a repeated change only gets its answer.

        Raises
        ------
        StorageError
            As the operation of `PathTree` that the request names.
        InlineFullError
            If small values have to be made objects.
        StaleVolumeError
            If a volume publishes that is believed to be dead.
        """
        self._calls += 1
        try:
            answer, seen = self._answer_as_of(request)
            # Nobody may act on what could still be lost.
            self._journal.wait(seen, _ANSWER_WITHIN)
        finally:
            self._calls -= 1
        return _raised_or_returned(answer)

    def note(self, request: Request) -> Any:
        """Make a change that the store itself brings about, and that nobody waits for."""
        return _raised_or_returned(self._answer_as_of(request)[0])

    def _answer_as_of(self, request: Request) -> tuple[Any, int]:
        """Return an answer, and how many changes it depends on."""
        with self._lock:
            return self._answer(request), self._journal.last

    def _answer(self, request: Request) -> Any:
        if request.operation in _QUESTIONS:
            return self._operation(request.operation)(*request.arguments)
        if request.operation not in _CHANGES or request.id is None:
            raise UnsupportedOperationError(
                f"the controller has no operation {request.operation!r}", backend="memory"
            )
        if request.id in self._answers:
            return self._answers[request.id]
        now = time.time()
        try:
            answer = self.apply(request, now)
        except StorageError as error:
            self._remember(request.id, error)
            return error
        self._journal.add(encode((_without_references(request), now)))
        for node, ids in self._needless:
            # Whoever takes over without this change still needs them.
            self._journal.after(partial(self._release, node, ids))
        if self._ledger.due():
            self._changed.notify_all()
        return answer

    def apply(self, request: Request, now: float) -> Any:
        """Make a change as of a moment, given in seconds since the epoch, and return its answer."""
        self._now = now
        self._needless = []
        answer = self._operation(request.operation)(*request.arguments)
        assert request.id is not None  # noqa: S101 - it is checked where changes come in
        self._remember(request.id, answer)
        return answer

    def _remember(self, id_: str, answer: Any) -> None:
        self._answers[id_] = answer
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def _operation(self, name: str) -> Callable[..., Any]:
        own: Callable[..., Any] | None = getattr(self, f"_{name}", None)
        operation: Callable[..., Any] = own or getattr(self._tree, name)
        return operation

    # The state, for followers and for the next controller

    def state(self) -> bytes:
        """Return everything that changes have made; references to objects are left out."""
        with self._lock:
            state = self._tree, self._ledger, self._volumes, self._version, self._answers
            return encode(state)

    def numbered_state(self) -> tuple[int, bytes]:
        """Return how many changes there are, and the state in which they are."""
        with self._lock:
            return self._journal.last, self.state()

    @classmethod
    def from_state(
        cls,
        state: bytes,
        release: Callable[[str, list[str]], None] = lambda _node, _ids: None,
        journal: Journal | None = None,
    ) -> StoreController:
        """Return a controller with this state."""
        made = cls(release, journal=journal)
        made._tree, made._ledger, made._volumes, made._version, made._answers = decode_state(state)
        return made

    def recover(self, volumes: dict[str, str], holdings: dict[str, list[Pin]]) -> None:
        """Take stock after another controller was lost: these volumes live, and hold this.

        Parameters
        ----------
        volumes : dict of str to str
            The incarnation of each volume, by node.
        holdings : dict of str to list of Pin
            What each says it holds, with the references that it has.
        """
        with self._lock:
            self._volumes = dict(volumes)
            self._ledger.recover(holdings)
            self._changed.notify_all()

    def nodes_changed(self, nodes: set[str], leaving: set[str]) -> None:
        """Learn which nodes there are for replicas, and which of them are about to leave."""
        with self._lock:
            self._ledger.nodes_changed(nodes, leaving)
            if self._ledger.due():
                self._changed.notify_all()

    def held_alone_by(self, node: str) -> int:
        """Return how many objects only this node holds."""
        with self._lock:
            return self._ledger.held_alone_by(node)

    def chore(self, timeout: float, failed: int = 0) -> Chore | None:
        """Return what should be done for the store, as soon as there is anything.

        See `Ledger.chore`.
        """
        with self._changed:
            self._changed.wait_for(self._ledger.due, timeout)
            return self._ledger.chore(failed)

    # Values

    def _read(self, paths: list[str], node: str = "") -> Found:
        """Return what is stored at each path, as a node had best read it."""
        which: dict[str, int] = {}
        pins: list[Pin] = []
        stored: list[Stored] = []
        entries = [self._tree.get(path) for path in paths]
        for path, entry in zip(paths, entries, strict=True):
            held = entry.held
            if isinstance(held, Held):
                if held.id not in which:
                    self._check_not_lost(entry, path)
                    which[held.id] = len(pins)
                    pins.append(held.pin(node))
                stored.append((which[held.id], entry.number))
            elif held is not None:
                stored.append(held)
        return Found(pins, stored, [entry.moment[0] for entry in entries])

    def _check_not_lost(self, entry: Entry, path: str) -> None:
        if isinstance(entry.held, Held) and entry.held.lost:
            error = DataLostError(entry.held.lost, path=path, backend="memory")
            error.fallback = entry.fallback
            error.version = entry.version
            raise error

    def _why(self, path: str) -> dict[str, Any]:
        """Return what is known of where a value is, or how it was lost."""
        entry = self._tree.get(path)
        facts = self._tree.stat(path) | {"fallback": entry.fallback}
        if isinstance(entry.held, Held):
            facts |= {"nodes": tuple(entry.held.copies), "wanted": entry.held.wanted}
            facts |= {"lost": entry.held.lost}
        return facts

    def _set_fallback(self, path: str, version: int, fallback: tuple[str, str]) -> None:
        """Remember where else a value is, if it still is the one of this version."""
        entry = self._tree.get(path)
        if entry.version == version:
            entry.fallback = fallback

    def _check(self, items: Items) -> None:
        """Raise what a publication would raise, before the bytes of its values move."""
        places = self._tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )
        self._ledger.admit(items.facts, replaced(places), inline=False)

    def _publish(
        self, pins: list[Pin], items: Items, volumes: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Make values visible, all at once or not at all.

        Parameters
        ----------
        pins : list of Pin
            The objects that hold them.
        items : Items
            The values.
        volumes : iterable of tuple of str
            The nodes whose volumes have pinned the objects, with the incarnation of each: one
            that is believed to be dead pins nothing.
        """
        nodes = self._current_nodes(volumes)
        if any(pin.id in self._given_up for pin in pins):
            raise StorageWriteError(
                "so long after its bytes were pinned they have been let go; nothing has been "
                "saved, and saving again is safe",
                path=items.paths[0],
                backend="memory",
            )
        places = self._tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )
        old = replaced(places)
        self._ledger.admit(items.facts, old, inline=not pins)
        self._version += 1
        held_on = [pin._replace(nodes=nodes) for pin in pins]
        self._tree.set(places, self._ledger.enter(held_on, items, (self._version, self._now)))
        self._dropped(old)

    def _delete(self, path: str) -> None:
        self._dropped(self._tree.delete(path))

    def _delete_all(self, path: str) -> None:
        self._dropped(self._tree.delete_all(path))

    def _copy(self, source: str, destination: str) -> None:
        self._ledger.copied(self._tree.copy(source, destination))

    def _dropped(self, entries: Iterable[Entry]) -> None:
        self._let_go(self._ledger.dropped(entries))

    def _let_go(self, objects: Iterable[Held]) -> None:
        released: dict[str, list[str]] = defaultdict(list)
        for held in objects:
            for node in held.copies:
                released[node].append(held.id)
        self._needless.extend(released.items())

    # Volumes, and what they do with objects

    def _volume_joined(self, node: str, incarnation: str) -> None:
        self._volumes[node] = incarnation

    def _volume_lost(self, node: str) -> None:
        self._volumes.pop(node, None)
        self._ledger.volume_lost(node)

    def _adopted(self, pin: Pin) -> None:
        self._ledger.adopted(pin)

    def _packed(
        self, pin: Pin, serials: list[int], replicas: int, volumes: Iterable[tuple[str, str]]
    ) -> None:
        nodes = self._current_nodes(volumes)
        held = self._ledger.packed(pin._replace(nodes=nodes), serials, replicas)
        if not held.live:
            self._let_go([held])

    def _pinned(self, node: str, incarnation: str, ids: list[str]) -> None:
        self._check_current(node, incarnation)
        unknown = self._ledger.pinned(node, ids)
        if unknown:
            self._needless.append((node, unknown))

    def _current_nodes(self, volumes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the nodes of volumes, given with their incarnations, if none has been given up."""
        nodes: list[str] = []
        for node, incarnation in volumes:
            self._check_current(node, incarnation)
            nodes.append(node)
        return tuple(nodes)

    def _check_current(self, node: str, incarnation: str) -> None:
        if self._volumes.get(node) != incarnation:
            raise StaleVolumeError(f"{incarnation!r} is not the volume of node {node} any more")

    def _unknown(self, ids: list[str], node: str, incarnation: str) -> list[str]:
        """Return which of the objects that a volume holds are not known to be held there.

        It lets go of them, so that they cannot be published any more.
        """
        self._check_current(node, incarnation)
        held = self._ledger.held
        unknown = [id_ for id_ in ids if id_ not in held or node not in held[id_].copies]
        self._given_up.update(dict.fromkeys(id_ for id_ in unknown if id_ not in held))
        while len(self._given_up) > _REMEMBERED:
            self._given_up.popitem(last=False)
        return unknown

    def _lost(self, ids: list[str], reason: str) -> None:
        self._ledger.lost(ids, reason)

    def _status(self) -> dict[str, Any]:
        follower = self._journal.follower
        return self._ledger.status() | {
            "calls": self._calls,
            "epoch": self._journal.epoch,
            "follower": None if follower is None else follower.node,
        }


def _raised_or_returned(answer: Any) -> Any:
    if isinstance(answer, StorageError):
        # Without the traceback, which would hold on to the request.
        raise answer.with_traceback(None)
    return answer


def _without_references(request: Request) -> Request:
    """Return a change as a follower makes it, which keeps no references to objects."""
    arguments = tuple(
        _bare(argument) if isinstance(argument, Pin | list) else argument
        for argument in request.arguments
    )
    return request._replace(arguments=arguments)


def _bare(argument: Any) -> Any:
    if isinstance(argument, Pin):
        return argument._replace(ref=None)
    return [one._replace(ref=None) if isinstance(one, Pin) else one for one in argument]
