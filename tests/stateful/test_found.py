"""Sequences in which a backend once did something else than the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from test_model import BACKENDS, LINKLESS

from polystore.testing.stateful import Machine

IN_PROCESS = [kind for kind in BACKENDS if "Ray" not in kind]


@pytest.fixture(params=IN_PROCESS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(BACKENDS[request.param], links=request.param not in LINKLESS)
    yield machine
    machine.teardown()


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_nothing_goes_below_a_value(machine: Machine, operation: str) -> None:
    machine.save(1, ("a.npy",), overwrite=False, parents=False, between="/")
    for destination in (("a.npy", "b"), ("a.npy", "b", "c")):
        machine.transfer(("a.npy",), destination, operation)
        if machine.links:
            machine.create_symlink(("a.npy",), destination, overwrite=False)
    machine.whole_trees_are_equal()
