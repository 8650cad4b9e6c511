"""Looking a value up again while what holds it is rewritten."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import StorageError
from polystore_ray import DataLostError
from polystore_ray.client.lookup import look_up
from polystore_ray.deadline import Deadline
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.wire.messages import Found
from polystore_ray.wire.pack import Pack


class Controller:
    """A transport that knows only where the values of a pack are, and moves them when asked."""

    def __init__(self, rewritten: Any, *, moves_at: int) -> None:
        self.deadline = Deadline(2.0)
        self.node = "here"
        self.reads = LeasedReads("here", lambda: None, lambda: True, 0)
        self.rewritten = rewritten
        self.asked = 0
        self._moves_at = moves_at

    def ask(self, _operation: str, *_arguments: Any, path: str | None = None, **_: Any) -> Found:
        self.asked += 1
        return Found([], [(0, 5 if self.asked < self._moves_at else 1)], [self.asked])


@pytest.mark.parametrize(
    "packed",
    [
        Pack.of([np.full(2, i) for i in range(6)]).without([5]),
        Pack.of([np.full(20_000, i) for i in range(6)]).without([5]),
    ],
    ids=["small", "large"],
)
def test_a_reader_whose_value_left_its_pack_looks_it_up_again(packed: Any) -> None:
    controller: Any = Controller(packed, moves_at=3)
    [value] = look_up(controller, ["/a"], lambda found: packed.values([found.stored[0][1]]))
    assert set(value.tolist()) == {1}
    never: Any = Controller(packed, moves_at=10**9)
    start = time.monotonic()
    with pytest.raises(DataLostError, match=r"value 5 was dropped.*'/a'") as lost:
        look_up(never, ["/a"], lambda found: packed.values([found.stored[0][1]]))
    assert isinstance(lost.value, StorageError)
    assert 1 < time.monotonic() - start < 30
