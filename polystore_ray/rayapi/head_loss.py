"""What a store would lose with Ray's head node."""

from __future__ import annotations

__all__ = ["LASTING", "lost_with_head"]

LASTING = frozenset({"redis", "rocksdb"})
"""Control stores of Ray that a new head can read again."""


def lost_with_head(
    control_store: str | None,
    head: str | None,
    follower: str | None,
    job: str | None,
    replicas: int,
) -> tuple[str, ...]:
    """Return why a store, or a part of it, would not outlive the loss of the head; with the cures.

    - `control_store`: where Ray keeps its control store; see `ray_internals.control_store`
    - `head`, `follower`: the ids of the head and of the node that has the other copy of the tree
    - `job`: the job that the store ends with, if any
    - `replicas`: of each value

    Examples
    --------
    >>> lost_with_head("redis", "a", "b", None, 2)
    ()
    >>> lost_with_head("memory", "a", "b", None, 2)[0].partition(":")[0]
    "Ray's control store is in the head's memory"
    """
    found = []
    if control_store is None:
        found.append("Ray does not say where it keeps its control store")
    elif control_store not in LASTING:
        found.append(
            "Ray's control store is in the head's memory: start the head with RAY_REDIS_ADDRESS"
        )
    if job is not None:
        found.append('the store ends with its job: use lifetime="detached"')
    if follower is None or follower == head:
        found.append("no other node has a copy of the tree: add a node")
    if replicas < 2:
        found.append("values that only the head holds: use replicas=2")
    return tuple(found)
