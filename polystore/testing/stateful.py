"""Random sequences of all operations on a backend, compared with a plain model.

This module needs hypothesis; the rest of the kit does not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from polystore.exceptions import StorageError
from polystore.testing.model import Model, Names

__all__ = ["Machine", "OpenBackend", "check_sequences"]

OpenBackend = Callable[[], AbstractContextManager[tuple[Any, str]]]
"""Returns a context manager that gives a backend, and the path of an empty directory of it."""

AWKWARD = [
    "a",
    "A",
    "b",
    "with space",
    "é",
    "e\u0301",
    "r5\u00b20.txt",
    "...",
    ".hidden",
    "-rf",
    "*?[a]",
    "back\\slash",
    "two\nlines",
    "日本",
    "x" * 150,
    "a.npy",
]
SUFFIX = ".npy"  # of files, so that a backend that chooses by it chooses arrays

NAME = st.sampled_from(["a", "b", "é"] * 5 + AWKWARD)  # few of them meet often
DIRECTORY = st.lists(NAME, min_size=1, max_size=3).map(tuple)
FILE = st.tuples(st.lists(NAME, max_size=2), NAME).map(lambda p: (*p[0], p[1] + SUFFIX))
PATH = st.one_of(DIRECTORY, FILE)
VALUE = st.integers(0, 99)
FLAG = st.booleans()
SPELLING = st.sampled_from(["/", "//", "/./"])


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a call, or the type and the text of the error that it raises."""
    try:
        return call(), ""
    except StorageError as error:
        return type(error), str(error)


class Machine(RuleBasedStateMachine):
    """Do the same to a backend and to the model, and compare the results.

    Parameters
    ----------
    open_backend, links, regions, done
        As for `check_sequences`.
    """

    def __init__(
        self,
        open_backend: OpenBackend,
        *,
        links: bool = True,
        regions: bool = True,
        done: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self.links, self.regions, self.done = links, regions, done
        self.steps = -1  # the trees are compared before the first step too
        self.opened = open_backend()
        self.backend, self.top = self.opened.__enter__()
        self.model = Model()

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        self.done(max(0, self.steps))

    def path(self, names: Names, between: str = "/") -> str:
        return self.top + "".join(between + name for name in names)

    def same(self, ours: Callable[[], Any], models: Callable[[], Any]) -> None:
        """Compare the results of two calls, or the types of their errors."""
        expected, _ = outcome(models)
        found, said = outcome(ours)
        assert found == expected, said

    # Reading

    @rule(path=PATH, between=SPELLING)
    def ask(self, path: Names, between: str) -> None:
        text = self.path(path, between)
        for question in ("exists", "is_file", "is_dir", "is_symlink"):
            self.same(
                partial(getattr(self.backend, question), text),
                partial(getattr(self.model, question), path),
            )
        facts = self.backend.stat(text)
        assert (facts["type"], facts["exists"]) == self.model.stat(path)

    @rule(path=PATH, between=SPELLING)
    def load(self, path: Names, between: str) -> None:
        self.same(
            lambda: int(self.backend.load(self.path(path, between))[0]),
            lambda: self.model.load(path),
        )

    @rule(paths=st.lists(FILE, max_size=3))
    def load_batch(self, paths: list[Names]) -> None:
        self.same(
            lambda: [int(v[0]) for v in self.backend.load_batch([*map(self.path, paths)])],
            lambda: [self.model.load(path) for path in paths],
        )

    @rule(path=PATH)
    def list_dir(self, path: Names) -> None:
        self.same(lambda: self.backend.list_dir(self.path(path)), lambda: self.model.list_dir(path))

    @rule(path=PATH, pattern=st.sampled_from([None, "a*", "*.txt.npy"]), recursive=FLAG)
    def list_files(self, path: Names, pattern: str | None, recursive: bool) -> None:
        self.same(
            lambda: self.backend.list_files(self.path(path), pattern, None, recursive),
            lambda: [self.path(p) for p in self.model.list_files(path, pattern, recursive)],
        )

    # Changing

    @rule(value=VALUE, path=FILE, overwrite=FLAG, parents=FLAG, between=SPELLING)
    def save(self, value: int, path: Names, overwrite: bool, parents: bool, between: str) -> None:
        options = {"overwrite": overwrite, "parents": parents}
        self.same(
            lambda: self.backend.save(np.array([value]), self.path(path, between), **options),
            lambda: self.model.save(value, path, **options),
        )

    @rule(value=VALUE, paths=st.lists(FILE, max_size=3), overwrite=FLAG, parents=FLAG)
    def save_batch(self, value: int, paths: list[Names], overwrite: bool, parents: bool) -> None:
        values = [value + i for i in range(len(paths))]
        options = {"overwrite": overwrite, "parents": parents}
        self.same(
            lambda: self.backend.save_batch(
                [np.array([v]) for v in values], [*map(self.path, paths)], **options
            ),
            lambda: self.model.save_batch(values, paths, **options),
        )

    @precondition(lambda self: self.regions)
    @rule(value=VALUE, path=FILE)
    def save_region(self, value: int, path: Names) -> None:
        def models() -> None:
            self.model.load(path)
            self.model.save(value, path, overwrite=True, parents=False)

        self.same(lambda: self.backend.save(value, self.path(path), region=0), models)

    @rule(path=PATH)
    def ensure_directory(self, path: Names) -> None:
        def models() -> str:
            self.model.ensure_directory(path)
            return self.path(path)

        self.same(lambda: self.backend.ensure_directory(self.path(path)), models)

    @rule(path=PATH, between=SPELLING)
    def delete(self, path: Names, between: str) -> None:
        self.same(
            lambda: self.backend.delete(self.path(path, between)), lambda: self.model.delete(path)
        )

    @rule(path=PATH)
    def delete_all(self, path: Names) -> None:
        self.same(
            lambda: self.backend.delete_all(self.path(path)), lambda: self.model.delete_all(path)
        )

    @rule(source=PATH, destination=PATH, operation=st.sampled_from(["copy", "move"]))
    def transfer(self, source: Names, destination: Names, operation: str) -> None:
        self.same(
            lambda: getattr(self.backend, operation)(self.path(source), self.path(destination)),
            lambda: getattr(self.model, operation)(source, destination),
        )

    @precondition(lambda self: self.links)
    @rule(source=PATH, link=PATH, overwrite=FLAG)
    def create_symlink(self, source: Names, link: Names, overwrite: bool) -> None:
        self.same(
            lambda: self.backend.create_symlink(
                self.path(source), self.path(link), overwrite=overwrite
            ),
            lambda: self.model.create_symlink(source, link, overwrite=overwrite),
        )

    @invariant()
    def whole_trees_are_equal(self) -> None:
        self.steps += 1
        top: Names = ()
        assert self.backend.list_dir(self.top or "/") == self.model.list_dir(top)
        found = self.backend.list_files(self.top or "/", recursive=True)
        assert found == [self.path(path) for path in self.model.list_files(top, None, True)]


def check_sequences(
    open_backend: OpenBackend,
    *,
    links: bool = True,
    regions: bool = True,
    examples: int = 60,
    steps: int = 30,
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Run random sequences of operations on a backend, and compare each result with a model.

    The sequences use `load`, `load_batch`, the questions, the listings, `save`, `save_batch`,
    `ensure_directory`, `delete`, `delete_all`, `copy` and `move`, on arrays whose names end with
    ``.npy``. If a result differs, hypothesis reports the shortest sequence that it finds.

    Parameters
    ----------
    open_backend : callable
        Called for each sequence. Returns a context manager that gives the backend and the path of
        an empty directory, without a slash at its end: "" for the root of a virtual tree.
    links : bool, default True
        Whether the sequences create links.
    regions : bool, default True
        Whether the sequences save regions of arrays.
    examples, steps : int
        The number of sequences, and the largest number of operations in each.
    done : callable, optional
        Called with the number of operations after each sequence.

    Raises
    ------
    AssertionError
        If a result differs from that of the model.

    Examples
    --------
    >>> from contextlib import nullcontext
    >>> from polystore import MemoryBackend
    >>> from polystore.testing.stateful import check_sequences
    >>> check_sequences(lambda: nullcontext((MemoryBackend(), "")), examples=5)
    """
    machine: Any = partial(Machine, open_backend, links=links, regions=regions, done=done)
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=limits)
