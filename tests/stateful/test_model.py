"""Random sequences of every operation, on every backend, compared with the plain model."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import Model, Names
from s3_server import s3_server

from polystore import DiskBackend, MemoryBackend, StorageError, ZarrBackend
from polystore_ray import RayBackendRegistry

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
    """Return what a call returns, or the type of the error that it raises, and its words."""
    try:
        return call(), ""
    except StorageError as error:
        return type(error), str(error)


class Machine(RuleBasedStateMachine):
    """Do the same to a backend and to the model, and compare what comes of it."""

    def __init__(self, kind: str, done: Counter[str]) -> None:
        super().__init__()
        self.kind, self.done, self.links = kind, done, kind not in LINKLESS
        self.steps = -1  # the tree is compared before the first one too
        self.opened = BACKENDS[kind]()
        self.backend, self.top = self.opened.__enter__()
        self.model = Model()

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        self.done[f"sequences on {self.kind}"] += 1
        self.done[f"steps on {self.kind}"] += max(0, self.steps)

    def path(self, names: Names, between: str = "/") -> str:
        return self.top + "".join(between + name for name in names)

    def same(self, ours: Callable[[], Any], models: Callable[[], Any]) -> None:
        """Compare what two calls return, or the types of what they raise."""
        expected, _ = outcome(models)
        found, said = outcome(ours)
        assert found == expected, said

    # Asking

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


Opened = AbstractContextManager[tuple[Any, str]]


@contextmanager
def _in_place(cls: Any) -> Iterator[tuple[Any, str]]:
    with TemporaryDirectory() as top:
        yield cls(), top


@contextmanager
def _rooted(cls: Any) -> Iterator[tuple[Any, str]]:
    with TemporaryDirectory() as root:
        yield cls(root), ""


@contextmanager
def _shared(key: str, *, local: bool) -> Iterator[tuple[Any, str]]:
    backend = RayBackendRegistry("stateful", local=local)[key]
    if key == "memory":
        top = str(backend.ensure_directory(f"/{uuid.uuid4().hex}"))
        yield backend, top
        backend.delete_all(top)
    else:
        with TemporaryDirectory() as top:
            yield backend, top


def _url(place: str, options: Any = None) -> Opened:
    return nullcontext((ZarrBackend(place, storage_options=options), ""))


BACKENDS: dict[str, Callable[[], Opened]] = {
    "memory": lambda: nullcontext((MemoryBackend(), "")),
    "disk": lambda: _in_place(DiskBackend),
    "rooted disk": lambda: _rooted(DiskBackend),
    "zarr": lambda: _in_place(ZarrBackend),
    "rooted zarr": lambda: _rooted(ZarrBackend),
    "local memory": lambda: _shared("memory", local=True),
    "local disk": lambda: _shared("disk", local=True),
    "local zarr": lambda: _shared("zarr", local=True),
    "memory on Ray": lambda: _shared("memory", local=False),
    "disk on Ray": lambda: _shared("disk", local=False),
    "zarr on Ray": lambda: _shared("zarr", local=False),
    "zarr in memory://": lambda: _url(f"memory://{uuid.uuid4().hex}"),
    "zarr on S3": lambda: _url(s3_server().place(), s3_server().options),
}
LINKLESS = ("zarr in memory://", "zarr on S3")


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_sequence_does_what_the_model_does(
    kind: str, request: pytest.FixtureRequest, done: Counter[str], soaking: bool
) -> None:
    if "Ray" in kind:
        request.getfixturevalue("ray_cluster")
    # A sequence is worth many single examples of other tests.
    examples, steps = max(60, settings().max_examples // 10), settings().stateful_step_count
    if not soaking:  # a request takes time
        examples //= {"zarr on S3": 30, "zarr in memory://": 3}.get(kind, 1)
        steps //= 3 if kind == "zarr on S3" else 1
    machine: Any = lambda: Machine(kind, done)  # noqa: E731 - it wants a class
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps)
    )
