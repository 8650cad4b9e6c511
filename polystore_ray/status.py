"""The status of a store, as `RayBackendRegistry.status` returns it."""

from __future__ import annotations

from dataclasses import dataclass

from polystore.notebooks import table

__all__ = ["LostValue", "NodeStatus", "StoreStatus"]

# In a notebook
_SHOWN = ("files", "bytes", "max_bytes", "objects", "too_few_replicas", "lost", "follower")
_SHOWN_OF_NODES = ("host", "node", "capacity", "pinned_bytes", "adopted_bytes", "spilled_bytes")


@dataclass(frozen=True, slots=True)
class LostValue:
    """A path in the memory whose bytes are lost.

    Attributes
    ----------
    path : str
        The path. It exists until it is deleted or saved again.
    reason : str
        How the value was lost.
    node, host : str
        The id and the host name of the node with the last copy; empty if they are not known.
    time : float
        When the loss was noticed, in seconds since the epoch.
    cause : str
        The error of Ray.
    fallback : tuple of str or None
        The backend and the path from which the next load restores the value; None if there is none.
    """

    path: str
    reason: str
    node: str
    host: str
    time: float
    cause: str
    fallback: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The part of a store on one node.

    Attributes
    ----------
    node, host : str
        The id and the host name of the node.
    backends : tuple of str
        The keys of the backends that have a host on the node.
    capacity : int or None
        The size of the node's object store in bytes.
    pinned, pinned_bytes : int
        The number of objects that the node's volume holds in shared memory, and their bytes.
    adopted, adopted_bytes : int
        The number of objects that the volume owns, which Ray may spill to disk, and their bytes.
    spilled_bytes : int or None
        Bytes of objects of any owner that Ray has written to the node's disk since it started;
        None if Ray does not report it, which needs grpcio (part of ``ray[default]``).
    hosted_calls : int
        The number of running calls in the node's hosts of backends other than ``memory``.
    cached, cached_bytes : int
        The number of loaded files in the read caches of these hosts, and their bytes.
    cache_hits, cache_misses : int
        The number of whole loads that the read caches served, and that read the file.
    silent : tuple of str
        The keys of the backends whose hosts on the node did not answer in time. Their numbers are
        missing here.
    """

    node: str
    host: str
    backends: tuple[str, ...]
    capacity: int | None = None
    pinned: int = 0
    pinned_bytes: int = 0
    adopted: int = 0
    adopted_bytes: int = 0
    spilled_bytes: int | None = None
    hosted_calls: int = 0
    cached: int = 0
    cached_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The state of a store at one moment.

    Attributes
    ----------
    store : str
        The name of the store.
    files : int
        The number of files in the memory.
    bytes : int
        The total size of their values; copies share their bytes.
    max_bytes : int or None
        The limit of `bytes`; None for no limit.
    objects : int
        The number of objects that hold values: one per large value, and packs of small values.
    inline_values, inline_bytes : int
        The number of small values that the controller itself holds, and their bytes.
    too_few_replicas : int
        The number of objects on fewer nodes than requested, since nodes are missing or the repair
        is not finished.
    lost : int
        The number of values that were lost with their node or volume. Loading one raises
        `DataLostError`; ``registry["memory"].lost()`` lists them.
    epoch : int
        The number of controllers that the store has had.
    follower : str or None
        The node with the second copy of the tree, which the next controller reads; None if there
        is no second copy at the moment.
    hosts_lost : int
        The number of hosts that died since the present controller started.
    answered_in : float
        Seconds that the controller took to answer this request.
    calls : int
        The number of calls that the controller was running, this one included.
    nodes : tuple of NodeStatus
        The nodes that hold a part of the store.
    leases : int
        The number of nodes whose processes may read without a call.
    invalidations : int
        The number of changes under the present controller that had to wait until such nodes heard
        of them.
    evictions : int
        The number of values that were evicted so far.
    lease_hits, lease_misses : int
        The number of reads in this process that needed no call, and that needed one.
    lost_with_head : tuple of str
        The reasons why losing Ray's head node would lose the store or a part of it, each with its
        cure. Empty if the store outlives the head, and in local mode, which has no head.
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
    leases: int = 0
    invalidations: int = 0
    evictions: int = 0
    lease_hits: int = 0
    lease_misses: int = 0
    lost_with_head: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        facts = [(name, getattr(self, name)) for name in _SHOWN]
        nodes = ([getattr(node, name) for name in _SHOWN_OF_NODES] for node in self.nodes)
        return table(facts, caption=f"store {self.store}") + table(nodes, _SHOWN_OF_NODES)
