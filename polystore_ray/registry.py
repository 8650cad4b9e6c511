"""The registry of a store: a mapping from a backend's key to the proxy of that backend."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from polystore.arguments import seconds
from polystore.backend_registry import backend_class, backend_keys
from polystore.base import StorageBackend
from polystore.exceptions import (
    BackendNotFoundError,
    InvalidPathError,
    StorageError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.notebooks import text
from polystore.registration import backend_key
from polystore_ray import page
from polystore_ray.client.hosted import HostedBackend
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.config.backends import options_of_backends, split_key
from polystore_ray.config.home import Home, made_here
from polystore_ray.config.store import StoreOptions, check_timeout
from polystore_ray.deadline import Deadline
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.node_backends import OnNode
from polystore_ray.ray_extra import needs_ray
from polystore_ray.status import StoreStatus
from polystore_ray.transport.in_process import LocalTransport
from polystore_ray.wire.classes import class_from_bytes, custom_classes, is_newer

__all__ = ["RayBackendRegistry"]

_STORE_NAME = re.compile(r"[\w.-]+")
_LOCAL_VARIABLE = "POLYSTORE_RAY_LOCAL"


class RayBackendRegistry(Mapping[str, StorageBackend]):
    """A mapping from a backend's key to that backend, shared by every process of a Ray cluster.

    It behaves like `polystore.BackendRegistry`, and a key may name a node: ``["disk"]`` is the disk
    of the caller's node, ``["disk@node-2"]`` that of another (see `on`). Creating a registry starts
    nothing; the first use of a backend starts what it needs: Ray, unless this process is connected,
    the store's controller, and a host for the backend on its node.

    A registry travels to tasks and actors as an argument or in a closure, and a
    ``RayBackendRegistry()`` that a task makes for itself is the same store. Classes of custom
    backends travel with it, also those defined in ``__main__``.

    A pickled registry remembers its cluster, job and store. In any process that can reach the
    cluster (a spawned child, a worker of a ``DataLoader`` or of Dask, a task of another job) it is
    the same store; the process connects to that cluster and starts none. If the store cannot be
    reached, or has ended, every operation raises `StoreUnavailableError`. A new
    ``RayBackendRegistry()`` in such a process is a store of its own job.

    Parameters
    ----------
    store : str, default "default"
        The store's name: letters, digits, ``_``, ``.`` and ``-``.
    lifetime : {"job", "detached"}, default "job"
        A store of a job is seen by no other job and ends with its own. A detached store is shared
        by all jobs that ask for its name, and ends with `shutdown`.
    local : bool, optional
        Whether to use a store in this process without Ray, for tests. By default, the environment
        variable ``POLYSTORE_RAY_LOCAL`` decides.
    timeout : float, default 60.0
        Seconds that one call may wait for the cluster, all its waits together. The first use in a
        process may wait as long for the store to start.
    max_bytes : int, optional
        The limit for all values in the memory together. A save beyond it is refused, unless
        `eviction` makes room.
    pin_budget : float, optional
        The part of a node's object store whose values are held in place, half of it by default.
        The oldest values beyond it become ordinary objects of Ray, which spills them when it needs
        room; at 80 %, saves wait for that.
    replicas : int, default 1
        On how many nodes each value of the memory is held before its save returns. From 2 on, the
        loss of any one process or node loses and undoes nothing that was acknowledged.
    too_few_nodes : {"error", "warn"}, default "error"
        Whether a save fails, or warns, if the cluster has fewer nodes.
    backends : mapping, optional
        Options for the constructors of backends in every host, such as
        ``{"disk": {"root": "/data"}}``; the key ``"disk@node-2"`` adds options for nodes of that
        name. Options that a constructor does not take are refused.
    host_calls : int, default 256
        How many calls one host takes at a time; a further one raises `HostBusyError`, and a batch
        waits.
    read_cache : int, optional
        Bytes of loaded files that each host keeps, an eighth of its node's object store by
        default; 0 for none. A changed file is read again.
    read_leases : bool, optional
        Whether processes keep what they read repeatedly from the memory, and read it again without
        a call, never an older value than a call would return; True by default.
    leased_bytes : int, optional
        Bytes of small values that each process keeps for it; 32 MiB by default.
    eviction : {"lru"}, optional
        Whether values that are saved with ``evictable=True`` make room for others beyond
        `max_bytes`, the one used longest ago first. By default, nothing does.

    The options from ``max_bytes`` on belong to the store. Its first user sets them; later users
    omit them or repeat the same values.

    Raises
    ------
    BackendNotFoundError
        By ``[]``, if no backend has the key.
    StoreUnavailableError
        By every operation, if the cluster or the store's controller does not answer, or if the
        store of a pickled registry has ended.
    VFSTypeError
        If an option has the wrong type or is out of range.

    Examples
    --------
    >>> from polystore import FileManager
    >>> fm = FileManager(RayBackendRegistry(local=True))
    >>> fm.save([1, 2], "/notes", backend="memory")
    >>> fm.load("/notes", backend="memory")
    [1, 2]
    """

    def __init__(
        self,
        store: str = "default",
        *,
        lifetime: Literal["job", "detached"] = "job",
        local: bool | None = None,
        timeout: float = 60.0,
        max_bytes: int | None = None,
        pin_budget: float | None = None,
        replicas: int | None = None,
        too_few_nodes: Literal["error", "warn"] | None = None,
        backends: Mapping[Any, Mapping[str, Any]] | None = None,
        host_calls: int | None = None,
        read_cache: int | None = None,
        read_leases: bool | None = None,
        leased_bytes: int | None = None,
        eviction: Literal["lru"] | None = None,
    ) -> None:
        if not isinstance(store, str) or not _STORE_NAME.fullmatch(store):
            raise InvalidPathError(
                "the name of a store may contain letters, digits, '_', '.' and '-' only",
                path=str(store),
            )
        if lifetime not in ("job", "detached"):
            raise VFSTypeError(f"lifetime must be 'job' or 'detached', not {lifetime!r}")
        self._store = store
        self._lifetime = lifetime
        self._timeout = check_timeout(timeout)
        self._home = made_here()
        made_with = options_of_backends(backends)
        self._options = StoreOptions(
            max_bytes,
            pin_budget,
            replicas,
            too_few_nodes,
            made_with,
            host_calls,
            read_cache,
            read_leases,
            leased_bytes,
            eviction,
        )
        if local is None:
            local = os.environ.get(_LOCAL_VARIABLE, "").lower() not in ("", "0", "false", "no")
        self._local = local
        self._shipped: dict[str, bytes] = {}
        self._proxies: dict[str, StorageBackend] = {}

    def __repr__(self) -> str:
        mode = ", local=True" if self._local else ""
        return f"{type(self).__name__}({self._store!r}, lifetime={self._lifetime!r}{mode})"

    def _repr_html_(self) -> str:
        try:
            if self.in_use():
                return self.status()._repr_html_()
            return f"{text(self)}: not in use yet"
        except StorageError as error:
            return f"{text(self)}: {text(error)}"

    def __eq__(self, other: object) -> bool:
        # Not by comparing backends, as mappings do: that would create them all.
        return (
            isinstance(other, RayBackendRegistry)
            and self._named == other._named
            and (self._home == other._home or self._travelling()[:4] == other._travelling()[:4])
        )

    def __hash__(self) -> int:
        return hash(self._named)

    @property
    def _named(self) -> tuple[str, str, bool]:
        return self._store, self._lifetime, self._local

    def __getitem__(self, key: object) -> Any:
        whole = backend_key(key)
        name, node = split_key(whole)
        if name == "memory":
            if node is not None:
                raise UnsupportedOperationError(
                    "the memory is the same on all nodes; use the key 'memory' without a node; its "
                    "method `locations` returns where the bytes of its values are",
                    backend=whole,
                )
            return self._proxies.get(name) or self._proxies.setdefault(
                name, ClusterMemoryBackend(self._connect, self)
            )
        cls = self._class(name)
        proxy = self._proxies.get(whole)
        # A class defined again under the same key (a notebook cell run twice) is a new one.
        if not isinstance(proxy, HostedBackend) or proxy.hosted_class is not cls:
            proxy = self._proxies[whole] = HostedBackend(name, cls, self._connect, node)
        return proxy

    def on(self, node: str) -> Mapping[str, StorageBackend]:
        """Return the backends of a node, whichever node the caller is on.

        ``registry.on("node-2")["disk"]`` is ``registry["disk@node-2"]``. The node is looked for
        when a backend is used.

        Parameters
        ----------
        node : str
            The node's id or at least 8 digits of it, its host name, its address, the name it was
            started with, or one of its labels as ``key=value``. Case does not matter.

        Raises
        ------
        NodeNotFoundError
            By every operation of a backend, if the name fits no node or several nodes.

        Examples
        --------
        >>> registry = RayBackendRegistry("placed", local=True)
        >>> registry.on("local")["disk"]
        HostedBackend('disk@local')
        """
        return OnNode(self, node)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*backend_keys(), *self._shipped, *self._of_the_store())))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def in_use(self) -> list[str]:
        """Return the key of the memory if the store has started. Nothing is started."""
        return [] if self._connect(create=False) is None else ["memory"]

    def __contains__(self, key: object) -> bool:
        try:
            name, node = split_key(backend_key(key))
        except VFSTypeError:
            return False
        if node is not None and name == "memory":
            return False
        return name in backend_keys() or name in list(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (
            self._store,
            self._lifetime,
            self._timeout,
            self._options,
            self._local,
            self._travelling(),
            {} if self._local else self._shipped | custom_classes(),
        )

    def _travelling(self) -> Home:
        """Return where the store is, for another process, if this one has used Ray."""
        if self._local or "ray" not in sys.modules:
            return self._home
        from polystore_ray.transport.connect import home_of

        return home_of(self._store, self._lifetime, self._home)

    def status(self) -> StoreStatus:
        """Describe the store: what it holds, inline, pinned and adopted, and on which nodes.

        Examples
        --------
        >>> registry = RayBackendRegistry("described", local=True)
        >>> registry["memory"].save(b"abc", "/a")
        >>> registry.status().files
        1
        """
        status: StoreStatus = self._connect().status()
        return status

    ui = page.ui

    def drain(self, node: str, timeout: float = 60.0) -> int:
        """Copy a node's values to other nodes, before it leaves.

        Nodes that Ray announces as leaving are drained automatically.

        Parameters
        ----------
        node : str
            The node's id.
        timeout : float, default 60.0
            Seconds to wait.

        Returns
        -------
        int
            How many objects only that node still holds: 0 if it may leave.

        Raises
        ------
        StoreUnavailableError
            If the node is not in the cluster.
        """
        return int(self._connect().drain(node, seconds(timeout, "timeout")))

    def shutdown(self) -> None:
        """End the store, in every process, with everything its memory holds.

        Files and zarr arrays stay. The next use starts an empty store. It does nothing if the store
        has not been started, or has ended.
        """
        try:
            # With no options: shutdown is the cure where they differ from those of the store.
            transport = self._connect(create=False, options=StoreOptions())
        except StoreUnavailableError as error:
            if not error.has_ended:
                raise
            transport = None
        self._home = self._home._replace(store_id="")
        if transport is not None:
            self._disconnect(transport)
            transport.shutdown()

    def _class(self, name: str) -> Any:
        shipped = self._shipped.get(name)
        try:
            cls = backend_class(name)
        except BackendNotFoundError:
            shipped = shipped or self._of_the_store().get(name)
            if shipped is None:
                raise
            return class_from_bytes(shipped)
        # Another registry may have brought a former version into this process.
        return class_from_bytes(shipped) if shipped and is_newer(shipped, cls) else cls

    def _of_the_store(self) -> dict[str, bytes]:
        """Return the custom classes of other processes in the store, if it has started."""
        transport = self._connect(create=False)
        return {} if transport is None else transport.shipped_classes()

    def _connect(self, *, create: bool = True, options: StoreOptions | None = None) -> Any:
        name, options = (self._store, self._lifetime), options or self._options
        if self._local:
            self._home.require_here()
            return LocalTransport.of(*name, options).by(Deadline(self._timeout))
        with needs_ray():  # late: it takes a second
            from polystore_ray.transport.connect import connect

        return connect(*name, self._timeout, options, home=self._home, create=create)

    def _disconnect(self, transport: Any) -> None:
        if self._local:
            LocalTransport.forget(self._store, self._lifetime)
            return
        from polystore_ray.transport.connect import disconnect

        disconnect(transport)


def _rebuilt(
    store: str,
    lifetime: Literal["job", "detached"],
    timeout: float,
    options: StoreOptions,
    local: bool,
    home: Home,
    shipped: dict[str, bytes],
) -> RayBackendRegistry:
    # Nothing is refused here: a pool would lose the error and hang.
    registry = RayBackendRegistry(store, lifetime=lifetime, local=local, timeout=timeout)
    registry._options = options  # noqa: SLF001 - the other half of __reduce__
    registry._shipped = shipped  # noqa: SLF001 - as above
    registry._home = home  # noqa: SLF001 - as above
    return registry
