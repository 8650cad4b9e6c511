"""The status of a store, as `RayBackendRegistry.status` returns it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NodeStatus", "StoreStatus"]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node's part of a store.

    Attributes
    ----------
    node, host : str
        The node's id and its host name.
    backends : tuple of str
        The keys of the backends that have a host there.
    capacity : int or None
        The size of the node's object store in bytes.
    pinned, pinned_bytes : int
        Objects that the node's volume holds in shared memory, and their bytes.
    adopted, adopted_bytes : int
        Objects that the volume owns, which Ray may spill, and their bytes.
    spilled_bytes : int or None
        Bytes of objects of any owner that Ray has written to the node's disk, since it started;
        None where Ray does not tell (it needs grpcio, which ``ray[default]`` brings).
    hosted_calls : int
        Calls that the node's hosts of backends other than ``memory`` are carrying out.
    cached, cached_bytes : int
        Loaded files that these hosts keep for others to load, and their bytes.
    cache_hits, cache_misses : int
        How many whole loads were served from what was kept or being loaded, and how many read.
    silent : tuple of str
        The keys of the backends whose hosts there did not answer in time, so that what they have
        is missing here.
    """

    node: str
    host: str
    backends: tuple[str, ...]
    capacity: int | None
    pinned: int
    pinned_bytes: int
    adopted: int
    adopted_bytes: int
    spilled_bytes: int | None
    hosted_calls: int = 0
    cached: int = 0
    cached_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """A store at a moment.

    Attributes
    ----------
    store : str
        Its name.
    files : int
        Paths in the memory that lead to a value.
    bytes : int
        What these values take; a copy takes nothing.
    max_bytes : int or None
        What they may take at most.
    objects : int
        Objects that hold values: large ones, and packs of small ones.
    inline_values, inline_bytes : int
        Small values that the controller holds itself, and their bytes.
    too_few_replicas : int
        Objects that are on fewer nodes than was asked for, since there are too few nodes, or no
        time was yet.
    lost : int
        Objects that were lost with their node or volume; loading from them raises `DataLostError`.
    epoch : int
        How many controllers the store has had.
    follower : str or None
        The node that has the other copy of the tree, from which the next controller would take
        over; None where there is none at the moment.
    hosts_lost : int
        Hosts that died under the present one.
    answered_in : float
        Seconds that the controller took to answer this question.
    calls : int
        Calls that it was carrying out at that moment, this one among them.
    nodes : tuple of NodeStatus
        The nodes that have a part of the store.
    lost_with_head : tuple of str
        Why the store, or a part of it, would not outlive the loss of Ray's head node, each with
        its cure; empty for a store that outlives it, and for a local one, which has no head.
    """

    store: str
    files: int
    bytes: int
    max_bytes: int | None
    objects: int
    inline_values: int
    inline_bytes: int
    too_few_replicas: int
    lost: int
    epoch: int
    follower: str | None
    hosts_lost: int
    answered_in: float
    calls: int
    nodes: tuple[NodeStatus, ...]
    lost_with_head: tuple[str, ...] = ()
