"""The replicated state of a store: all that decides an answer, and what requests do with it.

The same changes make the same state of the same state, those that fail included. So a follower that
makes them too has what the next controller needs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathNotFoundError,
    PathTypeError,
    StorageError,
    StorageWriteError,
    VersionConflictError,
)
from polystore.path_tree import PathTree, replaced
from polystore_ray.controller.claims import Claims
from polystore_ray.controller.entries import (
    Entry,
    Held,
    entry_at,
    freed_by,
    lacking_error,
    lost_among,
    version_at,
)
from polystore_ray.controller.events import deleted, published
from polystore_ray.controller.expiry import Expiry
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.makers import Makers
from polystore_ray.wire.event_log import EventLog
from polystore_ray.wire.messages import (
    WITHDRAWN,
    Items,
    Pin,
    StaleVolumeError,
)
from polystore_ray.wire.sessions import EXPIRY, Answers
from polystore_ray.wire.versions import ClassVersions

__all__ = ["ReplicatedState"]


_A_MOMENT = 10.0  # seconds, by the clocks of two machines


class ReplicatedState:
    """The tree of the cluster memory and all else that changes make. It is not thread-safe.

    Every attribute is replicated. `polystore_ray.controller.requests` lists what acts on it, and
    `polystore_ray.controller.queries` reads it.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.tree: PathTree[Entry] = PathTree("memory")
        self.ledger = ledger or Ledger()
        self.copies = self.ledger.copies
        self.volumes: dict[str, str] = {}  # the incarnation of each volume, by node
        self.volume_lost_at = 0.0  # the last one, in seconds since the epoch
        self.version = 0  # of the value that was published last
        self.answers = Answers()
        self.withdrawn: dict[
            str, float
        ] = {}  # objects that cannot be published any more, since when
        self.class_versions = ClassVersions()
        self.events = EventLog()
        self.claims = Claims(self.tree)
        self.makers = Makers(self.tree)
        self.expiry = Expiry()
        self.drained: set[str] = set()  # nodes that are to be emptied
        self.now = 0.0  # the moment of the last change, in seconds since the epoch
        self.released: list[tuple[str, list[str]]] = []  # by the last change: nodes, ids of pins

    # Changes of the tree

    def publish(
        self, pins: list[Pin], items: Items, volumes: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Make values visible, all at once or not at all.

        - `pins`: the objects that hold them
        - `items`: the values
        - `volumes`: the nodes whose volumes have pinned the objects, with the incarnation of each

        Raises `InlineFullError` if small values have to be made objects; nothing has happened;
        `StaleVolumeError` if the controller believes that one of the volumes is dead; nothing has
        happened.
        """
        nodes = self._current_nodes(volumes)
        try:
            self._enter(pins, nodes, items)
        except StorageError:
            # Only this may release them: the caller cannot know whether they were published.
            self.released.extend((node, [pin.id for pin in pins]) for node in nodes if pins)
            raise

    def _enter(self, pins: list[Pin], nodes: tuple[str, ...], items: Items) -> None:
        if any(pin.id in self.withdrawn for pin in pins):
            raise StorageWriteError(
                "the value was pinned but not published for so long that its bytes were let go; "
                "nothing has been saved, and it is safe to save again",
                path=items.paths[0],
                backend="memory",
            )
        held_on = [pin._replace(nodes=nodes) for pin in pins]
        if items.refills:
            self._refill(held_on, items)
            return
        locations = self.locations_for(items)
        old = replaced(locations)
        self.ledger.admit(items.facts, freed_by(old), inline=not pins)
        if items.moments is None:
            # Each its own, which tells a value from all others wherever it is moved to.
            moments = [(self.version + i, self.now) for i in range(1, len(items.paths) + 1)]
            self.version += len(items.paths)
        else:  # no later value may have a version of theirs
            moments = items.moments
            self.version = max(self.version, *(version for version, _ in moments))
        entries = self.ledger.enter(held_on, items, moments)
        self.tree.set(locations, entries)
        if items.ttl is not None:
            self.expiry.begin(self.now + items.ttl, locations, entries)
        self.events.note(published(locations, items.facts, moments))
        self._drop(old)

    def _refill(self, pins: list[Pin], items: Items) -> None:
        """Give values that are lost or evicted their bytes again, unless they have them by now."""
        entries = self.refilled_by(items)
        facts = [
            each for each, entry in zip(items.facts, entries, strict=True) if entry is not None
        ]
        self.ledger.admit(facts, lost_among(entries), inline=False)
        self._release(self.ledger.refill(pins, items, entries))
        self.makers.forget(version for version in items.versions if version is not None)

    def refilled_by(self, items: Items) -> list[Entry | None]:
        """Return the values that still lack what a refill brings, each of them once."""
        found: list[Entry | None] = []
        seen: set[Entry | None] = set()
        for path, version in zip(items.paths, items.versions, strict=True):
            entry = entry_at(self.tree, path)
            is_needed = entry is not None and entry.version == version and entry.is_lacking
            found.append(entry if is_needed and entry not in seen else None)
            seen.add(entry)
        return found

    def evict(self, numbers: list[int]) -> None:
        """Let go of the bytes of values; see `Evictables.for_room`."""
        self._release(self.ledger.evict(numbers))

    def set_pinned(self, path: str, is_pinned: bool) -> None:
        """Keep a value from being evicted, or let it be again."""
        entry = self.tree.get(path)
        if is_pinned and entry.is_lacking:
            raise lacking_error(entry, path)
        self.ledger.set_pinned(entry, is_pinned)

    def expire(self, moment: float, expired: list[tuple[str, int]]) -> None:
        """Delete what has expired by a moment, in seconds since the epoch; see `Expiry.due`."""
        for path, version in expired:
            if version_at(self.tree, path) == version:
                self.events.note(deleted(self.tree, path))
                self.delete(path)
        self.expiry.forget(moment)

    def locations_for(self, items: Items) -> Any:
        locations = self.tree.check_put(
            items.paths,
            overwrite=items.overwrite,
            parents=items.parents,
            if_version=items.if_version,
        )
        for location, path, wanted in zip(locations, items.paths, items.versions, strict=False):
            version = 0 if location.node is None else location.node.version
            if wanted not in (None, version):
                raise VersionConflictError(
                    f"the value has version {version}, not {wanted}, after another save",
                    path=path,
                    backend="memory",
                )
        return locations

    def withdraw(self, ids: list[str], nodes: Iterable[str]) -> bool:
        """Have volumes release objects whose publication failed before it arrived here."""
        self.released.extend((node, ids) for node in nodes)
        return WITHDRAWN

    def set_fallback(self, path: str, version: int, fallback: tuple[str, str]) -> None:
        """Remember where else a value is, if it still has this version."""
        entry = self.tree.get(path)
        if entry.version == version:
            entry.fallback = fallback

    def create_symlink(self, source: str, link: str, overwrite: bool = False) -> None:
        self._drop(self.tree.create_symlink(source, link, overwrite))

    def delete(self, path: str) -> None:
        self._drop(self.tree.delete(path))

    def delete_all(self, path: str) -> None:
        self._drop(self.tree.delete_all(path))

    def delete_keys(self, paths: list[str], top: str) -> None:
        """Delete what is at some paths, and the directories below `top` that this leaves empty."""
        for path in paths:
            here = path
            with suppress(PathNotFoundError, PathTypeError, DirectoryNotEmptyError):
                while here == path or here.startswith(f"{top}/"):
                    happened = [*deleted(self.tree, here)]
                    self._drop(self.tree.delete(here))
                    self.events.note(happened)
                    here = here.rpartition("/")[0]

    def copy(self, source: str, destination: str) -> None:
        self.ledger.copied(self.tree.copy(source, destination))
        self.expiry.came(self.tree, destination)

    def move(self, source: str, destination: str) -> None:
        self.tree.move(source, destination)
        self.expiry.came(self.tree, destination)

    def snapshot(self, source: str, destination: str) -> float:
        """Copy a directory, which may contain the destination, in one step; return the moment."""
        self.ledger.copied(self.tree.snapshot(source, destination))
        self.expiry.came(self.tree, destination)
        return self.now

    def graft(
        self,
        staging: str,
        files: int,
        directories: list[str],
        copies: list[tuple[str, str]],
        links: list[tuple[str, str]],
    ) -> None:
        """Move what a directory holds to the root, with what a restored tree has in addition.

        An error leaves everything outside of `staging` as it was.

        - `staging`: the directory, which is deleted
        - `files`: how many values it must hold in the end
        - `directories`, `copies`, `links`: what the tree has in addition, with paths as they are at
          the root; the target of a link may be missing
        """
        for path in directories:
            self.tree.ensure_directory(staging + path)
        for source, destination in copies:
            self.copy(staging + source, staging + destination)
        found = len(self.tree.outline(staging)[2])
        if found != files:
            raise StorageWriteError(
                f"{found} instead of {files} values are there; restore the dump again",
                path=staging,
                backend="memory",
            )
        self.tree.graft(staging, links)

    def _drop(self, entries: Iterable[Entry]) -> None:
        self._release(self.ledger.dropped(entries))

    def _release(self, objects: Iterable[Held]) -> None:
        released: dict[str, list[str]] = defaultdict(list)
        for held in objects:
            for node in held.copies:
                released[node].append(held.id)
        self.released.extend(released.items())

    # Claims

    def took_over(self, clock: float) -> None:
        """Learn that claims are timed by another controller's clock, at these seconds."""
        self.claims.begin_anew(clock)
        self.makers.begin_anew(clock)

    def claim(
        self, path: str, pattern: str, by: str, lease: float, clock: float
    ) -> tuple[str, int, float, int]:
        """Claim a file in a directory; see `Claims.first`; return the last event's number too."""
        return *self.claims.first(path, pattern, by, lease, clock), self.events.last

    def done(self, path: str, number: int, destination: str | None) -> None:
        """Move or delete what was claimed."""
        self.claims.check(path, number)
        if destination is None:
            self.delete(path)
        else:
            self.move(path, destination)
        self.claims.forget(path)

    # Changes of volumes and their objects

    def volume_joined(self, node: str, incarnation: str) -> None:
        self.volumes[node] = incarnation

    def volume_lost(self, node: str) -> None:
        self.volumes.pop(node, None)
        self.volume_lost_at = self.now
        self.copies.volume_lost(node)

    def may_miss_volumes(self, present: Mapping[str, str]) -> bool:
        """Return whether volumes have gone, or did a moment ago, that are not among the present."""
        gone_just_now = abs(time.time() - self.volume_lost_at) < _A_MOMENT
        return gone_just_now or not self.volumes.items() <= present.items()

    def packed(
        self, pin: Pin, serials: list[int], replicas: int, volumes: Iterable[tuple[str, str]]
    ) -> None:
        """Have inline values in a pack from now on, which these volumes hold."""
        nodes = self._current_nodes(volumes)
        held = self.ledger.packed(pin._replace(nodes=nodes), serials, replicas)
        if not held.live:
            self._release([held])

    def pinned(self, node: str, incarnation: str, ids: list[str]) -> None:
        """Count objects as held on one more node; release those that no entry needs."""
        self._check_current(node, incarnation)
        unknown = self.copies.pinned(node, ids)
        if unknown:
            self.released.append((node, unknown))

    def confirm(self, ids: list[str], node: str, incarnation: str) -> list[str]:
        """Release those objects of a volume that the ledger does not count there; return their ids.

        They cannot be published any more.
        """
        self._check_current(node, incarnation)
        held = self.copies.objects
        # An object that was lost has turned up.
        self.copies.pinned(node, [id_ for id_ in ids if id_ in held and not held[id_].copies])
        needless = [id_ for id_ in ids if id_ not in held or node not in held[id_].copies]
        while self.withdrawn and next(iter(self.withdrawn.values())) < self.now - EXPIRY:
            del self.withdrawn[next(iter(self.withdrawn))]
        self.withdrawn |= {id_: self.now for id_ in needless if id_ not in held}
        self.released.append((node, needless))
        return needless

    def drain(self, node: str) -> None:
        self.drained.add(node)

    def _current_nodes(self, volumes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the nodes of volumes, given with their incarnations, if none has been given up."""
        nodes: list[str] = []
        for node, incarnation in volumes:
            self._check_current(node, incarnation)
            nodes.append(node)
        return tuple(nodes)

    def _check_current(self, node: str, incarnation: str) -> None:
        if self.volumes.get(node) != incarnation:
            raise StaleVolumeError(f"{incarnation!r} is not the volume of node {node} any more")
