"""The sequences of the kit: they compare a backend with the model after each operation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from polystore import MemoryBackend, VFSTypeError
from polystore.testing.stateful import Machine, check_sequences


class ImpliedDirectories(MemoryBackend):
    """Let directories end with their last file, as in an object store."""

    def delete(self, path: Any) -> None:
        super().delete(path)
        parent = str(path).rstrip("/").rpartition("/")[0]
        if parent and not self.list_dir(parent):
            super().delete(parent)


class Ghost(MemoryBackend):
    """List a file that is not there."""

    def list_dir(self, path: Any) -> list[str]:
        return [*super().list_dir(path), "ghost"]


class Strict(MemoryBackend):
    """Refuse what the sequences are told to leave out."""

    def create_symlink(self, source: Any, link: Any, *, overwrite: bool = False) -> None:
        raise VFSTypeError("a link")

    def save(self, data: Any, path: Any, **options: Any) -> None:
        if "region" in options:
            raise VFSTypeError("a region")
        super().save(data, path, **options)


def test_a_fault_is_found_by_the_trees_after_an_operation() -> None:
    machine = Machine(lambda: nullcontext((ImpliedDirectories(), "")))
    machine.save(1, ("d", "a.npy"), overwrite=False, parents=True, between="/")
    machine.whole_trees_are_equal()
    machine.delete(("d", "a.npy"), between="/")
    with pytest.raises(AssertionError):
        machine.whole_trees_are_equal()


def test_a_backend_that_differs_from_the_model_fails() -> None:
    with pytest.raises(AssertionError):
        check_sequences(lambda: nullcontext((Ghost(), "")), examples=5, steps=3)


def test_links_and_regions_are_left_out_where_told_so() -> None:
    taken: list[int] = []
    check_sequences(
        lambda: nullcontext((Strict(), "")),
        links=False,
        regions=False,
        examples=20,
        steps=10,
        done=taken.append,
    )
    assert len(taken) >= 20
    assert max(taken) <= 10
