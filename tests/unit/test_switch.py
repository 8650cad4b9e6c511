"""The switch of the fault kit sends frames where they belong; it loses and delays as it is told."""

from __future__ import annotations

from polystore_ray.testing.switch import Fate, Switch, hardware_address


class Watched:
    """A switch of three ports, whose clock stands still, and what came out of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.out: list[tuple[int, bytes]] = []
        self.switch = Switch(3, lambda port, frame: self.out.append((port, frame)), self.clock)

    def clock(self) -> float:
        return self.now


def frame(target: int, text: bytes = b"") -> bytes:
    return hardware_address(target) + text


def test_a_frame_goes_to_its_port_and_a_broadcast_to_all_others() -> None:
    watched = Watched()
    watched.switch.receive(0, frame(2))
    broadcast = b"\xff" * 6
    watched.switch.receive(1, broadcast)
    assert watched.out == [(2, frame(2)), (0, broadcast), (2, broadcast)]


def test_a_direction_is_cut_and_no_other() -> None:
    watched = Watched()
    watched.switch.set(0, 1, Fate(loss=1.0))
    watched.switch.receive(0, frame(1))
    assert watched.out == []
    watched.switch.receive(1, frame(0))
    watched.switch.receive(0, frame(2))
    assert watched.out == [(0, frame(0)), (2, frame(2))]
    watched.switch.set(0, 1, Fate())
    watched.switch.receive(0, frame(1))
    assert watched.out[-1] == (1, frame(1))


def test_late_frames_come_in_order_when_their_time_has_come() -> None:
    watched = Watched()
    watched.switch.set(0, 1, Fate(delay=0.2))
    for number in range(3):
        watched.switch.receive(0, frame(1, bytes([number])))
    assert watched.switch.pass_on() == 0.2
    assert watched.out == []
    watched.now = 0.3
    assert watched.switch.pass_on() is None
    assert [sent[-1] for _, sent in watched.out] == [0, 1, 2]


def test_about_as_many_frames_are_lost_as_was_said() -> None:
    watched = Watched()
    watched.switch.set(0, 1, Fate(loss=0.2))
    for _ in range(5000):
        watched.switch.receive(0, frame(1))
    assert 3800 < len(watched.out) < 4200
