"""Targets of a fuzzer that follows coverage; see ``fuzzing.py``.

Each takes any bytes. A value may come of them, or one of our errors; anything else is a finding, as
are a signal, a lack of memory and a minute without an end.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from polystore import DiskBackend, StorageError
from polystore.serialization import seal
from polystore_ray import RayBackendRegistry
from polystore_ray.controller.state import StoreController
from polystore_ray.dumps import dump, restore, verify
from polystore_ray.dumps.files import files_at
from polystore_ray.dumps.manifest import MANIFEST
from polystore_ray.interop.json_text import json_pieces
from polystore_ray.wire.decoding import decode, decode_state, encode
from polystore_ray.wire.envelope import array_message, open_message, sealed_message
from polystore_ray.wire.messages import ChangeId, Found, Items, Pin, Request
from polystore_ray.wire.pack import Pack
from polystore_ray.wire.plain_pickle import plain_loads

Target = Callable[[bytes], None]

BUFFERS = (bytes(range(256)), b"", b"A" * 16, np.arange(8, dtype=np.uint32), bytes(8))
RECORDS = np.zeros(2, [("a", "i4"), ("b", "M8[s]", (2,))])
ARRAYS = [np.arange(4, dtype=np.uint16), RECORDS, np.zeros((2, 3), ">f4", order="F")]
VALUES: list[Any] = [
    *ARRAYS,
    {"a": [1, 2.5, None, True, "é", b"y", 10**30], "b": (1, {2}), "c": frozenset([3])},
    [datetime.now(UTC), np.float32(2), np.datetime64("2020"), RECORDS[0], np.str_("x"), 1j],
    Pack.of([*ARRAYS, sealed_message(seal("x"))]),
    Pack.of([np.zeros(9000)]).without([]),
]
ITEMS = Items(["/a"], [(8, (1,), "float64")], [b"x"], fallback=("disk", "/b"))
MESSAGES = [
    Request("list_files", ("/a", None, [".npy"], True)),
    Request("publish", ([Pin("1", ("n",), None, 3)], ITEMS, (("n", "i"),)), ChangeId("s", 1, 0)),
    (Request("delete", ("/a",), ChangeId("s", 2, 1)), 1.5),
    Found([Pin("1", ("n",), None, 3)], [b"x", (0, 3)], [1, 2]),
    {"size": 1, "shape": (2,), "none": None},
]
SUFFIXES = (".npy", ".npz", ".json", ".csv", ".txt", ".tif", ".png", ".jpg")


def plain(data: bytes) -> None:
    """Open a value as the command line does, and print it."""
    for loads in (_of_head, _of_message):
        try:
            value = loads(data)
        except StorageError:
            continue
        if isinstance(value, Pack):
            for number in range(min(len(value), 9)):
                with suppress(StorageError, LookupError, TypeError, ValueError):
                    _print(value.values([number], plain_loads)[0])
        else:
            _print(value)


def _of_head(data: bytes) -> Any:
    return plain_loads(data, BUFFERS)


def _of_message(data: bytes) -> Any:
    return open_message(data, plain_loads)


def _print(value: Any) -> None:
    # The command line says in one line what has no text.
    with suppress(ValueError, SystemError, RecursionError, OverflowError):
        for _ in islice(json_pieces(value, 2), 10_000):
            pass
    if isinstance(value, np.ndarray):
        with suppress(ValueError, SystemError, OverflowError):
            str(value)


def messages(data: bytes) -> None:
    """Read a message, and a state, as other processes of the store do."""
    # Python's quick unpickler believes the number of a place in its memo. No value can choose it.
    with suppress(Exception):
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "LONG_BINPUT" and int(argument or 0) > len(data):
                return
    with suppress(StorageError):
        decode(data)
    with suppress(StorageError):
        decode_state(io.BytesIO(data))


class Decoders:
    """Load a file; its first byte chooses the format."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = DiskBackend(folder)

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        name = "a" + SUFFIXES[data[0] % len(SUFFIXES)]
        (self._folder / name).write_bytes(data[1:])
        self._disk.stat(name)
        for region in (None, 0):
            with suppress(StorageError):
                self._disk.load(name, region=region)

    def seeds(self) -> list[bytes]:
        image = ARRAYS[0].reshape(2, 2).astype(np.uint8)
        saved: dict[str, Any] = dict.fromkeys(SUFFIXES, image)
        saved |= {".npz": {"a": image}, ".json": {"a": [1]}, ".csv": [["a", 1]], ".txt": "é"}
        for suffix, value in saved.items():
            self._disk.save(value, f"seed{suffix}")
        return [
            bytes([i]) + (self._folder / f"seed{suffix}").read_bytes()
            for i, suffix in enumerate(SUFFIXES)
        ]


class Dumps:
    """Restore a dump of which one file is replaced; the first byte chooses the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "dump"
        registry = RayBackendRegistry("fuzzed-from", local=True)
        memory = registry["memory"]
        memory.save(np.zeros(9000), "/a")
        memory.save_batch([np.zeros(3000)] * 30, [f"/b/{i}" for i in range(30)], parents=True)
        memory.save("c", "/c", fallback=("disk", "/x"))
        memory.copy("/b", "/d")
        memory.create_symlink("/b", "/e")
        self._files = files_at(self._folder)
        self._manifest = dump(registry, self._folder)
        registry.shutdown()
        self._names = [MANIFEST, *(file.name for file in self._manifest.files)]
        self._whole = [bytes(self._files.read(name)) for name in self._names]

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        changed = data[0] % len(self._names)
        for number, whole in enumerate(self._whole):
            content = data[1:] if number == changed else whole
            (self._folder / self._names[number]).write_bytes(content)
        if changed:  # with right checksums, so that it is read
            described = tuple(self._files.describe(name) for name in self._names[1:])
            dataclasses.replace(self._manifest, files=described).write(self._files)
        registry = RayBackendRegistry("fuzzed-to", local=True)
        try:
            with suppress(StorageError):
                verify(self._folder)
                restore(registry, self._folder)
                registry["memory"].list_files("/", recursive=True)
        finally:
            registry.shutdown()

    def seeds(self) -> list[bytes]:
        return [bytes([number]) + whole for number, whole in enumerate(self._whole)]


def _of_plain() -> list[bytes]:
    heads = [bytes(seal(value).head) for value in VALUES]
    whole = [sealed_message(seal(value)) for value in VALUES]
    return [*heads, *whole, *map(array_message, ARRAYS)]


def _of_messages() -> list[bytes]:
    controller = StoreController(lambda _node, _ids: None)
    controller.handle(Request("publish", ([], ITEMS), ChangeId("s", 3, 2)))
    _, state = controller.parts()
    return [*map(encode, MESSAGES), b"".join(state)]


def target(name: str, folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target by its name, and whole examples of what it takes."""
    if name == "plain":
        return plain, _of_plain()
    if name == "messages":
        return messages, _of_messages()
    made: Decoders | Dumps = Dumps(folder) if name == "dumps" else Decoders(folder)
    return made, made.seeds()


NAMES = ("plain", "messages", "decoders", "dumps")
