"""A cluster with token authentication, as ``cluster/local.py`` starts it: who may do what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.clusters import (
    LOAD,
    SAVE,
    SECRET,
    STARTED_WITHIN,
    Cluster,
    Environment,
    client,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("home"))
    yield cluster
    assert cluster.end() == 0


def without(environment: Environment, **changed: str) -> Environment:
    kept = {k: v for k, v in environment.items() if k != "RAY_AUTH_TOKEN_PATH"}
    return kept | changed


def test_who_has_no_token_or_a_wrong_one_gets_nothing(
    cluster: Cluster,
) -> None:
    environment = cluster.client
    output, errors = client(SAVE, environment).communicate(timeout=STARTED_WITHIN)
    assert output == "saved\n", errors
    refused = [
        without(environment),
        without(environment, RAY_AUTH_TOKEN="0123456789abcdef" * 4),
        without(environment, RAY_AUTH_MODE="disabled"),
    ]
    for who in [client(code, one) for one in refused for code in (LOAD, SAVE)]:
        output, errors = who.communicate(timeout=STARTED_WITHIN)
        assert output == ""
        assert SECRET not in errors
        assert "refused: " in errors
        assert who.returncode == 1
    output, errors = client(LOAD, environment).communicate(timeout=STARTED_WITHIN)
    assert output == f"{SECRET}\n", errors


def test_the_command_line_says_in_one_line_that_it_was_turned_away(
    cluster: Cluster,
) -> None:
    environment = cluster.client
    command = [sys.executable, "-m", "polystore_ray.cli", "--store", "secret", "cat"]
    for who in (without(environment, RAY_AUTH_TOKEN="0123456789abcdef" * 4), environment):
        done = subprocess.run(
            [*command, "memory:/secret"],
            env=who,
            capture_output=True,
            text=True,
            timeout=STARTED_WITHIN,
        )
        if who is environment:
            assert (done.returncode, done.stdout, done.stderr) == (0, SECRET, "")
        else:
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.count("\n") == 1
            assert "RAY_AUTH_TOKEN" in done.stderr
            assert "0123456789abcdef" not in done.stderr


def test_the_health_probe_of_the_manifests_has_the_token_too(cluster: Cluster) -> None:
    probe = [str(Path(sys.executable).with_name("ray")), "health-check"]
    for who, healthy in ((cluster.client, True), (without(cluster.client), False)):
        done = subprocess.run(probe, env=who, capture_output=True, timeout=STARTED_WITHIN)
        assert (done.returncode == 0) == healthy, done.stderr


def test_the_token_is_in_no_log(cluster: Cluster) -> None:
    path = cluster.token
    token = path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    logs = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
    assert sum(file.suffix in (".log", ".out", ".err") for file in logs) > 10
    assert [file for file in logs if token in file.read_bytes()] == []


ALIVE = (
    "import ray, time\n"
    "ray.init(log_to_driver=False, logging_level='ERROR')\n"
    "names = lambda: sorted(node['NodeName'] for node in ray.nodes() if node['Alive'])\n"
    "print(names(), flush=True)\n"
    "while len(names()) > 1: time.sleep(0.5)\n"
    "print(names())"
)


def test_the_loss_of_a_node_can_be_rehearsed_and_the_others_go_on(cluster: Cluster) -> None:
    command = [sys.executable, "-c", ALIVE]
    driver = subprocess.Popen(
        command, env=cluster.client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "['head', 'node-1']\n"
    subprocess.run(["sh", "-c", cluster.kills["node-1"]], check=True)
    output, errors = driver.communicate(timeout=STARTED_WITHIN)
    assert output.endswith("['head']\n"), errors  # after what Ray says of the loss


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if os.fsencode(folder) in command:
                found.append(entry.name)
    return found


def test_its_end_leaves_no_process_and_no_file_behind(cluster: Cluster) -> None:
    folder = cluster.token.parent
    assert len(processes_of(folder)) > 2
    assert cluster.end() == 0
    assert processes_of(folder) == []
    assert not folder.exists()
