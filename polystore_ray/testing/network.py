"""An isolated network: kernel namespaces, joined by a switch that injects faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from polystore_ray.testing.needs import WITHOUT, MissingProgramError, require
from polystore_ray.testing.switch import Fate, hardware_address

__all__ = ["Network"]

_SUBNET = "10.77.0"
_MTU = 16000  # bytes; fewer frames for the switch
_NAMESPACES = Path("/run/netns")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_STALE = "polystore"


class Network:
    """Network namespaces that reach each other and nothing else.

    Each has one device, ``eth0``, with an address. Creating them needs root and iproute2.

    - `count`: the number of namespaces

    Raises `MissingProgramError` if a program, root rights or the kernel's TAP devices are missing.
    """

    def __init__(self, count: int) -> None:
        self._ip = require("ip", "iproute2", "a cluster in network namespaces")
        if os.geteuid() != 0:
            raise MissingProgramError(
                f"a cluster in network namespaces needs root; to skip it, set {WITHOUT}=ip"
            )
        if not Path("/dev/net/tun").exists():
            raise MissingProgramError(
                "a cluster in network namespaces needs /dev/net/tun, the kernel's TAP devices: "
                "run modprobe tun, or start the container with --device /dev/net/tun"
            )
        self._remove_stale()
        self.addresses = [f"{_SUBNET}.{port + 1}" for port in range(count)]
        self.names = [f"{_STALE}-{os.getpid()}-{port}" for port in range(count)]
        devices = [f"pst{os.getpid()}.{port}" for port in range(count)]
        fates, self._fates = os.pipe()
        self._switch = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "polystore_ray.testing.switch", *devices], stdin=fates
        )
        os.close(fates)
        for port, (name, device) in enumerate(zip(self.names, devices, strict=True)):
            hardware = hardware_address(port).hex(":")
            self._wait_for(device)
            self._run("netns", "add", name)
            self._run("link", "set", device, "netns", name, "name", "eth0")
            inside = ("-n", name)
            self._run(*inside, "link", "set", "lo", "up")
            self._run(*inside, "link", "set", "eth0", "address", hardware, "mtu", str(_MTU), "up")
            self._run(*inside, "address", "add", f"{self.addresses[port]}/24", "dev", "eth0")
            # Ray takes the source address of the default route as the node's address.
            self._run(*inside, "route", "add", "default", "dev", "eth0")

    def inside(self, port: int) -> list[str]:
        """Return the prefix of a command that runs it in a namespace."""
        return [self._ip, "netns", "exec", self.names[port]]

    def enter(self, port: int) -> None:
        """Move this thread, and the threads that it starts, into a namespace."""
        with (_NAMESPACES / self.names[port]).open() as namespace:
            if sys.version_info >= (3, 12):
                os.setns(namespace.fileno(), _NEW_NETWORK)
                return
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns failed")

    def processes(self, port: int) -> list[int]:
        """Return the ids of the processes in a namespace."""
        done = subprocess.run(  # noqa: S603 - our own command
            [self._ip, "netns", "pids", self.names[port]],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return [int(pid) for pid in done.stdout.split()]

    def set(self, source: int, target: int, fate: Fate) -> None:
        """Set the fate of frames from one namespace to another, until the next call."""
        os.write(self._fates, json.dumps([source, target, *fate]).encode() + b"\n")

    def close(self) -> None:
        """Remove the namespaces and end the switch. Processes in them must have ended before."""
        os.close(self._fates)
        self._switch.wait()
        for name in self.names:
            self._run("netns", "delete", name)

    def _wait_for(self, device: str) -> None:
        while not Path("/sys/class/net", device).exists():
            if self._switch.poll() is not None:
                raise MissingProgramError(
                    "the kernel did not create a TAP device; see the error above"
                )
            time.sleep(0.02)

    def _remove_stale(self) -> None:
        """Remove the namespaces of killed runs."""
        for name in os.listdir(_NAMESPACES) if _NAMESPACES.exists() else []:
            whose, _, rest = name.partition("-")
            pid = rest.partition("-")[0]
            if whose == _STALE and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                self._run("netns", "delete", name)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - our own command
            [self._ip, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
