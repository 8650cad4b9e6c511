"""The command line on a cluster: in this process, and as a user has it in one of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry
from tests.cli.commands import Done, run_alone, run_here, says_one_line

pytestmark = pytest.mark.usefixtures("ray_cluster")

LARGE = 50_000


@pytest.fixture(scope="module")
def address(ray_cluster: None) -> str:
    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="module")
def shared(ray_cluster: None) -> Iterator[FileManager]:
    registry = RayBackendRegistry("shared", lifetime="detached")
    fm = FileManager(registry)
    fm.save(np.arange(LARGE), "/plate/A01.npy", backend="memory")
    fm.save("notes", "/notes", backend="memory")
    yield fm
    registry.shutdown()


def test_another_process_reads_copies_and_deletes(
    address: str, shared: FileManager, tmp_path: Path
) -> None:
    assert run_alone("--address", address, "--store", "shared", "tree").out.splitlines()[1:] == [
        "|-- notes",
        "`-- plate/",
        "    `-- A01.npy",
        "1 directories, 2 files",
    ]
    given = ("--store", "shared", "cp", "memory:/plate/A01.npy", f"disk:{tmp_path}/a.npy")
    assert run_alone("--address", address, *given) == Done(0, "", "")
    assert np.load(tmp_path / "a.npy").sum() == np.arange(LARGE).sum()
    shared.save(1, "/gone", backend="memory")
    assert run_alone("--address", address, "--store", "shared", "rm", "memory:/gone") == Done(
        0, "", ""
    )
    assert not shared.exists("/gone", backend="memory")


def test_status_names_the_nodes_and_why_the_node_of_a_value(shared: FileManager) -> None:
    node = ray.get_runtime_context().get_node_id()
    status = run_here("--store", "shared", "--json", "status").json
    assert [part["node"] for part in status["nodes"]] == [node]
    why = run_here("--store", "shared", "why", "memory:/plate/A01.npy").out
    assert node in why
    lost = run_here("--store", "shared", "drain", node[:10], "--timeout", "0")
    assert lost.code == 1
    assert "still holds" in says_one_line(lost)
    assert "no node id" in says_one_line(run_here("--store", "shared", "drain", "xyz"))


def test_cat_opens_large_values_and_packs_without_unpickling(
    shared: FileManager, tmp_path: Path
) -> None:
    trap = tmp_path / "was-run"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (trap,)

    large = bytes(200_000)
    shared.save_batch(
        [[Trap(), large], [1, large], [Trap()], "plain", *[np.zeros(9000)] * 9],
        [f"/cat/{i}" for i in range(13)],
        backend="memory",
    )
    for path in ("/cat/0", "/cat/2"):
        line = says_one_line(run_here("--store", "shared", "cat", f"memory:{path}"))
        assert "not plain data" in line
    assert not trap.exists()
    assert run_here("--store", "shared", "cat", "memory:/cat/1").code == 0
    assert run_here("--store", "shared", "cat", "memory:/cat/3").out == "plain"
    array = run_here("--store", "shared", "cat", "memory:/cat/4").out
    assert array.startswith("array (9000,) float64\n")


def test_cat_opens_values_of_a_bundle(shared: FileManager) -> None:
    arrays = [np.full(20_000, i) for i in range(4)]
    paths = [f"/bundle/{i}" for i in range(4)]
    shared.save_batch(arrays, paths, backend="memory", bundled=2**20)
    out = run_here("--store", "shared", "cat", "memory:/bundle/2").out
    assert out.startswith("array (20000,) int64\n[2 2 2")


class Lying(np.ndarray[Any, Any]):
    """An array whose class says a shape that runs code where it is unpickled."""

    trap = Path()

    @property  # type: ignore[misc]  # NumPy's can be set
    def shape(self) -> Any:
        trap = self.trap

        class Trap:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (trap,)

        return Trap()


def test_facts_of_a_value_run_nothing(shared: FileManager, tmp_path: Path) -> None:
    Lying.trap = tmp_path / "was-run"
    for size in (10, LARGE):
        shared.save(np.zeros(size).view(Lying), f"/lying/{size}", backend="memory")
    for command in (("ls", "-l", "memory:/lying"), ("stat", "memory:/lying/10")):
        assert run_here("--store", "shared", *command).code == 0
    assert f"({LARGE},)" in run_here("--store", "shared", "why", f"memory:/lying/{LARGE}").out
    assert not Lying.trap.exists()


def test_the_store_of_a_running_job_can_be_looked_into() -> None:
    registry = RayBackendRegistry("of-a-job")
    FileManager(registry).save(np.zeros(LARGE), "/a", backend="memory")
    job = ray.get_runtime_context().get_job_id()
    assert {"store": "of-a-job", "job": job} in run_here("status", "--all", "--json").json
    given = ("--store", "of-a-job", "--job", job)
    assert run_here(*given, "ls").out == "a\n"
    # A store is found, never made: not by a wrong name, and not for another job.
    assert f"of-a-job (--job {job})" in says_one_line(run_here("--store", "of-a-job", "ls"))
    registry.shutdown()
    assert run_here(*given, "ls").code == 1


def test_a_store_is_made_only_when_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    copy = ("--store", "new", "cp", f"disk:{tmp_path}/a.npy", "memory:/a.npy")
    assert "no detached store 'new'" in says_one_line(run_here(*copy))
    assert run_here(*copy, "--create") == Done(0, "", "")
    assert run_here("--store", "new", "ls").out == "a.npy\n"
    assert run_here("--store", "new", "shutdown", "--yes") == Done(0, "", "")
    assert run_here("--store", "new", "ls").code == 1


def test_a_restore_that_fails_leaves_no_store(tmp_path: Path) -> None:
    registry = RayBackendRegistry("dumped", lifetime="detached")
    registry["memory"].save(np.zeros(LARGE), "/a")
    assert run_here("dump", "dumped", tmp_path / "dump").code == 0
    registry.shutdown()
    restore = ("restore", tmp_path / "dump", "dumped")
    assert "replicas=9 needs 9 nodes" in says_one_line(run_here(*restore, "--replicas", "9"))
    assert "dumped" not in run_here("status", "--all").out
    assert run_here(*restore).code == 0
    assert run_here("--store", "dumped", "shutdown", "--yes") == Done(0, "", "")


def test_doctor_examines_every_node(address: str) -> None:
    done = run_alone("--address", address, "doctor", "--json")
    findings = {finding["what"]: finding["verdict"] for finding in done.json}
    name = f"{socket.gethostname()} {ray.get_runtime_context().get_node_id()[:8]}"
    assert findings[f"versions on {name}"] == "ok"
    assert findings[f"clock of {name}"] == "ok"
    assert findings["actors"] == "ok"
    assert {f"memory of {name}", "authentication", "encryption"} <= set(findings)
    assert done.code == 0


def test_doctor_sees_an_actor_that_finds_no_place() -> None:
    @ray.remote(num_cpus=1000)
    class TooBig:
        pass

    waiting = TooBig.options(name="too-big").remote()  # type: ignore[attr-defined]
    findings = {finding["what"]: finding for finding in run_here("doctor", "--json").json}
    assert findings["actors"]["verdict"] == "warning"
    assert "too-big" in findings["actors"]["seen"]
    del waiting


def test_where_no_cluster_is_one_line_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in says_one_line(run_alone("--address", address, "ls"))
        assert "checks that failed: cluster" in run_alone("--address", address, "doctor").err
    assert "no Ray cluster answers" in says_one_line(run_alone("--address", "nowhere", "ls"))
