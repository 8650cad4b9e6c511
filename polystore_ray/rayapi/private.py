"""What Ray tells only through private names, as they were read in Ray 2.56 to 2.60."""

from __future__ import annotations

from typing import Any

import ray
from ray.experimental import internal_kv
from ray.util import client as ray_client

__all__ = [
    "FREES_SOON",
    "actor_id",
    "allow_blocking_get",
    "authentication_mode",
    "cluster_address",
    "cluster_id",
    "connection",
    "control_store",
    "draining_nodes",
    "forget",
    "greet",
    "is_client",
    "job_is_dead",
    "recall",
    "recorded_address",
    "remember",
    "remembered",
    "session_directory",
    "spilled_bytes",
    "store_stats",
    "waiting_actors",
]


FREES_SOON = {"RAY_free_objects_period_milliseconds": "100"}
"""The environment of a Ray whose object store gives freed memory back ten times a second.

By default it does so once a second, and saves in a loop always meet new pages: measured, 2.4 GB/s
instead of 11.
"""


def allow_blocking_get() -> None:
    """Let threads of an asyncio actor call `ray.get` without Ray's warning.

    Ray warns once, whichever thread calls; no other thread than the event loop's blocks it.
    """
    ray._private.worker.blocking_get_inside_async_warned = True  # noqa: SLF001


def actor_id(actor: Any) -> str:
    """Return the id of the actor that a handle leads to."""
    found: str = actor._actor_id.hex()  # noqa: SLF001 - Ray documents no other
    return found


def job_is_dead(job: str) -> bool:
    """Return whether a job's driver is gone, also after a SIGKILL.

    What Ray documents for it needs its dashboard.
    """
    jobs: list[dict[str, Any]] = ray._private.state.jobs()  # noqa: SLF001 - see above
    return any(known["JobID"] == job and known["IsDead"] for known in jobs)


def spilled_bytes(node: dict[str, Any], timeout: float) -> int | None:
    """Return how many bytes of a node's objects, of any owner, have been written to its disk.

    Parameters
    ----------
    node : dict
        The node as `ray.nodes` lists it.
    timeout : float
        Seconds to wait for the node.

    Returns
    -------
    int or None
        None where this cannot be asked: without grpcio, which ``ray[default]`` brings, or of a
        node that does not answer.
    """
    stats = store_stats(node, timeout)
    return None if stats is None else int(stats.spilled_bytes_total)


def store_stats(node: dict[str, Any], timeout: float) -> Any:
    """Return what a node says of its object store; the same as for `spilled_bytes`."""
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc
    except ImportError:
        return None
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    stub = node_manager_pb2_grpc.NodeManagerServiceStub(init_grpc_channel(address))
    messages: Any = node_manager_pb2  # whose types know nothing of what is in it
    request = messages.GetNodeStatsRequest(include_memory_info=False)
    try:
        return stub.GetNodeStats(request, timeout=timeout).store_stats
    except grpc.RpcError:
        return None


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that Ray has announced as leaving."""
    return set(ray._private.state.state.get_draining_nodes())  # noqa: SLF001 - as above


def _key_values() -> Any:
    """Return Ray's key-value store, connected.

    The end of another connection of this process, such as one to a proxy, leaves it unconnected.
    """
    worker = ray._private.worker.global_worker  # noqa: SLF001 - as above
    if not internal_kv._internal_kv_initialized() and hasattr(worker, "gcs_client"):  # noqa: SLF001 - as above
        internal_kv._initialize_internal_kv(worker.gcs_client)  # noqa: SLF001 - as above
    return internal_kv


_KEPT = b"polystore"  # the namespace in Ray's own key-value store, which lives as its cluster does


def remember(key: str, value: bytes, *, overwrite: bool = True) -> bool:
    """Keep a small value as long as the cluster lives.

    Returns
    -------
    bool
        Whether it is kept: without `overwrite`, only if the key had no value. The check and the
        change are one step.
    """
    existed = _key_values()._internal_kv_put(key.encode(), value, overwrite, namespace=_KEPT)  # noqa: SLF001 - as above
    return overwrite or not existed


def recall(key: str) -> bytes | None:
    """Return what was kept, None for nothing."""
    kept: bytes | None = _key_values()._internal_kv_get(key.encode(), namespace=_KEPT)  # noqa: SLF001 - as above
    return kept


def remembered(prefix: str) -> list[str]:
    """Return the keys with a prefix that have a value."""
    keys = _key_values()._internal_kv_list(prefix.encode(), namespace=_KEPT)  # noqa: SLF001 - as above
    return [key.decode() for key in keys]


def forget(key: str) -> None:
    """Keep a value no longer."""
    _key_values()._internal_kv_del(key.encode(), namespace=_KEPT)  # noqa: SLF001 - as above


def control_store() -> str | None:
    """Return where Ray's head keeps its control store: ``memory``, ``redis`` or ``rocksdb``.

    None where Ray does not say. The head notes it when it starts, whether usage is reported or not.
    """
    noted: bytes | None = _key_values()._internal_kv_get(  # noqa: SLF001 - as above
        b"extra_usage_tag_gcs_storage", namespace=b"usage_stats"
    )
    return None if noted is None else noted.decode()


def waiting_actors() -> list[str]:
    """Return the names of the actors, of whomever, that have no process yet.

    What Ray documents for it needs its dashboard.
    """
    waiting = ray._private.state.actors(actor_state_name="PENDING_CREATION")  # noqa: SLF001 - as above
    return sorted(actor["Name"] or actor["ActorClassName"] for actor in waiting.values())


def authentication_mode() -> str:
    """Return how this process proves to a cluster who it is: ``token`` or ``disabled``."""
    from ray import _raylet
    from ray._private.authentication.authentication_utils import get_authentication_mode_name

    compiled: Any = _raylet  # whose types are not known
    return str(get_authentication_mode_name(compiled.get_authentication_mode()))


def recorded_address(wanted: str | None = "auto") -> str | None:
    """Return the address of a cluster of this machine, as Ray finds it for ``auto``.

    It may be that of a cluster that has ended.

    - `wanted`: None to be given None where there is none

    Raises `ConnectionError` if there is none.
    """
    from ray._private.services import get_ray_address_from_environment

    find: Any = get_ray_address_from_environment  # whose types know nothing of None
    address: str | None = find(wanted, None)
    return address


def greet(address: str) -> None:
    """Return when the control store of a cluster has answered; it may take most of a minute."""
    from ray import _raylet
    from ray._private.authentication import authentication_token_setup

    # Ray's compiled code ends a process that has no token for a cluster that wants one.
    setup: Any = authentication_token_setup
    setup.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    compiled: Any = _raylet  # whose types are not known
    compiled.GcsClient(address=address)


def cluster_address() -> str:
    """Return the address by which another process of this machine reaches this cluster."""
    if is_client():
        server: str = ray_client.ray.get_context().client_worker._conn_str  # noqa: SLF001 - as above
        return f"ray://{server}"
    return str(ray.get_runtime_context().gcs_address)


def connection() -> Any:
    """Return what tells this process's connection to a cluster from the next; None without one.

    It costs 0.2 us, of which most reads of a cache have none to spare.
    """
    return ray._private.worker.global_worker.node if ray.is_initialized() else None  # noqa: SLF001 - as above


def session_directory() -> str:
    """Return the directory in which Ray keeps the files of this cluster on this machine."""
    node: Any = ray._private.worker.global_worker.node  # noqa: SLF001 - as above
    return str(node.get_session_dir_path())


def is_client() -> bool:
    """Return whether this process reaches its cluster through a proxy (``ray://``)."""
    return bool(ray_client.ray.is_connected())


def cluster_id() -> str:
    """Return what tells this cluster from others, also from a later one at its address."""
    kept: bytes = _key_values()._internal_kv_get(b"session_name", namespace="session")  # noqa: SLF001 - as above
    return kept.decode()
