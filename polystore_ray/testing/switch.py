"""A network switch between TAP devices, in one process, that loses and delays frames.

The kernel's own ``tc netem`` applies to everything that leaves a device, and many kernels are built
without it. This switch has a separate fate for each ordered pair of ports, on any kernel with TAP
devices.

``python -m polystore_ray.testing.switch NAME NAME ...`` creates the devices and reads fates from
standard input, one JSON list ``[source, target, loss, delay]`` per line, until the end of input.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Fate", "Switch", "hardware_address"]

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_FRAME = 2**16  # bytes
_PREFIX = b"\x02\x00\x00\x00\x00"


class Fate(NamedTuple):
    """The loss and delay of frames from one port to another.

    - `loss`: the probability that a frame is lost; 1.0 cuts this direction
    - `delay`: the delay of a frame in seconds
    """

    loss: float = 0.0
    delay: float = 0.0


def hardware_address(port: int) -> bytes:
    """Return the hardware address that the device behind a port must have."""
    return _PREFIX + bytes([port + 1])


class Switch:
    """Send frames from port to port, according to their fates.

    - `ports`: the number of ports
    - `deliver`: ``deliver(port, frame)`` sends a frame out of a port
    - `clock`: a function that returns the time in seconds
    - `seed`: the seed that decides which frames are lost
    """

    def __init__(
        self,
        ports: int,
        deliver: Callable[[int, bytes], None],
        clock: Callable[[], float] = time.monotonic,
        seed: int = 1,
    ) -> None:
        self._ports = range(ports)
        self._deliver = deliver
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._fates: dict[tuple[int, int], Fate] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def set(self, source: int, target: int, fate: Fate) -> None:
        """Set the fate of frames from one port to another."""
        self._fates[source, target] = fate

    def receive(self, source: int, frame: bytes) -> None:
        """Forward a frame that arrived at a port."""
        known = frame[:5] == _PREFIX and frame[5] - 1 in self._ports
        for target in [frame[5] - 1] if known else self._ports:
            if target != source:
                self._send(source, target, frame)

    def _send(self, source: int, target: int, frame: bytes) -> None:
        loss, delay = self._fates.get((source, target), Fate())
        if loss and self._random.random() < loss:
            return
        if delay:
            self._count += 1
            heapq.heappush(self._late, (self._clock() + delay, self._count, target, frame))
        else:
            self._deliver(target, frame)

    def pass_on(self) -> float | None:
        """Deliver the delayed frames that are due; return the seconds until the next one is due."""
        while self._late:
            left = self._late[0][0] - self._clock()
            if left > 0:
                return left
            _, _, target, frame = heapq.heappop(self._late)
            self._deliver(target, frame)
        return None


def _tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP_WITHOUT_HEADER))
    return device


def main(names: list[str]) -> None:
    """Run a switch whose ports are TAP devices with these names."""
    devices = [_tap(name) for name in names]

    def deliver(target: int, frame: bytes) -> None:
        try:
            os.write(devices[target], frame)
        except OSError:
            return  # the device is down or full: networks lose frames

    switch = Switch(len(devices), deliver)
    with selectors.DefaultSelector() as selector:
        for port, device in enumerate(devices):
            selector.register(device, selectors.EVENT_READ, port)
        selector.register(0, selectors.EVENT_READ)
        fates = b""
        while True:
            for key, _ in selector.select(switch.pass_on()):
                if key.fd:
                    _read(key.fd, key.data, switch)
                    continue
                found = os.read(0, 4096)
                if not found:
                    return
                *lines, fates = (fates + found).split(b"\n")
                for line in lines:
                    source, target, *fate = json.loads(line)
                    switch.set(source, target, Fate(*fate))


def _read(device: int, port: int, switch: Switch) -> None:
    for _ in range(64):
        try:
            frame = os.read(device, _FRAME)
        except BlockingIOError:
            return
        except OSError:
            return  # the device is down
        switch.receive(port, frame)


if __name__ == "__main__":
    main(sys.argv[1:])
