"""What a store opens to the network: nothing of its own, beside what any actor of Ray does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry

pytestmark = pytest.mark.usefixtures("ray_cluster")

LISTENING = "0A"  # as /proc/net/tcp says it


@pytest.fixture
def fm() -> Iterator[FileManager]:
    registry = RayBackendRegistry("network")
    yield FileManager(registry)
    registry.shutdown()


def ports_of(pid: int) -> set[str]:
    """Return the addresses that a process listens at."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            sockets.add(link.readlink().name)
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1])
    return found


def test_the_processes_of_a_store_listen_at_no_port_that_others_do_not(
    fm: FileManager, tmp_path: Path
) -> None:
    @ray.remote(num_cpus=0)
    class Plain:
        def pid(self) -> int:
            return os.getpid()

    plain = Plain.remote()  # type: ignore[attr-defined]
    usual = len(ports_of(ray.get(plain.pid.remote())))
    mine = ports_of(os.getpid())
    fm.save(np.zeros(50_000), "/a", backend="memory")
    fm.load("/a", backend="memory")
    fm.save([1], tmp_path / "a.json", backend="disk")
    actors = ray._private.state.actors(actor_state_name="ALIVE").values()
    ours = [actor for actor in actors if "@" in actor["Name"] or actor["Name"] == "controller"]
    assert len(ours) >= 3  # the controller, the volume and the host of the disk
    assert {len(ports_of(actor["Pid"])) for actor in ours} == {usual}
    assert ports_of(os.getpid()) == mine
