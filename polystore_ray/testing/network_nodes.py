"""A Ray cluster whose nodes are in separate network namespaces."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray

from polystore_ray.testing.network import Network
from polystore_ray.testing.nodes import MIB
from polystore_ray.testing.switch import Fate

__all__ = ["HEAD", "OURS", "NetworkNodes"]

HEAD, OURS = 0, 1
"""The ports of the head and of this process's node. These two nodes are never lost."""

_PORT = 6379
_STARTS_WITHIN = 90.0  # seconds
_ENDS_WITHIN = 20.0  # seconds
_ATTEMPTS = 3  # at starting a node
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    # Nodes on one machine would all export the same metrics.
    "RAY_enable_metrics_collection": "0",
    "RAY_AUTH_MODE": "disabled",  # no other host reaches this network
}


class NetworkNodes:
    """A cluster whose nodes are connected by a network that can be cut, slow and lossy.

    This process enters the namespace of the second node and is a driver there.

    - `count`: the number of nodes; at least 3

    - `network`: the network between the nodes
    """

    watched = ""

    def __init__(self, count: int = 3) -> None:
        self.network = Network(count)
        # The path of a socket has at most 107 bytes, so Ray's directory needs a short path.
        self._folder = Path(tempfile.mkdtemp(prefix="psn-"))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._started = 0
        try:
            for port in range(count):
                self._start(port)
            self.network.enter(OURS)
            ray.init(
                address=f"{self.network.addresses[HEAD]}:{_PORT}",
                _node_ip_address=self.network.addresses[OURS],
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except BaseException:
            self.close()
            raise
        self._ids = self._known()

    def __iter__(self) -> Iterator[str]:
        return iter([self._ids[port] for port in sorted(self._ids)])

    @property
    def head(self) -> str:
        """The id of the head."""
        return self._ids[HEAD]

    def port(self, node: str) -> int:
        """Return the port of a node."""
        return next(port for port, known in self._ids.items() if known == node)

    def ports(self) -> list[int]:
        """Return the ports of all nodes."""
        return sorted(self._ids)

    def others(self) -> list[int]:
        """Return the ports of the nodes that can be lost."""
        return [port for port in self._ids if port not in (HEAD, OURS)]

    def lose_one(self, chance: random.Random) -> str:
        """Kill a node, start a new one in its place, and return the id of the old one."""
        return self.replace(chance.choice(self.others()))

    def replace(self, port: int) -> str:
        """Kill the rest of a node, start a new one in its place, and return the old id."""
        lost = self._ids.pop(port)
        self._kill(port)
        self._start(port)
        deadline = time.monotonic() + _STARTS_WITHIN
        while self._known().get(port, lost) == lost:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ray does not know the new node at port {port}")
            time.sleep(0.2)
        self._ids = self._known()
        return lost

    def is_given_up(self, port: int) -> bool:
        """Return whether Ray has declared a node dead."""
        return self._ids[port] not in self._known().values()

    def are_alive(self) -> bool:
        """Return whether the nodes that Ray knows are exactly these nodes."""
        return self._known() == self._ids

    def set(self, one: int, other: int, fate: Fate, *, both: bool = True) -> None:
        """Set the fate of frames from one node to another; with `both`, also of the way back."""
        self.network.set(one, other, fate)
        if both:
            self.network.set(other, one, fate)

    def close(self) -> None:
        """End the cluster and its network."""
        ray.shutdown()
        for port in sorted(self._processes, reverse=True):
            self._kill(port)
        self.network.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _known(self) -> dict[int, str]:
        """Return the ids of the nodes that Ray considers alive, by port."""
        ports = {address: port for port, address in enumerate(self.network.addresses)}
        return {
            ports[node["NodeManagerAddress"]]: node["NodeID"]
            for node in ray.nodes()
            if node["Alive"]
        }

    def _start(self, port: int) -> None:
        """Start a node, with further attempts if it does not start in Ray's own time limit."""
        for _ in range(_ATTEMPTS - 1):
            with suppress(RuntimeError):
                return self._try_to_start(port)
            self._kill(port)
        return self._try_to_start(port)

    def _try_to_start(self, port: int) -> None:
        address = f"{self.network.addresses[HEAD]}:{_PORT}"
        place = [f"--address={address}"]
        if port == HEAD:
            place = ["--head", f"--port={_PORT}", "--include-dashboard=false"]
            place.append(f"--temp-dir={self._folder}")
        command = [*self.network.inside(port), str(Path(sys.executable).with_name("ray"))]
        command += ["start", *place, f"--node-ip-address={self.network.addresses[port]}"]
        command += ["--num-cpus=2", f"--object-store-memory={150 * MIB}", "--block"]
        self._started += 1
        log = self._folder / f"node-{self._started}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                env=os.environ | _SETTINGS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[port] = process
        deadline = time.monotonic() + _STARTS_WITHIN
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"node {port} did not start: {said[-800:]}")
            time.sleep(0.1)

    def _kill(self, port: int) -> None:
        """Kill all processes in a namespace; in this process's own, only those of the node."""
        process = self._processes.pop(port)
        if port == OURS:
            process.send_signal(signal.SIGTERM)  # `ray start --block` ends its node's processes
            try:
                process.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in self.network.processes(port):
            if pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
