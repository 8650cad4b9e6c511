"""Gathering: what is asked one by one goes out in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from polystore_ray.interop.batcher import Gathering


class Asked:
    """Doubles numbers, remembers the batches, and fails at what is negative."""

    def __init__(self, error: type[Exception] = ValueError) -> None:
        self.batches: list[list[int]] = []
        self.error = error
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, _: Sequence[str], numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        assert self.may_go.wait(10)
        if any(number < 0 for number in numbers):
            raise self.error(numbers)
        return [2 * number for number in numbers]


async def test_what_comes_in_one_step_goes_together() -> None:
    asked = Asked()
    gathering: Gathering[str, int, int] = Gathering(asked)
    found = await asyncio.gather(*(gathering.ask(str(i), i) for i in range(5)))
    assert found == [0, 2, 4, 6, 8]
    assert asked.batches == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_others_are_on_their_way_waits_and_goes_together() -> None:
    asked = Asked()
    asked.may_go.clear()
    gathering: Gathering[str, int, int] = Gathering(asked)
    tasks = []
    for i in range(6):
        tasks.append(asyncio.ensure_future(gathering.ask(str(i), i)))
        await asyncio.sleep(0.01)
    assert asked.batches == [[0], [1]]
    asked.may_go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert asked.batches[2:] == [[2, 3, 4, 5]]


async def test_a_batch_has_a_size_that_one_alone_may_exceed() -> None:
    asked = Asked()
    gathering: Gathering[str, int, int] = Gathering(asked, size=abs, most=10)
    await asyncio.gather(*(gathering.ask(str(i), i) for i in (50, 4, 5, 6)))
    assert sorted(asked.batches) == [[4, 5], [6], [50]]


async def test_each_meets_its_own_error() -> None:
    gathering: Gathering[str, int, int] = Gathering(Asked())
    found = await asyncio.gather(
        *(gathering.ask(str(i), i) for i in (1, -1, 2)), return_exceptions=True
    )
    assert found[0::2] == [2, 4]
    assert isinstance(found[1], ValueError)


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError])
async def test_where_nobody_answers_nobody_is_asked_again(error: type[Exception]) -> None:
    asked = Asked(error)
    gathering: Gathering[str, int, int] = Gathering(asked)
    found = await asyncio.gather(
        *(gathering.ask(str(i), i) for i in (1, -1, 2)), return_exceptions=True
    )
    assert {type(outcome) for outcome in found} == {error}
    assert len(asked.batches) == 1


async def test_for_one_path_the_last_argument_counts() -> None:
    asked = Asked()
    gathering: Gathering[str, int, int] = Gathering(asked)
    assert await asyncio.gather(*(gathering.ask("a", i) for i in range(3))) == [4, 4, 4]
    assert asked.batches == [[2]]


def test_event_loops_do_not_mix() -> None:
    gathering: Gathering[str, int, int] = Gathering(Asked())
    assert asyncio.run(gathering.ask("a", 1)) == 2
    assert asyncio.run(gathering.ask("a", 2)) == 4
