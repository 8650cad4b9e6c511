"""The store that a command works on, chosen by the options that all commands share."""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from polystore import DiskBackend, FileManager
from polystore_ray.interop.plain_memory import plain_memory
from polystore_ray.ray_extra import needs_ray
from polystore_ray.registry import RayBackendRegistry

__all__ = ["THIS_MACHINE", "Session", "shared_options", "with_session"]

THIS_MACHINE = "this-machine"
"""The key under which a command reaches the files of this machine, as this process sees them."""

_OPTIONS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    (("--address",), "RAY_ADDRESS", {"metavar": "HOST:PORT", "help": "The Ray cluster."}),
    (
        ("--store",),
        "POLYSTORE_STORE",
        {"metavar": "NAME", "help": "The store's name; by default, 'default'."},
    ),
    (
        ("--job",),
        "POLYSTORE_JOB",
        {"metavar": "ID", "help": "The job that owns the store; by default, a detached store."},
    ),
    (
        ("--local",),
        "POLYSTORE_RAY_LOCAL",
        {"is_flag": True, "help": "Work in this process, without a cluster."},
    ),
    (("--json", "as_json"), "POLYSTORE_JSON", {"is_flag": True, "help": "Print JSON."}),
)


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to the command group; they are also read from the environment."""
    for names, variable, settings in reversed(_OPTIONS):
        option = click.option(*names, envvar=variable, show_envvar=True, **settings)
        function = option(function)
    return function


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which gets them as a `Session`, its first argument."""

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        names = ("address", "store", "job", "local", "as_json")
        return function(Session(**{name: given.pop(name) for name in names}), **given)

    decorated: Callable[..., Any] = run
    for names, _, settings in reversed(_OPTIONS):
        decorated = click.option(*names, **settings)(decorated)
    return decorated


@dataclass(frozen=True, slots=True)
class Session:
    """The values of the shared options."""

    address: str | None
    store: str | None
    job: str | None
    local: bool
    as_json: bool

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store or "default"

    def connect(self) -> None:
        """Connect to the cluster.

        Raises `Failed` if there is no cluster, or it refuses the connection.
        """
        with needs_ray("a command without --local"):
            from polystore_ray.cli.cluster import connect

        connect(self.address)

    def registry(
        self, *, create: bool = False, options: Mapping[str, Any] | None = None
    ) -> RayBackendRegistry:
        """Return the registry of the store.

        - `create`: whether to create a missing detached store
        - `options`: the options of a store that is created

        Raises `Failed` if the store does not exist.
        """
        if self.local:
            return RayBackendRegistry(self.name, local=True)
        self.connect()
        from polystore_ray.cli.cluster import store

        return store(self.name, self.job, create=create, options=options)

    def files(self, *, create: bool = False, unpickle: bool = False) -> FileManager:
        """Return a file manager on the store; without `unpickle`, it loads only plain data."""
        registry = self.registry(create=create)
        own: dict[str, Any] = {THIS_MACHINE: DiskBackend()}
        if not unpickle:
            own["memory"] = plain_memory(registry)
        return FileManager(ChainMap(own, registry))  # type: ignore[arg-type]
