"""Reads and changes that others get in the way of end with what is there, or say why not."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest

from polystore import CorruptDataError, StorageResolutionError
from polystore.filesystem.changes import again_while_missing
from polystore.filesystem.retry import MOST_ATTEMPTS, read_until_stable


def test_what_changed_while_it_was_read_is_read_again() -> None:
    versions = iter([1, 1, 2, 2])  # it changes during the first read

    def read(version: int) -> str:
        return f"of version {version}"

    value = read_until_stable(
        lambda: nullcontext(next(versions)), read, lambda version: version == next(versions) == 2
    )
    assert value == "of version 2"


def test_an_error_counts_only_if_nothing_changed() -> None:
    states = iter(["half deleted", "whole", "damaged"])

    def read(state: str) -> str:
        if state != "whole":
            raise CorruptDataError(state)
        return state

    def is_still(state: str) -> bool:
        return state != "half deleted"

    assert read_until_stable(lambda: nullcontext(next(states)), read, is_still) == "whole"
    with pytest.raises(CorruptDataError, match="damaged"):
        read_until_stable(lambda: nullcontext(next(states)), read, is_still)


@pytest.mark.timeout(10)
def test_a_read_of_what_always_changes_ends() -> None:
    counted = itertools.count()
    with pytest.raises(StorageResolutionError, match="faster"):
        read_until_stable(lambda: nullcontext(next(counted)), str, lambda _: False)
    assert next(counted) == MOST_ATTEMPTS


def test_a_state_is_let_go_before_the_next_one_is_looked_at() -> None:
    held: list[int] = []

    class Look:
        def __enter__(self) -> int:
            assert held == []
            held.append(1)
            return 1

        def __exit__(self, *_: object) -> None:
            held.clear()

    answers = iter([False, False, True])
    assert read_until_stable(Look, str, lambda _: next(answers)) == "1"
    assert held == []


def test_a_directory_that_is_always_missing_is_reported() -> None:
    tried = itertools.count()

    def attempt() -> None:
        next(tried)
        raise FileNotFoundError(2, "no such directory")

    with pytest.raises(FileNotFoundError):
        again_while_missing(attempt)
    assert next(tried) == MOST_ATTEMPTS + 1
