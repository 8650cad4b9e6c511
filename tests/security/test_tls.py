"""A cluster that encrypts, with the certificates that ``cluster/README.md`` says how to make."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from tests.security.clusters import LOAD, ROOT, SAVE, SECRET, STARTED_WITHIN, Cluster, client

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

# Seconds after which Ray gives a cluster up, and ends the process; by default many more.
IMPATIENT = {
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}


def as_documented(home: Path) -> dict[str, str]:
    """Run the commands of the documentation in a home directory; return what they export."""
    readme = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
    [commands] = [
        block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "-CA" in block
    ]
    address = ray.util.get_node_ip_address()
    script = f"set -e\n{commands}env".replace("10.0.0.1", address)
    environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    exported = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return {name: value for name, value in exported.items() if name.startswith("RAY_")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    cluster = Cluster(home, **as_documented(home))
    yield cluster
    assert cluster.end() == 0


def public_key(*options: object) -> str:
    command = ["openssl", *map(str, options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


def test_the_key_of_the_authority_is_in_nothing_that_is_copied_to_nodes(tmp_path: Path) -> None:
    as_documented(tmp_path)
    copied = {"~/.ray/tls"}
    for file in (ROOT / "cluster").glob("*.yaml"):
        described = yaml.safe_load(file.read_text(encoding="utf-8"))
        copied |= set(described.get("file_mounts", {}).values())
        for secret in described.get("secrets", {}).values():
            copied.add(f"~/polystore/cluster/{secret['file']}")
    files = [
        file
        for place in copied
        for root in [tmp_path / place.removeprefix("~/")]
        for file in ([root] if root.is_file() else root.rglob("*"))
    ]
    assert {file.name for file in files} == {"ca.crt", "node.crt", "node.key"}
    authority = public_key("x509", "-in", tmp_path / ".ray/tls/ca.crt", "-noout", "-pubkey")
    keys = [file for file in files if "PRIVATE KEY" in file.read_text(encoding="ascii")]
    assert keys
    for key in keys:
        assert public_key("pkey", "-in", key, "-pubout") != authority
        assert key.stat().st_mode & 0o077 == 0
    signing = tmp_path / ".ray/authority/ca.key"
    assert public_key("pkey", "-in", signing, "-pubout") == authority


def test_only_who_has_a_certificate_of_the_cluster_gets_through(
    cluster: Cluster, tmp_path: Path
) -> None:
    output, errors = client(SAVE, cluster.client).communicate(timeout=STARTED_WITHIN)
    assert output == "saved\n", errors
    plain = {name: text for name, text in cluster.client.items() if name != "RAY_USE_TLS"}
    others = cluster.client | as_documented(tmp_path)  # of another authority
    for who in [client(LOAD, one | IMPATIENT) for one in (plain, others)]:
        output, errors = who.communicate(timeout=STARTED_WITHIN)
        assert output == ""
        assert "Failed to connect to GCS" in errors
        assert SECRET not in errors
        assert who.returncode != 0
    output, errors = client(LOAD, cluster.client).communicate(timeout=STARTED_WITHIN)
    assert output == f"{SECRET}\n", errors
