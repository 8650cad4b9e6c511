"""Succession: what the cluster remembers of a store, so that one controller can follow another.

Ray's control store keeps an *origin* for each store, and a key for each *epoch*. A controller
begins an epoch by creating its key, which only one can; the value is the node of the follower that
this controller has designated, or nothing. Two rules make it safe, whoever stalls and for how long:

* A new controller begins its epoch first, then reads which follower is designated.
* A controller that designates a follower writes that first, then looks whether a later epoch has
  begun, and acknowledges nothing on the follower's account if so.

Either the new controller reads the designation, or the old one learns that it is over.
"""

from __future__ import annotations

import pickle
import secrets
from typing import NamedTuple

from ray import exceptions as ray_exceptions

from polystore_ray.config.store import StoreOptions
from polystore_ray.rayapi.errors import translated
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.rayapi.private import forget, recall, remember, remembered
from polystore_ray.wire.messages import StaleEpochError

__all__ = ["Succession", "has_ended"]


def has_ended(namespace: str) -> bool:
    """Return whether a store was shut down, so that nobody should start its controller anew."""
    return recall(_origin_key(namespace)) is None


class _Origin(NamedTuple):
    """What stays the same from a store's first controller to its last."""

    store_id: str
    options: StoreOptions


class Succession:
    """One controller's place among those of its store.

    Parameters
    ----------
    namespace : str
        The store's Ray namespace.
    options : StoreOptions
        What a new store is made with; one that lost its controller keeps its own.
    """

    def __init__(self, namespace: str, options: StoreOptions) -> None:
        self._namespace = namespace
        new = pickle.dumps(_Origin(secrets.token_hex(8), options), protocol=5)
        if not remember(_origin_key(namespace), new, overwrite=False):
            new = recall(_origin_key(namespace)) or new
        self.store_id, self.options = pickle.loads(new)
        self._epochs = f"{namespace}/{self.store_id}/"
        self.epoch = 1 + max(self._begun(), default=0)
        while not remember(self._key(self.epoch), b"", overwrite=False):
            self.epoch += 1

    def _begun(self) -> list[int]:
        return [int(key.removeprefix(self._epochs)) for key in remembered(self._epochs)]

    def _key(self, epoch: int) -> str:
        return f"{self._epochs}{epoch}"

    def designated(self) -> str | None:
        """Return the node of the follower that has all that was acknowledged before this epoch.

        None if nothing has been acknowledged.
        """
        for epoch in range(self.epoch - 1, 0, -1):
            node = recall(self._key(epoch))
            if node:
                return node.decode()
        return None

    def designate(self, node: str) -> None:
        """Have the next controller take the tree from this node, and from no other.

        Raises
        ------
        StaleEpochError
            If it may have taken over already.
        StorageError
            If the cluster does not answer.
        """
        try:
            remember(self._key(self.epoch), node.encode())
            self.check()
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY) from error

    def check(self) -> None:
        """Raise if another controller has begun.

        Raises
        ------
        StaleEpochError
            If so.
        """
        if recall(self._key(self.epoch + 1)) is not None:
            raise StaleEpochError(f"epoch {self.epoch} of {self._namespace} is over")

    def end(self) -> None:
        """Let nobody take over any more."""
        forget(_origin_key(self._namespace))
        for epoch in self._begun():
            forget(self._key(epoch))


def _origin_key(namespace: str) -> str:
    return f"{namespace}/origin"
