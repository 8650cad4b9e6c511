"""Faults: kill and pause processes; lose, delay and repeat messages."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore_ray.rayapi import calls
from polystore_ray.rayapi.placement import CONTROLLER, MEMORY, named_hosts

__all__ = ["BadNetwork", "Victims", "is_alive", "kill", "node_of", "pause", "process_of", "worsen"]


class BadNetwork(calls.Network):
    """A faulty network between one process and the actors it calls, for a limited time.

    Parameters
    ----------
    seed : int
        The seed of the faults.
    seconds : float
        How long the network is faulty.
    cut : bool, default False
        Whether all calls are lost. Otherwise one call in four is lost before or after it is
        executed, executed twice, or delayed.
    """

    def __init__(self, seed: int, seconds: float, *, cut: bool = False) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._until = time.monotonic() + seconds
        self._cut = cut

    def send(self, call: Callable[[], Any]) -> Any:
        if time.monotonic() > self._until:
            return call()
        fate = "lost" if self._cut else self._random.choice(_FATES)
        if fate == "late":
            time.sleep(self._random.uniform(0.01, 0.3))
        elif fate == "twice":
            call()
        elif fate == "lost":
            raise ray_exceptions.ActorUnavailableError("the network lost the call", None)
        elif fate == "unanswered":
            ray.wait([call()], timeout=1)
            raise ray_exceptions.ActorUnavailableError("the network lost the answer", None)
        return call()


_FATES = ["fine"] * 12 + ["late", "twice", "lost", "unanswered"]


def worsen(actor: Any, seed: int, seconds: float, *, cut: bool) -> None:
    """Give the process of an actor a faulty network for some seconds."""

    def install(_: Any) -> None:
        calls.network = BadNetwork(seed, seconds, cut=cut)

    ray.get(actor.__ray_call__.remote(install), timeout=10)


def process_of(actor: Any) -> int:
    """Return the id of the process of an actor."""
    found: int = ray.get(actor.__ray_call__.remote(_process_id), timeout=10)
    return found


def node_of(actor: Any) -> str:
    """Return the id of the node of an actor."""
    found: str = ray.get(actor.__ray_call__.remote(_node_id), timeout=10)
    return found


def _node_id(_: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def _process_id(_: Any) -> int:
    return os.getpid()


def kill(pid: int) -> None:
    """Kill a process with SIGKILL, and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return facts.rpartition(")")[2].split()[0] not in ("Z", "X")


def pause(pid: int, seconds: float) -> None:
    """Stop a process with SIGSTOP, and continue it from another thread after some seconds."""
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        time.sleep(seconds)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return

    threading.Thread(target=go_on, daemon=True).start()


class Victims:
    """The processes of one store."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def controller(self) -> Any:
        """Return the controller."""
        return ray.get_actor(CONTROLLER, self._namespace)

    def volumes(self) -> list[Any]:
        """Return the volumes, in the order of their nodes."""
        hosts = named_hosts(self._namespace)
        return [hosts[where] for where in sorted(hosts) if where[0] == MEMORY]

    def volume(self, node: str) -> Any:
        """Return the volume of a node; None if the node has no volume."""
        return named_hosts(self._namespace).get((MEMORY, node))
