"""Chaos in a real network: links between nodes are cut, slow or lossy, one way or both ways."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from polystore_ray.testing.chaos import Chaos
from polystore_ray.testing.network_nodes import HEAD, NetworkNodes
from polystore_ray.testing.switch import Fate

__all__ = ["NetworkChaos"]

_CUT = Fate(loss=1.0)
_GIVEN_UP_WITHIN = 90.0  # seconds until Ray declares a silent node dead


class NetworkChaos(Chaos):
    """A cluster of nodes in network namespaces, and injected faults of its network.

    - `folder`, `seed`, `nodes`, `clients`, `heal_timeout`: same as for `Chaos`
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        nodes: NetworkNodes,
        clients: int = 6,
        heal_timeout: float = 120.0,
    ) -> None:
        self._net = nodes
        super().__init__(folder, seed, nodes, clients, heal_timeout)

    def kinds(self) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        for how, one_way, turned in (
            ("both ways", False, False),
            ("in its sending", True, False),
            ("in its hearing", True, True),
        ):
            both = not one_way
            found[f"controller cut from its follower {how}"] = self._cutter(
                self._follower, both=both, turned=turned
            )
            found[f"client cut from the controller {how}"] = self._cutter(
                self._client_port, both=both, turned=not turned
            )
            found[f"worker cut from the head {how} until Ray gave it up"] = self._giver_up(
                both=both, turned=not turned
            )
        return found | {
            "workers cut from each other": self._cut_workers,
            "node with late packets": lambda: self._worsen_links(Fate(delay=0.15)),
            "node with lost packets": lambda: self._worsen_links(Fate(loss=0.1)),
            "node with late and lost packets": lambda: self._worsen_links(Fate(0.05, 0.05)),
        }

    def _cutter(self, find: Callable[[], int], *, both: bool, turned: bool) -> Callable[[], None]:
        def cut() -> None:
            other = find()
            one, two = (other, HEAD) if turned else (HEAD, other)
            self._for_a_while(lambda fate: self._net.set(one, two, fate, both=both), _CUT)

        return cut

    def _giver_up(self, *, both: bool, turned: bool) -> Callable[[], None]:
        def give_up() -> None:
            before = self._lost_hosts()
            port = self._random.choice(self._net.others())
            one, two = (port, HEAD) if turned else (HEAD, port)
            self._net.set(one, two, _CUT, both=both)
            start = time.monotonic()
            given_up = False
            while not given_up and time.monotonic() - start < _GIVEN_UP_WITHIN:
                time.sleep(0.5)
                given_up = self._net.is_given_up(port)
            self._net.set(one, two, Fate(), both=both)
            way = "both ways" if both else ("in its hearing" if one == HEAD else "in its sending")
            verdict = "was given up by Ray after" if given_up else "was not given up by Ray within"
            self.report.notes.append(
                f"a worker cut from the head {way} {verdict} {time.monotonic() - start:.0f} s"
            )
            if given_up:
                self._start_clients_of(self._net.replace(port))
                self._wait_until_noticed(before)

        return give_up

    def _cut_workers(self) -> None:
        one, other = self._random.sample([port for port in self._net.ports() if port != HEAD], 2)
        both = self._random.random() < 0.5
        self._for_a_while(lambda fate: self._net.set(one, other, fate, both=both), _CUT)

    def _worsen_links(self, fate: Fate) -> None:
        port = self._random.choice(self._net.ports())

        def worsen(fate: Fate) -> None:
            for other in self._net.ports():
                if other != port:
                    self._net.set(port, other, fate)

        self._for_a_while(worsen, fate)

    def _for_a_while(self, worsen: Callable[[Fate], None], fate: Fate) -> None:
        worsen(fate)
        try:
            time.sleep(self._random.uniform(1.0, 6.0))
        finally:
            worsen(Fate())

    def _follower(self) -> int:
        node = self.registry.status().follower
        ports = [port for port in self._net.ports() if port != HEAD]
        return self._net.port(node) if node in set(self._net) else self._random.choice(ports)

    def _client_port(self) -> int:
        where = {self._net.port(node) for node, _, _ in self._clients.values()} - {HEAD}
        return self._random.choice(sorted(where) or self._net.others())
