"""The actor of a host: one backend on one node."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import ray

from polystore_ray.actors.base import FindController, Hosting, StoreOf, as_actor, put
from polystore_ray.config.backends import options_on
from polystore_ray.hosting.backend_host import MOST_CALLS, BackendHost
from polystore_ray.hosting.malloc import give_back_at_once
from polystore_ray.hosting.read_cache import ReadCache, Shared
from polystore_ray.rayapi.errors import of_user_code
from polystore_ray.rayapi.placement import known_nodes, object_store_bytes
from polystore_ray.wire.classes import carried
from polystore_ray.wire.envelope import Message, as_message, open_message

__all__ = ["HostActor"]

logger = logging.getLogger(__name__)

_CACHED = 8  # a host keeps that part of its node's object store


class _Host(Hosting):
    """The host of one backend on one node."""

    def __init__(
        self,
        controller: Any,
        store: StoreOf,
        find_controller: FindController,
        key: str,
        shipped: bytes,
    ) -> None:
        give_back_at_once()
        here = ray.get_runtime_context().get_node_id()
        this = next(node for node in known_nodes() if node.id == here)
        options = store.options
        made_with = options_on(options.backends, key, this)
        self._shipped = shipped
        self._host = BackendHost(key, shipped, made_with, options.host_calls or MOST_CALLS)
        kept = options.read_cache
        if kept is None:
            kept = object_store_bytes(here) // _CACHED
        self._cache = ReadCache(put, kept)
        super().__init__(controller, store, find_controller)

    def call(self, message: Message) -> Message | Shared:
        """Run a method of the backend; see `BackendHost.call`."""
        return self._answer(message)

    @ray.method(concurrency_group="transfer")
    def transfer(self, message: Message) -> Message | Shared:
        """Run a method that calls other hosts.

        In threads of its own: two hosts all of whose threads waited for each other would do so for
        ever.
        """
        return self._answer(message)

    def _answer(self, message: Message) -> Message | Shared:
        try:
            with self._host.admitted():
                method, arguments, options = open_message(message)
                run = partial(self._host.call, method, arguments, options)
                if method != "load" or len(arguments) != 1 or options:
                    return as_message(run())
                [path] = arguments
                identify = partial(self._host.content_identity, path)
                return self._cache.load(path, identify, run)
        except Exception as error:  # noqa: BLE001 - see below
            # A backend's own error may be one that no other process could read.
            error = of_user_code(error)
            raise carried(error) from error.__cause__

    @ray.method(concurrency_group="manage")
    def status(self) -> dict[str, int]:
        """Return what the host does and keeps."""
        return {**self._cache.status(), "hosted_calls": self._host.calls}

    @ray.method(concurrency_group="manage")
    def shipped(self) -> bytes:
        """Return the backend's class, for another controller."""
        return self._shipped

    @ray.method(concurrency_group="manage")
    def close(self) -> None:
        """End in order; see `BackendHost.close`."""
        self._host.close()

    def _end(self) -> None:
        try:
            self._host.close()
        except Exception:
            # Whatever it is, this process ends.
            logger.warning("the backend did not close", exc_info=True)


HostActor = as_actor(concurrency_groups={"watch": 1, "manage": 2, "transfer": 4})(_Host)
