"""Faults: processes killed and paused, and messages lost, late and repeated."""

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

__all__ = ["BadNetwork", "Victims", "is_alive", "kill", "pause", "process_of", "worsen"]


class BadNetwork(calls.Network):
    """A network between one process and the actors it calls, that gets better after a while.

    Parameters
    ----------
    seed : int
        What decides over the fate of each call.
    seconds : float
        How long it is bad.
    cut : bool, default False
        Whether nothing gets through. Otherwise one call in four is lost before or after it is
        carried out, made twice, or late.
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
    """Give the process of an actor a bad network for a while."""

    def install(_: Any) -> None:
        calls.network = BadNetwork(seed, seconds, cut=cut)

    ray.get(actor.__ray_call__.remote(install), timeout=10)


def process_of(actor: Any) -> int:
    """Return the id of the process of an actor."""
    found: int = ray.get(actor.__ray_call__.remote(_process_id), timeout=10)
    return found


def _process_id(_: Any) -> int:
    return os.getpid()


def kill(pid: int) -> None:
    """Kill a process, as the memory monitor or an operator would, and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, and not only its remains."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return facts.rpartition(")")[2].split()[0] not in ("Z", "X")


def pause(pid: int, seconds: float) -> None:
    """Stop a process, and let it go on after a while, whatever happens meanwhile."""
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
        """Return the volume of a node, None if there is none."""
        return named_hosts(self._namespace).get((MEMORY, node))
