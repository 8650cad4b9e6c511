"""Clusters that ask their clients who they are, and clients of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRET = "the cells of plate 7"
STARTED_WITHIN = 120  # seconds, as another test

SAVE = f"fm.save({SECRET!r}, '/secret', backend='memory'); print('saved')"
LOAD = "print(fm.load('/secret', backend='memory'))"
CLIENT = (
    "from polystore import FileManager, StorageError\n"
    "from polystore_ray import RayBackendRegistry\n"
    "fm = FileManager(RayBackendRegistry('secret', lifetime='detached', timeout=30))\n"
    "try: {}\n"
    "except StorageError as error: raise SystemExit(f'refused: {{error}}')"
)

Environment = dict[str, str]


def client(code: str, environment: Environment) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(code)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Cluster:
    """A cluster as ``cluster/local.py`` starts it, and the environment of who has its token.

    Parameters
    ----------
    home : Path
        The home directory of all its processes.
    **environment
        What else they have in their environment.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        base = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        # A token in the home directory of who runs the tests must not be found.
        base |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
        # A client that is turned away tries again for as many seconds.
        base |= {"RAY_NUM_REDIS_GET_RETRIES": "2"} | environment
        command = [sys.executable, ROOT / "cluster/local.py", "--nodes", "2", "--store", "100"]
        self._process = subprocess.Popen(
            [str(part) for part in command], env=base, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("export RAY_ADDRESS=")
        kills = [self._process.stdout.readline().split(": ") for _ in ("head", "node-1")]
        self.kills = {start.removeprefix("# to lose "): command for start, command in kills}
        self.client = base | dict(part.split("=", 1) for part in line.split()[1:])
        self.token = Path(self.client["RAY_AUTH_TOKEN_PATH"])

    def end(self) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=60)
        return self._process.returncode
