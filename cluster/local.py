#!/usr/bin/env python3
"""Start a Ray cluster of several nodes on this machine, for tests; Ctrl-C ends it.

Each node has its own processes, as on separate machines. The cluster has its own port, temporary
directory and token, and only its own processes are ended: other clusters on the machine are not
affected.

Run ``python cluster/local.py``. Then run the ``export`` line that it prints in another shell.

To rehearse the loss of a node, run the ``kill`` line of that node, which ends all its processes at
once. The other nodes go on; the cluster ends with its head.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_free_objects_period_milliseconds": "100"}
STARTED_WITHIN = 60.0  # seconds
ENDED_WITHIN = 8.0  # seconds


class LocalCluster:
    """A head and its workers.

    Parameters
    ----------
    folder : Path
        The directory for the token, the logs and spilled objects.
    store : int
        The size of each node's object store in MiB.
    client : bool
        Whether other programs can connect through ``ray://``; it needs the extra ``client``.
    dashboard : bool
        Whether Ray's dashboard runs; it needs ``ray[default]``.
    """

    def __init__(self, folder: Path, store: int, *, client: bool, dashboard: bool) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{_free_port()}"
        self.client = f"127.0.0.1:{_free_port()}" if client else None
        self.dashboard = f"127.0.0.1:{_free_port()}" if dashboard else None
        self._store = store
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._token = folder / "token"
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32), encoding="ascii")

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
        }

    def start_node(self) -> None:
        """Start a node, the head first, and wait until it runs.

        Raises
        ------
        RuntimeError
            If the node does not start.
        """
        number = len(self._nodes)
        if number == 0:
            port = self.address.rpartition(":")[2]
            place = ["--head", f"--port={port}", f"--temp-dir={self.folder}/ray"]
            place += [f"--object-spilling-directory={self.folder}/spilled"]
            place += [f"--include-dashboard={'true' if self.dashboard else 'false'}"]
            if self.dashboard:
                place += [f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
            if self.client:
                place += [f"--ray-client-server-port={self.client.rpartition(':')[2]}"]
        else:
            place = [f"--address={self.address}"]
        command = [Path(sys.executable).with_name("ray"), "start", *place]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--block"]
        command += [f"--node-name={_name(number)}"]
        command += [f"--object-store-memory={self._store * MIB}"]
        log = self.folder / f"node-{number}.log"
        with log.open("wb") as output:
            node = subprocess.Popen(  # noqa: S603 - our own command
                command,
                env=os.environ | self.environment | SETTINGS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach only this process, which ends the nodes
            )
        self._nodes.append(node)
        deadline = time.monotonic() + STARTED_WITHIN
        while b"Ray runtime started" not in log.read_bytes():
            if node.poll() is not None or time.monotonic() > deadline:
                *_, reason = ["", *log.read_text(errors="replace").strip().splitlines()]
                raise RuntimeError(f"node {number} did not start: {reason} (see {log})")
            time.sleep(0.1)

    def kills(self) -> dict[str, str]:
        """Return for each node the command that ends all its processes at once."""
        return {_name(i): f"kill -9 -{node.pid}" for i, node in enumerate(self._nodes)}

    def watch(self) -> None:
        """Wait until the head ends; report each other node that does."""
        head, *others = self._nodes
        running = dict(enumerate(others, 1))
        while head.poll() is None:
            for number in [number for number, node in running.items() if node.poll() is not None]:
                running.pop(number)
                sys.stderr.write(f"{_name(number)} ended; the other nodes go on\n")
            time.sleep(0.5)

    def end(self) -> None:
        """End the processes of this cluster only."""
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_IGN)  # an interrupted end would leave processes behind
        for node in self._nodes:
            # At this signal, `ray start --block` ends the processes of its node.
            node.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + ENDED_WITHIN
        for node in self._nodes:
            try:
                node.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def _name(number: int) -> str:
    return f"node-{number}" if number else "head"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run a cluster until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=3, help="the number of nodes (default: 3)")
    parser.add_argument(
        "--store", type=int, default=256, help="the size of each object store in MiB"
    )
    parser.add_argument("--client", action="store_true", help="serve ray:// too")
    parser.add_argument("--dashboard", action="store_true", help="run Ray's dashboard")
    options = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):  # some shells make children ignore SIGINT
        signal.signal(ending, signal.default_int_handler)
    # The path of a socket has at most 107 bytes, so Ray's directory needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="polystore-"))
    settings = {"client": options.client, "dashboard": options.dashboard}
    cluster = LocalCluster(folder, options.store, **settings)
    try:
        for _ in range(options.nodes):
            cluster.start_node()
        exports = " ".join(f"{name}={value}" for name, value in cluster.environment.items())
        sys.stdout.write(f"export {exports}\n")
        for name, command in cluster.kills().items():
            sys.stdout.write(f"# to lose {name}: {command}\n")
        if cluster.client:
            sys.stdout.write(f"# for other programs: ray://{cluster.client}\n")
        if cluster.dashboard:
            sys.stdout.write(f"# dashboard: http://{cluster.dashboard}\n")
        sys.stdout.flush()
        cluster.watch()
        sys.stderr.write(f"the head ended; see the logs in {folder}\n")
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
    except KeyboardInterrupt:
        cluster.end()
        shutil.rmtree(folder)
        return 0
    cluster.end()
    return 1


if __name__ == "__main__":
    sys.exit(main())
