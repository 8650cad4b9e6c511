"""Succession: what the cluster remembers of a store, so that one controller can follow another."""

from __future__ import annotations

import pickle
import secrets
import threading
from typing import NamedTuple

from ray import exceptions as ray_exceptions

from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY
from polystore_ray.ray_errors import translated
from polystore_ray.ray_internals import forget, recall, remember

__all__ = ["Origin", "Succession", "has_ended"]


def has_ended(namespace: str) -> bool:
    """Tell whether a store was shut down, so that nobody should start its controller anew."""
    return recall(_origin_key(namespace)) is None


class Origin(NamedTuple):
    """What stays the same from a store's first controller to its last, and the present epoch."""

    epoch: int
    birth: str
    options: StoreOptions


class Succession:
    """One controller's place among those of its store.

    Whatever it answers, one other process has too: the *successor*, whose node it appoints here.
    Any other copy of the tree may be an old one. Each epoch has an entry of its own, so that a
    controller that is over cannot speak for the present one.

    Parameters
    ----------
    namespace : str
        The store's Ray namespace.
    options : StoreOptions
        What a new store is made with; one that lost its controller keeps its own.
    """

    def __init__(self, namespace: str, options: StoreOptions) -> None:
        self._namespace = namespace
        kept = recall(_origin_key(namespace))
        before = Origin(0, secrets.token_hex(8), options) if kept is None else pickle.loads(kept)
        self.origin = Origin(before.epoch + 1, before.birth, before.options)
        remember(_origin_key(namespace), pickle.dumps(self.origin))
        self._lock = threading.RLock()
        self._appointed: str | None = None

    def inherited(self) -> str | None:
        """Return the node whose copy of the tree is whole.

        An empty one if the tree was used before there was any copy, None if it never was.
        """
        for epoch in range(self.origin.epoch - 1, 0, -1):
            kept = recall(self._key(epoch))
            if kept is not None:
                return kept.decode()
        return None

    def begin(self) -> None:
        """Let the next controller know that there is a tree, of which nobody may have a copy yet.

        Raises
        ------
        StorageError
            If the cluster does not answer.
        """
        with self._lock:
            if self._appointed is None:
                self.appoint("")

    def appoint(self, node: str) -> None:
        """Have the next controller take the tree from this node, and from no other.

        Raises
        ------
        StorageError
            If the cluster does not answer.
        """
        epoch = self.origin.epoch
        with self._lock:
            try:
                remember(self._key(epoch), node.encode())
                forget(self._key(epoch - 1))
            except ray_exceptions.RayError as error:
                raise translated(error, backend=MEMORY) from error
            self._appointed = node

    def end(self) -> None:
        """Let nobody take over any more."""
        forget(_origin_key(self._namespace))
        for epoch in range(1, self.origin.epoch + 1):
            forget(self._key(epoch))

    def _key(self, epoch: int) -> str:
        return f"{self._namespace}/{self.origin.birth}/{epoch}"


def _origin_key(namespace: str) -> str:
    return f"{namespace}/epoch"
