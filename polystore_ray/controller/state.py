"""The controller's book-keeping: the tree of the cluster memory, its ledger, answered changes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathNotFoundError,
    PathTypeError,
    StorageError,
    StorageWriteError,
    UnsupportedOperationError,
)
from polystore.path_tree import PathTree, Place, replaced
from polystore_ray.controller import snapshot
from polystore_ray.controller.journal import Journal
from polystore_ray.controller.ledger import Adopt, Chore, Entry, Held, Ledger
from polystore_ray.errors import DataLostError
from polystore_ray.wire.decoding import encode
from polystore_ray.wire.messages import (
    NOTHING,
    WITHDRAWN,
    Found,
    Items,
    Joined,
    Kept,
    Pin,
    Request,
    StaleVolumeError,
    Stored,
)
from polystore_ray.wire.sessions import EXPIRY, Answers, Refusal

__all__ = ["StoreController"]

_FOLLOWED_WITHIN = 10.0  # seconds, for upkeep, which is tried again

_QUESTIONS = frozenset(
    {"check", "exists", "is_dir", "is_file", "is_symlink", "kept", "list_dir", "list_files"}
    | {"read", "stat", "status", "why"}
)
_CHANGES = frozenset(
    {"adopted", "confirm", "copy", "create_symlink", "delete", "delete_all", "delete_keys", "drain"}
    | {"ensure_directory", "lost", "move", "packed", "pinned", "publish", "set_fallback"}
    | {"volume_joined", "volume_lost", "withdraw"}
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
        self._answers = Answers()
        self._withdrawn: dict[str, float] = {}  # objects that nobody may publish, and since when
        self.drained: set[str] = set()  # nodes that are to be emptied
        self._needless: list[tuple[str, list[str]]] = []  # by the change that is being made

    def handle(self, request: Request) -> Any:
        """Carry out a request and return its answer; a repeated change only gets its answer.

        Raises
        ------
        StorageError
            As the operation of `PathTree` that the request names.
        InlineFullError
            If small values have to be made objects; nothing has happened.
        StaleVolumeError
            If a volume publishes that is believed to be dead; nothing has happened.
        """
        self._calls += 1
        try:
            with self._lock:
                answer = self._answer(request)
                seen = self._journal.last
            # Nobody may act on what could still be lost.
            self._journal.wait(seen, request.within, copied=_is_replicated(request))
        finally:
            self._calls -= 1
        return _raised_or_returned(answer)

    def note(self, operation: str, *arguments: Any) -> None:
        """Make a change that the store itself brings about, and that nobody waits for."""
        with self._lock:
            _raised_or_returned(self._change(Request(operation, arguments)))

    def _answer(self, request: Request) -> Any:
        if request.operation in _QUESTIONS:
            try:
                return self._operation(request.operation)(*request.arguments)
            except StorageError as error:
                return error
        if request.operation not in _CHANGES or request.id is None:
            raise UnsupportedOperationError(
                f"the controller has no operation {request.operation!r}", backend="memory"
            )
        if self._answers.has(request.id):
            return self._answers.get(request.id)
        return self._change(request)

    def _change(self, request: Request) -> Any:
        now = time.time()
        answer = self.apply(request, now)
        self._journal.add(encode((_without_references(request), now)))
        for node, ids in self._needless:
            # Whoever takes over without this change still needs them.
            self._journal.after(partial(self._release, node, ids))
        if self._ledger.due():
            self._changed.notify_all()
        return answer

    def apply(self, request: Request, now: float) -> Any:
        """Make a change as of a moment, given in seconds since the epoch, and return its answer.

        The same changes make the same of the same state, those that fail included.
        """
        self._now = now
        self._needless = []
        answer: Any
        try:
            answer = self._operation(request.operation)(*request.arguments)
        except StorageError as error:
            answer = Refusal.of(error)
        if request.id is not None:
            self._answers.keep(request.id, answer, now)
        return answer

    def _operation(self, name: str) -> Callable[..., Any]:
        own: Callable[..., Any] | None = getattr(self, f"_{name}", None)
        operation: Callable[..., Any] = own or getattr(self._tree, name)
        return operation

    # The state, for followers and for the next controller

    def parts(self) -> tuple[int, Iterator[bytes]]:
        """Return how many changes there are, and the state in which they are, in small parts.

        References to objects are left out. Calls go on while the parts of a large state are made.
        """
        with self._lock:
            size = self._ledger.files + len(self._answers)
            return self._journal.last, snapshot.parts_of(self._state(), size)

    def _state(self) -> dict[str, Any]:
        """Return all that changes make, and that decides answers, by the names of attributes."""
        return {name: getattr(self, name) for name in _REPLICATED}

    @classmethod
    def from_parts(
        cls,
        parts: Iterable[bytes],
        release: Callable[[str, list[str]], None] = lambda _node, _ids: None,
        journal: Journal | None = None,
    ) -> StoreController:
        """Return a controller with the state that `parts` of another one returned."""
        made = cls(release, journal=journal)
        for name, value in snapshot.state_of(parts).items():
            setattr(made, name, value)
        return made

    def recover(self, joined: dict[str, Joined]) -> None:
        """Take stock after another controller was lost: these volumes live, by node."""
        with self._lock:
            self._volumes = {node: volume.incarnation for node, volume in joined.items()}
            self._ledger.recover({node: volume.holdings for node, volume in joined.items()})
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

        See `Ledger.chore`. What drops values for good is due only when the follower knows that
        nobody needs them.
        """
        with self._changed:
            self._changed.wait_for(self._ledger.due, timeout)
            chore = self._ledger.chore(failed)
        if isinstance(chore, Adopt):
            self._journal.wait(self._journal.last, _FOLLOWED_WITHIN, copied=True)
        return chore

    # Values

    def _read(self, paths: list[str], node: str = "", existing: bool = False) -> Found:
        """Return what is stored at each path, for a reader on `node`.

        With `existing`, a path without a file is None in the answer instead of an error.
        """
        which: dict[str, int] = {}
        pins: list[Pin] = []
        stored: list[Stored] = []
        moments: list[int] = []
        for path in paths:
            entry = self._file(path) if existing else self._tree.get(path)
            if entry is None:
                stored.append(NOTHING)
                moments.append(0)
                continue
            held = entry.held
            moments.append(entry.moment[0])
            if isinstance(held, Held):
                if held.id not in which:
                    self._check_not_lost(entry, path)
                    which[held.id] = len(pins)
                    pins.append(held.pin(node))
                stored.append((which[held.id], entry.number))
            elif held is not None:
                stored.append(held)
        return Found(pins, stored, moments)

    def _file(self, path: str) -> Entry | None:
        """Return the entry of a file, None where there is no file."""
        with suppress(PathNotFoundError, PathTypeError):
            return self._tree.get(path)
        return None

    def _kept(self, path: str) -> Kept:
        """Return what stays of a value when another one takes its place."""
        entry = self._tree.get(path)
        replicas = entry.held.wanted if isinstance(entry.held, Held) else None
        return Kept(entry.version, replicas, entry.fallback)

    def _check_not_lost(self, entry: Entry, path: str) -> None:
        if isinstance(entry.held, Held) and entry.held.lost:
            error = DataLostError(entry.held.lost, path=path, backend="memory")
            error.fallback = entry.fallback
            error.version = entry.version
            error.replicas = entry.held.wanted
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
        self._ledger.admit(items.facts, replaced(self._places(items)), inline=False)

    def _places(self, items: Items) -> list[Place]:
        return self._tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )

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
        try:
            self._enter(pins, nodes, items)
        except StorageError:
            # Nobody else may let go of them: the caller cannot know whether it was published.
            self._needless.extend((node, [pin.id for pin in pins]) for node in nodes if pins)
            raise

    def _enter(self, pins: list[Pin], nodes: tuple[str, ...], items: Items) -> None:
        if any(pin.id in self._withdrawn for pin in pins):
            raise StorageWriteError(
                "so long after its bytes were pinned they have been let go; nothing has been "
                "saved, and saving again is safe",
                path=items.paths[0],
                backend="memory",
            )
        places = self._places(items)
        old = replaced(places)
        self._ledger.admit(items.facts, old, inline=not pins)
        self._version += 1
        held_on = [pin._replace(nodes=nodes) for pin in pins]
        self._tree.set(places, self._ledger.enter(held_on, items, (self._version, self._now)))
        self._dropped(old)

    def _withdraw(self, ids: list[str], nodes: Iterable[str]) -> bool:
        """Have volumes let go of objects whose publication failed before it came here."""
        self._needless.extend((node, ids) for node in nodes)
        return WITHDRAWN

    def _delete(self, path: str) -> None:
        self._dropped(self._tree.delete(path))

    def _delete_all(self, path: str) -> None:
        self._dropped(self._tree.delete_all(path))

    def _delete_keys(self, paths: list[str], top: str) -> None:
        """Delete what is at some paths, and the directories below `top` that this leaves empty."""
        nothing_to_delete = (PathNotFoundError, PathTypeError, DirectoryNotEmptyError)
        for path in paths:
            here = path
            with suppress(*nothing_to_delete):
                self._dropped(self._tree.delete(here))
                while (here := here.rpartition("/")[0]).startswith(f"{top}/"):
                    self._tree.delete(here)

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

    def _confirm(self, ids: list[str], node: str, incarnation: str) -> list[str]:
        """Have a volume let go of those of its objects that are not known to be held there.

        Return which these are.
        """
        self._check_current(node, incarnation)
        held = self._ledger.held
        # What has no copy that is known has turned up.
        self._ledger.pinned(node, [id_ for id_ in ids if id_ in held and not held[id_].copies])
        needless = [id_ for id_ in ids if id_ not in held or node not in held[id_].copies]
        while self._withdrawn and next(iter(self._withdrawn.values())) < self._now - EXPIRY:
            del self._withdrawn[next(iter(self._withdrawn))]
        self._withdrawn |= {id_: self._now for id_ in needless if id_ not in held}
        self._needless.append((node, needless))
        return needless

    def _drain(self, node: str) -> None:
        self.drained.add(node)

    def _lost(self, ids: list[str], reason: str) -> None:
        self._ledger.lost(ids, reason)

    def _status(self) -> dict[str, Any]:
        follower = self._journal.follower
        status = self._ledger.status()
        if self._journal.is_synchronous and self._ledger.has_one_node:
            status["too_few_replicas"] += status["inline_values"]  # which are where the tree is
        return status | {
            "calls": self._calls,
            "epoch": self._journal.epoch,
            "follower": None if follower is None else follower.node,
        }


_REPLICATED = (
    "_tree",
    "_ledger",
    "_volumes",
    "_version",
    "_answers",
    "_withdrawn",
    "drained",
)
"""All attributes that decide answers. The others are of one incarnation alone: its locks, its
journal, how it releases pins, the calls it is in, and what the change that is being made does."""


def _is_replicated(request: Request) -> bool:
    """Return whether a change saves values that are to survive the loss of any one process."""
    return request.operation == "publish" and request.arguments[1].replicas > 1


def _raised_or_returned(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        raise answer.error()
    if isinstance(answer, StorageError):
        raise answer.with_traceback(None)
    return answer


def _without_references(request: Request) -> Request:
    """Return a change as a follower makes it, which keeps no references to objects."""
    return request._replace(arguments=tuple(map(_bare, request.arguments)))


def _bare(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_bare(one) for one in argument]
    return argument._replace(ref=None) if isinstance(argument, Pin) else argument
