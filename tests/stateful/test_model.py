"""Random sequences of every operation, on every backend, compared with the plain model."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from s3_server import s3_server

from polystore import DiskBackend, MemoryBackend, ZarrBackend
from polystore.testing.stateful import OpenBackend, check_sequences
from polystore_ray import RayBackendRegistry


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


def _url(place: str, options: Any = None) -> AbstractContextManager[tuple[Any, str]]:
    return nullcontext((ZarrBackend(place, storage_options=options), ""))


BACKENDS: dict[str, OpenBackend] = {
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

    def count(taken: int) -> None:
        done[f"sequences on {kind}"] += 1
        done[f"steps on {kind}"] += taken

    links = kind not in LINKLESS
    check_sequences(BACKENDS[kind], links=links, examples=examples, steps=steps, done=count)
