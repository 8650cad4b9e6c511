"""The promises of a backend to several threads at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pytest

from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathExistsError,
    PathNotFoundError,
    StorageError,
)
from polystore.testing.batches import AtomicBatches
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit, needs
from polystore.testing.links import Links
from polystore.testing.racing import looking_on, quick_switching, race
from polystore.testing.transfers import Transfers
from polystore.testing.writing import Deleting, Saving, Writable

__all__ = ["AtomicMoves", "Concurrency"]


class _Racing(BackendKit):
    rounds: ClassVar[int] = 10
    threads: ClassVar[int] = 4

    @pytest.fixture(autouse=True)
    def _threads_switch_quickly(self) -> Iterator[None]:
        with quick_switching():
            yield

    def each(self, root: str, name: str) -> list[str]:
        """Return a path for each thread."""
        return self.paths(root, *(f"{name}-{number}" for number in range(self.threads)))

    def only_winner(self, results: list[Any], lost: type[StorageError]) -> int:
        """Assert that all calls but one failed with `lost`; return the number of that one."""
        others = [type(r) for r in results if isinstance(r, StorageError)]
        assert [other for other in others if not issubclass(other, lost)] == []
        winners = [i for i, result in enumerate(results) if not isinstance(result, StorageError)]
        assert len(winners) == 1
        return winners[0]

    def is_one_of(self, loaded: Any, values: list[Any]) -> bool:
        """Return whether a loaded value is equal to one of these values."""
        for value in values:
            try:
                self.same(loaded, value)
            except AssertionError:
                continue
            return True
        return False


class Concurrency(_Racing):
    """Threads that race: one succeeds, the others get an error, and no reader sees a partial value.

    The races depend on the other suites of the class.

    Attributes
    ----------
    rounds, threads : int
        The number of times that each race runs, and the number of its threads.
    """

    # Saves

    @needs(Saving)
    def test_of_many_savers_one_wins(self, backend: Any, root: str) -> None:
        paths = self.paths(root, *(f"a{number:03}" for number in range(self.rounds)))
        for path in paths:
            saves = [partial(backend.save, self.value(i), path) for i in range(self.threads)]
            winner = self.only_winner(race(saves), PathExistsError)
            self.same(backend.load(path), self.value(winner))
        assert backend.list_files(root or "/") == paths

    @needs(Saving)
    def test_a_listing_shows_whole_values_only(self, backend: Any, root: str) -> None:
        paths = self.paths(root, *(f"a{number:03}" for number in range(self.rounds)))
        value = self.large()

        def look() -> list[str]:
            listed: list[str] = backend.list_files(root or "/")
            backend.load_batch(listed[-1:])
            return listed

        with looking_on(look) as onlookers:
            for number in onlookers.rounds(self.rounds):
                backend.save(value, paths[number])
        for listed in onlookers.seen:
            assert listed == paths[: len(listed)]

    @needs(Writable)
    def test_a_reader_sees_the_old_value_or_the_new_one(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        values = [self.large(0), self.large(1)]
        backend.save(values[0], path)

        def look() -> bool:
            return backend.exists(path) is True and self.is_one_of(backend.load(path), values)

        with looking_on(look) as onlookers:
            for number in onlookers.rounds(self.rounds):
                backend.save(values[number % 2], path, overwrite=True)
        assert all(onlookers.seen)
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]

    @needs(Writable)
    def test_of_many_overwrites_one_stays_whole(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        values = [self.large(i) for i in range(self.threads)]
        for _ in range(self.rounds // 3):
            saves = [partial(backend.save, value, path, overwrite=True) for value in values]
            assert race(saves) == [None] * self.threads
            assert self.is_one_of(backend.load(path), values)
        assert backend.list_dir(root or "/") == [f"a{self.suffix}"]

    @needs(AtomicBatches)
    def test_of_many_batches_that_meet_one_wins(self, backend: Any, root: str) -> None:
        for number in range(self.rounds):
            meeting, own = self.path(root, f"a{number}"), self.each(root, f"b{number}")
            saves = [
                partial(backend.save_batch, [self.value(i)] * 2, [path, meeting])
                for i, path in enumerate(own)
            ]
            winner = self.only_winner(race(saves), PathExistsError)
            assert [path for path in own if backend.exists(path)] == [own[winner]]
            self.same(backend.load(meeting), self.value(winner))

    @needs(AtomicBatches)
    def test_a_batch_appears_all_at_once(self, backend: Any, root: str) -> None:
        size = 40
        with looking_on(lambda: backend.list_dir(root or "/")) as onlookers:
            for number in onlookers.rounds(self.rounds):
                batch = self.paths(root, *(f"a{number:03}-{i:03}" for i in range(size)))
                backend.save_batch([self.value()] * size, batch)
        assert {len(names) % size for names in onlookers.seen} == {0}

    # Deletes and moves

    @needs(Saving, Deleting)
    def test_of_many_deleters_one_wins(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        for _ in range(self.rounds):
            backend.save(self.value(), path)
            self.only_winner(
                race([partial(backend.delete, path)] * self.threads), PathNotFoundError
            )
            assert not backend.exists(path)

    @needs(Saving, Deleting)
    def test_a_reader_of_what_is_deleted_sees_all_or_nothing(self, backend: Any, root: str) -> None:
        path, value = self.path(root, "a"), self.large(7)

        def look() -> bool:
            try:
                return self.is_one_of(backend.load(path), [value])
            except PathNotFoundError:
                return True

        with looking_on(look) as onlookers:
            for _ in onlookers.rounds(self.rounds):
                backend.save(value, path)
                backend.delete(path)
        assert all(onlookers.seen)

    @needs(Saving, Deleting)
    def test_of_many_movers_of_one_file_one_wins(self, backend: Any, root: str) -> None:
        old = self.path(root, "a")
        for number in range(self.rounds):
            backend.save(self.value(), old)
            new = self.each(root, f"b{number}")
            moves = [partial(backend.move, old, path) for path in new]
            winner = self.only_winner(race(moves), PathNotFoundError)
            assert [path for path in (old, *new) if backend.exists(path)] == [new[winner]]
            self.same(backend.load(new[winner]), self.value())

    @needs(Saving, Deleting)
    def test_of_many_movers_to_one_place_one_wins(self, backend: Any, root: str) -> None:
        for number in range(self.rounds):
            new, old = self.path(root, f"a{number}"), self.each(root, f"b{number}")
            for i, path in enumerate(old):
                backend.save(self.value(i), path)
            moves = [partial(backend.move, path, new) for path in old]
            winner = self.only_winner(race(moves), PathExistsError)
            assert [path for path in old if not backend.exists(path)] == [old[winner]]
            self.same(backend.load(new), self.value(winner))

    # Directories

    @needs(Saving, Directories)
    def test_many_make_one_directory(self, backend: Any, root: str) -> None:
        for number in range(self.rounds):
            path = f"{root}/d{number}/e/f"
            made = race([partial(backend.ensure_directory, path)] * self.threads)
            assert made == [path] * self.threads
            assert backend.is_dir(path)
            assert backend.list_dir(f"{root}/d{number}") == ["e"]

    @needs(Saving, Directories)
    def test_many_save_into_one_new_directory(self, backend: Any, root: str) -> None:
        for number in range(self.rounds):
            paths = self.each(f"{root}/d{number}/e", "a")
            saves = [
                partial(backend.save, self.value(i), path, parents=True)
                for i, path in enumerate(paths)
            ]
            assert race(saves) == [None] * self.threads
            assert backend.list_files(f"{root}/d{number}/e") == paths
            self.same(backend.load(paths[1]), self.value(1))

    @needs(Saving, Directories)
    def test_no_save_is_lost_with_its_directory(self, backend: Any, root: str) -> None:
        for number in range(self.rounds):
            directory = backend.ensure_directory(f"{root}/d{number}")
            path = self.path(directory, "a")
            saved, deleted = race(
                [partial(backend.save, self.value(), path), partial(backend.delete, directory)]
            )
            if saved is None:
                assert deleted is None or isinstance(deleted, DirectoryNotEmptyError), deleted
                self.same(backend.load(path), self.value())
            else:
                assert deleted is None
                assert not backend.exists(path)

    # Links

    @needs(Saving, Links)
    def test_of_many_links_one_wins(self, backend: Any, root: str) -> None:
        sources = self.each(root, "a")
        for i, source in enumerate(sources):
            backend.save(self.value(i), source)
        for number in range(self.rounds):
            path = self.path(root, f"link{number}")
            links = [partial(backend.create_symlink, source, path) for source in sources]
            winner = self.only_winner(race(links), PathExistsError)
            self.same(backend.load(path), self.value(winner))

    @needs(Saving, Links)
    def test_a_link_leads_to_the_old_source_or_the_new_one(self, backend: Any, root: str) -> None:
        values, sources = [self.value(0), self.value(1)], self.paths(root, "a", "b")
        path = self.path(root, "link")
        for value, source in zip(values, sources, strict=True):
            backend.save(value, source)
        backend.create_symlink(sources[0], path)

        def look() -> bool:
            return backend.is_symlink(path) and self.is_one_of(backend.load(path), values)

        with looking_on(look) as onlookers:
            for number in onlookers.rounds(self.rounds):
                backend.create_symlink(sources[number % 2], path, overwrite=True)
        assert all(onlookers.seen)
        listed = [name.rpartition("/")[2] for name in (*sources, path)]
        assert backend.list_dir(root or "/") == listed


class AtomicMoves(_Racing):
    """A move of a tree in one step, for a backend whose listings of trees are of one moment."""

    @needs(Transfers)
    def test_a_tree_is_at_one_place_whole(self, backend: Any, root: str) -> None:
        trees = [self.paths(root, f"{top}/a", f"{top}/e/b") for top in ("one", "two")]
        for path in trees[0]:
            backend.save(self.value(), path, parents=True)
        with looking_on(lambda: backend.list_files(root or "/", recursive=True)) as onlookers:
            for _ in onlookers.rounds(self.rounds):
                backend.move(f"{root}/one", f"{root}/two")
                backend.move(f"{root}/two", f"{root}/one")
        assert all(listed in trees for listed in onlookers.seen)
