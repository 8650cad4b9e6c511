"""Methods of the cluster memory that copy many values: from where they are, to where they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polystore.base import StorageBackend
from polystore.progress import Progress
from polystore.transfer.copying import load_and_save
from polystore.transfer.proxies import Pairs, Receiver, Rows
from polystore.transfer.stacking import save_rows
from polystore_ray.client.lookup import nodes_of, texts_of

__all__ = ["send", "send_rows"]


def send(
    self: Any, target: StorageBackend, pairs: Pairs, progress: Progress = None, **options: Any
) -> None:
    """Copy values to another backend; see `polystore.transfer.proxies`."""
    # A host opens any value.
    if isinstance(target, Receiver) and self._read is None:
        target.receive(self, pairs, progress, **options)
    else:
        load_and_save(self, target, pairs, progress, **options)


def send_rows(self: Any, target: StorageBackend, parts: Sequence[Rows]) -> Iterator[Rows]:
    """Copy values into rows of arrays, from where they are; yield the parts that are done."""
    transport = self._connect()
    found = nodes_of(transport, texts_of([rows.paths[0] for rows in parts]))
    tasks = [
        (nodes, save_rows, (self, target, rows)) for nodes, rows in zip(found, parts, strict=True)
    ]
    for rows, _ in zip(parts, transport.run(tasks, {}), strict=True):
        yield rows
