"""A cluster in network namespaces, whose network is cut, slow and lossy, loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from polystore_ray.testing.needs import MissingProgramError, goes_without
from polystore_ray.testing.network import Network

pytestmark = pytest.mark.timeout(600)

needs_namespaces = pytest.mark.skipif(
    goes_without("ip"), reason="POLYSTORE_FAULTS_WITHOUT says to do without ip"
)


@needs_namespaces
def test_cut_slow_and_lossy_links_lose_undo_and_tear_nothing() -> None:
    # In a process of its own, which enters a namespace.
    command = [sys.executable, "-m", "polystore_ray.testing", "--network", "--clients", "3"]
    only = "follower packets"
    done = subprocess.run(
        [*command, "--seconds", "15", "--seed", "5", "--only", only],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, undone, torn, late or left over" in done.stdout
    [operations] = re.findall(r"^(\d+) operations", done.stdout, re.MULTILINE)
    assert int(operations) > 50


@needs_namespaces
def test_a_network_leaves_no_namespace_behind() -> None:
    network = Network(2)
    try:
        names = set(network.names)
        assert names <= namespaces()
    finally:
        network.close()
    assert not names & namespaces()


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def test_without_root_or_a_program_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingProgramError, match="needs root"):
        Network(2)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgramError, match="apt-get install iproute2"):
        Network(2)
