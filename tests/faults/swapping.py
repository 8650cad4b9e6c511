"""Somebody who may write below a root, and exchanges what is there for links that lead out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.temporaries import PREFIX, exchange


@contextmanager
def swapping(root: Path, outside: Path, *, chunks: Path, others: Path) -> Iterator[None]:
    """Exchange directories below a root for links, time and again, as long as the block runs.

    These are ``d`` for one to `outside`, the chunks of the array ``d/array`` for one to `chunks`,
    and every temporary that shows in ``d`` for one to `others`.
    """
    (root / "link").symlink_to(outside)
    (root / "chunks").symlink_to(chunks)
    # Held open, or the swaps would meet each other and themselves leave the root.
    top, array = Handle.at(str(root)), Handle.at(str(root / "d/array"))
    pairs = [
        (top.location("d"), top.location("link")),
        (array.location("c"), top.location("chunks")),
    ]
    done = threading.Event()

    def swap(one: Location, other: Location) -> None:
        while not done.is_set():
            with suppress(OSError):
                exchange(one, other)
            done.wait(0.0005)

    def take_temporaries() -> None:
        number = 0
        while not done.is_set():
            with suppress(OSError):
                for name in os.listdir(root / "t"):
                    if name.startswith(PREFIX) and not (root / "t" / name).is_symlink():
                        number += 1
                        os.rename(root / "t" / name, root / f"aside{number}")
                        os.symlink(others, root / "t" / name)
            done.wait(0.0001)

    threads = [threading.Thread(target=swap, args=pair) for pair in pairs]
    threads.append(threading.Thread(target=take_temporaries))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
        top.close()
        array.close()
