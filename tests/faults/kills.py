"""Kill processes at every step of an operation, or at any time, and look at what is left.

A script: ``kills.py steps KIND FOLDER STRIDE SEED`` or ``kills.py storm KIND FOLDER KILLS SEED``.
It prints how many processes it killed, as JSON. It imports everything first and starts no thread,
so that it can fork.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.ma
import tifffile
from killing import killed_after, killed_at, run
from operations import generation, operations_of
from watching import (
    KINDS,
    a_later_save_sweeps,
    document,
    image,
    make,
    no_listing_shows_a_temporary,
)

import polystore.formats.images
from polystore import PathNotFoundError
from polystore.formats import format_of

# Or each child would import them, and look for plug-ins.
READY = (numpy.ma, tifffile, polystore.formats.images, format_of("a.npy"))

MOST_STEPS = 1000
LARGEST_FILE = 2**26  # bytes; a mistake fills no disk


# At each step


def steps(kind: str, folder: str, stride: int, seed: int) -> dict[str, int]:
    """Kill each operation at its steps, from one of the first on."""
    rng = random.Random(seed)
    return {
        name: _killed_at_steps(kind, name, folder, range(rng.randrange(stride), MOST_STEPS, stride))
        for name in operations_of(kind)
    }


def _killed_at_steps(kind: str, name: str, folder: str, chosen: Iterable[int]) -> int:
    """Kill an operation at each of these steps, until it ends before it is killed."""
    operation = operations_of(kind)[name]
    top = f"{folder}/{name}"

    def begin() -> None:
        operation.before(make(kind, top))

    def check() -> None:
        tree = KINDS[kind](top)
        no_listing_shows_a_temporary(tree)
        operation.check(tree)
        a_later_save_sweeps(tree)
        operation.check(tree)

    for kills, step in enumerate(chosen):
        run(begin)
        killed = killed_at(step, lambda: operation.do(KINDS[kind](top)))
        try:
            run(check)
        except AssertionError as error:
            raise AssertionError(f"{kind}, {name}: killed at step {step}, see {top}") from error
        shutil.rmtree(top)
        if not killed:
            return kills
    raise AssertionError(f"{kind}, {name}: it never ends")


# At any time


SUFFIXES = {"disk": (".npy", ".tif", ".json"), "zarr": (".npy", "", ".json")}
PATHS = 30
SAVES = 1000


def save_on_and_on(kind: str, top: str, seed: int) -> None:
    """Save to new and old paths, and write down what begins and what is acknowledged."""
    tree, rng = KINDS[kind](top), random.Random(seed)
    log = os.open(_log(top), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, path: str, number: int | None) -> None:
        os.write(log, f"{json.dumps([what, path, number])}\n".encode())

    for count in range(SAVES):
        which, number = rng.randrange(PATHS), count % 250
        suffix = SUFFIXES[kind.removeprefix("rooted ")][which % 3]
        path = f"d{which % 4}/{which}{suffix}"
        if count % 7 == 0:  # it is a new path from time to time
            note("begun", path, None)
            with suppress(PathNotFoundError):
                tree.backend.delete(tree.path(path))
            note("done", path, None)
        value: Any = image(number, rng.choice((1, 60, 9000)))
        if suffix == ".json":
            value = document(number, rng.choice((1, 20_000)))
        note("begun", path, number)
        tree.backend.save(value, tree.path(path), overwrite=True, parents=True)
        note("done", path, number)


def _log(top: str) -> Path:
    return Path(f"{top}.log")


def check_storm(kind: str, top: str) -> None:
    """Find at each path what was acknowledged last, or what was begun after it."""
    tree = KINDS[kind](top)
    no_listing_shows_a_temporary(tree)
    allowed: dict[str, list[int | None]] = {}
    for line in _log(top).read_text().splitlines():
        what, path, number = json.loads(line)
        if what == "done":
            allowed[path] = [number]
        else:
            allowed.setdefault(path, [None]).append(number)
    found = {path: generation(tree, path) for path in allowed}
    for path, number in found.items():
        assert number in allowed[path], f"{path}: {number} is not of {allowed[path]}"
    # Where the next process begins.
    lines = [json.dumps(["done", path, number]) for path, number in found.items()]
    _log(top).write_text("\n".join([*lines, ""]))


def storm(kind: str, folder: str, kills: int, seed: int) -> int:
    """Kill processes amid a thousand saves, each where the one before was killed."""
    rng, top = random.Random(seed), f"{folder}/storm"
    run(make, kind, top)
    starting = 0.15 if "zarr" in kind else 0.0  # seconds, for zarr's own threads
    killed = 0
    while killed < kills:
        patience = starting + rng.uniform(0, 0.25)
        killed += killed_after(patience, save_on_and_on, kind, top, rng.getrandbits(32))
        if _log(top).exists():  # or it was killed before it began
            run(check_storm, kind, top)
    run(lambda: a_later_save_sweeps(KINDS[kind](top)))
    return killed


def main(command: str, kind: str, folder: str, amount: str, seed: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    if command == "steps":
        counted = steps(kind, folder, int(amount), int(seed))
    else:
        counted = {"a thousand saves": storm(kind, folder, int(amount), int(seed))}
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main(*sys.argv[1:])
