"""The follower of a controller: where it is, and who is tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from polystore_ray.config.store import StoreOptions
from polystore_ray.errors import HostLostError
from polystore_ray.replication import leadership


class FlakyPeers:
    """Two nodes, of which the other one cannot follow at first."""

    def __init__(self) -> None:
        self.failures = 1
        self.tried = 0

    def candidates(self, present: str | None) -> list[str]:
        return [] if present == "other" else ["other", *(() if present else ("ours",))]

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        if node == "other":
            self.tried += 1
            if self.tried <= self.failures:
                raise HostLostError("the network lost the answer", backend="memory")

    def append(self, node: str, epoch: int, first: int, records: list[Any]) -> None:
        """Take everything."""

    def forget(self, epoch: int, *, but: str) -> None:
        """Let go of nothing."""


def test_a_follower_leaves_the_node_of_its_controller_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leadership, "_LOOKED_FOR_BETTER_EVERY", 0.01)
    succession: Any = SimpleNamespace(
        options=StoreOptions(replicas=2), epoch=1, check=lambda: None, designate=lambda _node: None
    )
    peers: Any = FlakyPeers()
    made = leadership.Leadership(succession, peers, lambda _node, _ids: None)
    made.use()
    keeping = threading.Thread(target=made.keep_follower)
    keeping.start()
    seen: list[str] = []
    end = time.monotonic() + 30
    while "other" not in seen and time.monotonic() < end:
        follower = made.journal.follower
        if follower is not None and follower.node not in seen:
            seen.append(follower.node)
        time.sleep(0.001)
    made.journal.fence()
    keeping.join()
    assert seen == ["ours", "other"]
    assert peers.tried == 2
