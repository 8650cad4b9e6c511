"""A Redis server for Ray's control store, started by the fault kit."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from polystore_ray.testing.needs import require

__all__ = ["RedisServer"]

_STARTS_WITHIN = 30.0  # seconds


class RedisServer:
    """A Redis server on a free port, with its own directory and password.

    Raises `MissingProgramError` if Redis is not installed; `RuntimeError` if it does not start.

    - `address`: the address, in the form of ``RAY_REDIS_ADDRESS``
    - `password`: the password for clients
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        program = require("redis-server", "redis-server", "the fault 'head lost'")
        # Ray kills this process if it has no head for a minute. Redis must not outlive it.
        setpriv = require("setpriv", "util-linux", "the fault 'head lost'")
        self.password = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="polystore-redis-"))
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        self.address = f"{host}:{port}"
        settings = self._folder / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind {host}\nport {port}\ndir {self._folder}\nrequirepass {self.password}\n"
            'appendonly yes\nsave ""\n',
            encoding="ascii",
        )
        log = self._folder / "redis.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [setpriv, "--pdeathsig", "KILL", program, settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while b"Ready to accept connections" not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")
                self.close()
                raise RuntimeError(f"redis-server did not start: {said[-500:]}")
            time.sleep(0.05)

    def close(self) -> None:
        """End the server and remove its directory."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
